"""Latency on any device: artifacts of one runtime in one interleaved run, nothing beside it, and what the device was like meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from edgepack.arrays import Arrays
from edgepack.backends.artifact import ArtifactDescription
from edgepack.converter.step import Limits
from edgepack.devices.local import Local
from edgepack.devices.runner_process import Request, RunnerError, artifact_feed
from edgepack.devices.session import Outcome, Session, opened
from edgepack.errors import one_line
from edgepack.latency import environment
from edgepack.latency.protocol import SUSTAINED, Profile, summarize
from edgepack.pack.manifest import Latency, Truth

# The label every ratio is against.
_BASELINE = "fp32"
# A build waits for another one's timing; two minutes of it are a profile of many artifacts.
_WAIT_SECONDS = 3600.0

Artifacts = Mapping[str, tuple[Path, ArtifactDescription]]


def measure(
    artifacts: Artifacts,
    golden: Arrays,
    profile: Profile,
    limits: Limits,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Latency]:
    """Time artifacts of one runtime against each other on this machine, truth kind ``host``; waits while another edgepack is timing.

    Args:
        artifacts: scheme -> (file, description); they share a runner and their inputs.
        golden: stacked samples in the student's terms; the first is what every query computes.
        threads: of the runtime, >= 1.

    Raises:
        RunnerError: the runner failed.
    """
    told = partial(_only_timing, progress)
    otherwise = "run the same again when it has ended"
    with opened(Local(), exclusive=True, wait=_WAIT_SECONDS, progress=told, otherwise=otherwise) as session:
        outcome = time_artifacts(session, artifacts, golden, profile, limits, threads)
    return latencies(session, outcome, artifacts, profile, "host")


def _only_timing(progress: Callable[[int, int], None], what: str, done: int, total: int) -> None:
    if what == "time":
        progress(done, total)


def time_artifacts(
    session: Session, artifacts: Artifacts, golden: Arrays, profile: Profile, limits: Limits, threads: int, inner: int = 0, unit: str = ""
) -> Outcome:
    """The samples of one interleaved run on a session's device.

    Args:
        limits: of the runner, beside the seconds of the profile.
        inner: queries timed as one; 0 lets the runner choose. unit: that its runtime is asked for.

    Raises:
        RunnerError, TransportError: as ``Session.run``.
    """
    described = next(iter(artifacts.values()))[1]
    feed = artifact_feed({name: array[:1] for name, array in golden.items()}, described.inputs)
    request = Request("time", {}, "", "", threads, profile.warm_up, profile.pairs, profile.seconds, profile.warm_up_seconds, inner, unit)
    allowed = Limits(limits.seconds + profile.seconds, limits.bytes)
    return session.run(described.runner, request, {label: path for label, (path, _) in artifacts.items()}, feed, allowed)


def latencies(session: Session, outcome: Outcome, artifacts: Artifacts, profile: Profile, truth: Truth) -> dict[str, Latency]:
    """What an interleaved run says of each artifact, ratios against "fp32" where that is one of them.

    Raises:
        RunnerError, LatencyError: nothing can be made of what came back.
    """
    baseline = _BASELINE if _BASELINE in artifacts else None
    with made_of(outcome):
        return {label: latency(session, outcome, label, None if label == baseline else baseline, profile, truth) for label in artifacts}


@contextmanager
def made_of(outcome: Outcome) -> Iterator[None]:
    """What comes back from a device is a stranger's: what cannot be made of it in here is a RunnerError."""
    try:
        yield
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        said = f"nothing can be made of what the {outcome.response.runtime} runner answered ({one_line(error)})"
        raise RunnerError(said, "build the pack again, and see what else runs on the device") from error


def latency(session: Session, outcome: Outcome, label: str, baseline: str | None, profile: Profile, truth: Truth) -> Latency:
    """One artifact's record: its times, and what the device did to them."""
    spoiled, remarks = disturbances(session, outcome, profile)
    found = summarize(
        outcome.arrays,
        msgspec.to_builtins(outcome.response),
        label=label,
        baseline=baseline,
        truth=truth,
        environment=facts_of(session, outcome),
        profile=profile.name,
    )
    return msgspec.structs.replace(
        found,
        invalid=(*found.invalid, *spoiled),
        warnings=(*found.warnings, *remarks),
    )


def facts_of(session: Session, outcome: Outcome) -> dict[str, str]:
    """What the device is and what it was like before a run, and the runtime, in words."""
    known, before = msgspec.to_builtins(session.facts), msgspec.to_builtins(outcome.ending.states[0])
    facts = {**environment.words(known, before), "runtime": f"{outcome.response.runtime} {outcome.response.version}"}
    return {**facts, **({"runner": UNTRIED} if outcome.response.runtime == _CORE_ML else {})}


# What whoever reads a Mac's numbers must know of the program that took them.
_CORE_ML, UNTRIED = "Core ML", "edgepack's own, never run on a Mac by those who wrote it (docs/apple.md)"


def disturbances(session: Session, outcome: Outcome, profile: Profile) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the device did while the rounds were timed: what spoils them, and what only needs to be told."""
    known, states = msgspec.to_builtins(session.facts), msgspec.to_builtins(outcome.ending.states)
    timed, sustained = environment.during(states, outcome.response.began_s, outcome.response.ended_s), profile.name == SUSTAINED
    return environment.spoiled(known, timed, sustained=sustained), environment.remarks(known, timed, sustained=sustained)
