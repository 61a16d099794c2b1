"""Latency on this machine, truth kind ``host``: all schemes of one target in one interleaved run, with nothing beside it."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from edgepack.arrays import Arrays, load_arrays, save_arrays
from edgepack.backends.artifact import ArtifactDescription
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, artifact_feed, run_local
from edgepack.latency.environment import record
from edgepack.latency.protocol import Profile, summarize
from edgepack.pack.manifest import Latency

# The label every ratio is against.
_BASELINE = "fp32"


def measure(
    artifacts: Mapping[str, tuple[Path, ArtifactDescription]],
    golden: Arrays,
    profile: Profile,
    limits: Limits,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Latency]:
    """Time artifacts of one runtime against each other.

    Args:
        artifacts: scheme -> (file, description); they share a runner and their inputs.
        golden: stacked samples in the student's terms; the first is what every query computes.
        threads: of the runtime, >= 1.

    Raises:
        RunnerError: the runner failed.
    """
    described = next(iter(artifacts.values()))[1]
    with tempfile.TemporaryDirectory() as scratch, alone():
        folder = Path(scratch)
        save_arrays(folder / "inputs.npz", artifact_feed({name: array[:1] for name, array in golden.items()}, described.inputs))
        request = Request(
            "time",
            {scheme: str(path) for scheme, (path, _) in artifacts.items()},
            str(folder / "inputs.npz"),
            str(folder / "samples.npz"),
            threads,
            profile.warm_up,
            profile.pairs,
            profile.seconds,
            profile.warm_up_seconds,
        )
        environment = record()
        response = run_local(described.runner, request, folder, limits, progress)
        samples = load_arrays(folder / "samples.npz")
    facts = {**environment, "runtime": f"{response.runtime} {response.version}"}
    answer = msgspec.to_builtins(response)
    baseline = _BASELINE if _BASELINE in artifacts else None
    return {
        scheme: summarize(
            samples,
            answer,
            label=scheme,
            baseline=None if scheme == baseline else baseline,
            truth="host",
            environment=facts,
            profile=profile.name,
        )
        for scheme in artifacts
    }


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other edgepack on this machine, of any user, is timing, and keeps others waiting."""
    with _lock_file(Path(tempfile.gettempdir()) / "edgepack-timing.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lock_file(path: Path) -> IO[str]:
    """Opened for reading, which is enough to lock and which a file of another user allows; made when it is not there."""
    try:
        return path.open()
    except FileNotFoundError:
        path.touch(mode=0o644)
        return path.open()
