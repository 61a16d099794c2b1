"""The whole road: plan, run, time, assemble. What the command line and ``edgepack.build`` both call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

from edgepack.arrays import Arrays
from edgepack.calibration.readers import Samples
from edgepack.converter.digest import digest_of
from edgepack.converter.execute import Manner, Results, execute
from edgepack.converter.forecast import parts_of
from edgepack.converter.pipeline import Branch, BuildRequest, pipeline
from edgepack.converter.process import Watcher
from edgepack.converter.step import Limits
from edgepack.converter.store import BuildRecord, opened, trim
from edgepack.latency.protocol import Profile
from edgepack.latency.timing import measure
from edgepack.pack.assemble import Assembler, wanted_of
from edgepack.pack.files import replacing
from edgepack.pack.manifest import Latency, Pack
from edgepack.pack.reported import carry_measurements, write_report
from edgepack.runner.bundle import PORTABLE

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Timing:
    """How latency is taken: ``profile`` None for not at all; ``threads`` of the runtime."""

    profile: Profile | None
    threads: int = 1


@dataclass(frozen=True)
class Keeping:
    """Where results are kept (``store``; None: nowhere), how the steps run, and who is told when they cannot be kept."""

    store: Path | None
    manner: Manner = field(default_factory=Manner)
    warn: Callable[[str], None] = lambda _: None


def build_pack(request: BuildRequest, out: Path, timing: Timing, watcher: Watcher, tell: Tell, keeping: Keeping) -> Pack:
    """Build, verify, time and pack.

    Args:
        out: the pack's folder; replaced whole when it is a pack already, but for measurements of artifacts that stay the same, byte
            for byte; refused when it is anything else.
        watcher: told of steps; ``tell`` of timing, as (what, done, total).

    Returns:
        The manifest. Artifacts that failed a gate are in it, with their failures; the caller decides the exit code.

    Raises:
        EdgepackError: a step refused or crashed; nothing is left at ``out``, and what was finished stays in the store.
    """
    with replacing(out, carry_measurements) as pack, opened(keeping.store) as store:
        if not store.is_writable:
            keeping.warn(f"the store {store.root} cannot be written: what it holds is used, and new results are not kept")
        steps = pipeline(request)
        results = execute(steps.plan, store, watcher, keeping.manner, wanted_of(steps))
        store.record_build(build_name(request.student, out), as_record(results))
        assembler = Assembler(steps, results, pack)
        golden = Samples.open(results.path(steps.samples["golden.npz"])).arrays
        manifest = assembler.assemble(_latencies(assembler, steps.branches, golden, timing, request.limits, tell))
        write_report(pack, manifest)
    if keeping.store is not None:
        trim(keeping.store)
    return manifest


def build_name(student: str, out: Path) -> str:
    """What the record of the last build of a student into a pack is called."""
    return digest_of(str(Path(student).resolve()), str(out.resolve()))


def as_record(results: Results) -> BuildRecord:
    """The keys of every step, with their parts."""
    return BuildRecord({name: parts_of(name, results) for name in results.entries})


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
        timed = measure(artifacts, golden, timing.profile, limits, timing.threads, partial(tell, f"timing {target}"))
        found.update({(target, scheme): latency for scheme, latency in timed.items()})
    return found
