"""The whole road: plan, run, time, assemble. What the command line and ``edgepack.build`` both call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from edgepack.arrays import Arrays
from edgepack.calibration.readers import Samples
from edgepack.converter.execute import Watcher, Workspace, execute
from edgepack.converter.pipeline import Branch, BuildRequest, pipeline
from edgepack.converter.step import Limits
from edgepack.latency.local import measure
from edgepack.latency.protocol import Profile
from edgepack.pack.assemble import Assembler
from edgepack.pack.files import PackError, replacing
from edgepack.pack.manifest import Latency, Pack
from edgepack.pack.report import render
from edgepack.runner.bundle import PORTABLE

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Timing:
    """How latency is taken: ``profile`` None for not at all; ``threads`` of the runtime."""

    profile: Profile | None
    threads: int = 1


def build_pack(request: BuildRequest, out: Path, timing: Timing, watcher: Watcher, tell: Tell, work: Path | None = None) -> Pack:
    """Build, verify, time and pack.

    Args:
        out: the pack's folder; replaced whole when it is a pack already, refused when it is anything else.
        watcher: told of steps; ``tell`` of timing, as (what, done, total).
        work: keeps every step's files and log there; None for a folder that vanishes.

    Returns:
        The manifest. Artifacts that failed a gate are in it, with their failures; the caller decides the exit code.

    Raises:
        EdgepackError: a step refused or crashed; nothing is left at ``out``.
    """
    steps = pipeline(request)
    plan = steps.plan
    with replacing(out) as pack, _workspace(work, out) as workspace:
        execute(plan, workspace, watcher)
        assembler = Assembler(steps, workspace, pack)
        golden = Samples.open(workspace.path(steps.samples["golden.npz"])).arrays
        manifest = assembler.assemble(_latencies(assembler, steps.branches, golden, timing, request.limits, tell))
        (pack / "report.html").write_text(render(manifest), encoding="utf-8")
    return manifest


def _latencies(
    assembler: Assembler, branches: Sequence[Branch], golden: Arrays, timing: Timing, limits: Limits, tell: Tell
) -> dict[tuple[str, str], Latency]:
    """Every artifact that passed and whose runtime runs here, target by target, never two at once."""
    if timing.profile is None:
        return {}
    ready = [branch for branch in branches if branch.target.runner in PORTABLE and not assembler.failures(branch)]
    found: dict[tuple[str, str], Latency] = {}
    for target, group in groupby(ready, key=lambda branch: branch.target.name):
        artifacts = {branch.scheme: (assembler.artifact_path(branch), assembler.described(branch)) for branch in group}
        timed = measure(artifacts, golden, timing.profile, limits, timing.threads, partial(tell, target))
        found.update({(target, scheme): latency for scheme, latency in timed.items()})
    return found


@contextmanager
def _workspace(work: Path | None, out: Path) -> Iterator[Workspace]:
    """The user's own folder, or one beside the pack that vanishes."""
    if work is not None:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PackError(f"{work} cannot keep the steps' files ({error.strerror})", "choose another folder with --work") from error
        yield Workspace(work)
        return
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.work.", dir=out.resolve().parent) as folder:
        yield Workspace(Path(folder))
