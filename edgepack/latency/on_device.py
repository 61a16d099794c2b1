"""The artifacts of a pack on a device: first whether they answer right there, then how fast, then against those of an older pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

import edgepack
from edgepack.arrays import Arrays, load_arrays
from edgepack.backends.artifact import ArtifactDescription
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, artifact_feed, hub_arrays
from edgepack.devices.session import Outcome, Session
from edgepack.latency import environment
from edgepack.latency.compare import PAIRS, Pairs, compare
from edgepack.latency.gate import EMULATED, matches
from edgepack.latency.protocol import Profile
from edgepack.latency.roofline import Work, beaten, floor_ms, work_of
from edgepack.latency.timing import Artifacts, latencies, time_artifacts
from edgepack.pack.digest import intact
from edgepack.pack.files import PackError
from edgepack.pack.manifest import SCHEMA, ArtifactRecord, Comparison, Latency, Measurement, OutputParity, Pack, Parity, Truth
from edgepack.pack.run import refuse_other_files
from edgepack.targets import Target
from edgepack.text import cleaned
from edgepack.verify import metrics
from edgepack.verify.judge import WORST_DB, WORST_ERROR, judge_parity

# How two packs are told apart in one run.
_NEW, _OLD = "new", "old"


@dataclass(frozen=True)
class Bench:
    """What is asked.

    Attributes:
        threads: of the runtime. margin: how much slower or faster than the older pack counts, 0.03 is 3 %.
    """

    profile: Profile
    threads: int = 1
    margin: float = 0.03


@dataclass(frozen=True)
class OpenPack:
    """A pack on disk with its golden samples, stacked, in the student's terms."""

    folder: Path
    manifest: Pack
    golden: Arrays
    reference: Arrays

    @classmethod
    def at(cls, folder: Path, manifest: Pack) -> OpenPack:
        """Open it; PackError when its golden samples are not those that were recorded."""
        golden = Samples.open(intact(folder, manifest.golden_inputs)).arrays
        return cls(folder, manifest, golden, load_arrays(intact(folder, manifest.golden_reference)))

    @cached_property
    def work(self) -> Work:
        """What one query of the fp32 hub computes."""
        return work_of(intact(self.folder, next(hub.file for hub in self.manifest.hubs if hub.scheme == "fp32")))

    def file(self, artifact: ArtifactRecord) -> tuple[Path, ArtifactDescription]:
        """An artifact as it was verified; PackError when it is not, or reads other files."""
        path = intact(self.folder, artifact.file)
        refuse_other_files(path, artifact.runner)
        return path, ArtifactDescription(artifact.file.path, artifact.inputs, artifact.outputs, artifact.runner)

    def target(self, artifact: ArtifactRecord) -> Target | None:
        """The artifact's target as it was when the pack was built."""
        return next((target for target in self.manifest.targets if target.name == artifact.target), None)


@dataclass(frozen=True)
class _Answered:
    """One artifact's answers on the device."""

    artifact: ArtifactRecord
    parity: Parity
    failures: tuple[str, ...]
    peak_bytes: int
    truth: Truth
    device: dict[str, str]


def measure_on(
    session: Session, pack: OpenPack, artifacts: Sequence[ArtifactRecord], asked: Bench, limits: Limits, old: OpenPack | None = None
) -> list[Measurement]:
    """Measure artifacts of a pack, those of one target and runtime interleaved.

    Args:
        artifacts: of portable runners, in the pack's order.
        limits: of a runner, beside the profile's own time.
        old: a pack whose artifacts of the same target and scheme are compared with these.

    Raises:
        PackError: a file of a pack is not the one that was verified. RunnerError, TransportError: a runner or the connection failed.
    """
    found = []
    for _, group in groupby(artifacts, key=lambda artifact: (artifact.target, artifact.runner)):
        answered = [_answer(session, pack, artifact, asked.threads, limits) for artifact in group]
        timed = _times(session, pack, [each.artifact for each in answered if not each.failures], asked, limits, answered[0].truth)
        for each in answered:
            # The emulator's times are no speed of either.
            comparable = old is not None and not each.failures and each.truth != "emulated"
            against = _against(session, pack, old, each.artifact, asked, limits) if comparable and old is not None else None
            found.append(_measurement(each, timed.get(each.artifact.scheme), against))
    return found


def _measurement(answered: _Answered, latency: Latency | None, comparison: Comparison | None) -> Measurement:
    """The record; what a device says of itself is a stranger's words, and becomes plain text here."""
    made = Measurement(
        schema=SCHEMA,
        edgepack=edgepack.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        target=answered.artifact.target,
        scheme=answered.artifact.scheme,
        artifact=answered.artifact.file.sha256,
        device=answered.device,
        truth=answered.truth,
        parity=answered.parity,
        failures=answered.failures,
        latency=latency,
        memory_peak_bytes=answered.peak_bytes,
        comparison=comparison,
    )
    return cleaned(made)


def _answer(session: Session, pack: OpenPack, artifact: ArtifactRecord, threads: int, limits: Limits) -> _Answered:
    """The golden inputs through an artifact there, judged by the floors that the pack holds it to."""
    path, described = pack.file(artifact)
    request = Request("run", {}, "", "", threads)
    outcome = session.run(artifact.runner, request, {"artifact": path}, artifact_feed(pack.golden, described.inputs), limits)
    device = _device(session, outcome)
    truth = truth_of(session, device, pack.target(artifact))
    try:
        outputs = hub_arrays(outcome.arrays, described.outputs)
        parity = Parity(truth, len(next(iter(outputs.values()))), parity_of_outputs(pack, artifact, outputs))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise PackError(f"{artifact.file.path} does not answer as the manifest says ({error})", "build the pack again") from error
    failures = judge_parity(parity, artifact.target, artifact.scheme)
    return _Answered(artifact, parity, failures, outcome.ending.peak_bytes, truth, device)


def _device(session: Session, outcome: Outcome) -> dict[str, str]:
    runtime = f"{outcome.response.runtime} {outcome.response.version}"
    return {**environment.words(session.facts, outcome.ending.states[0]), "runtime": runtime}


def truth_of(session: Session, device: Mapping[str, str], target: Target | None) -> Truth:
    """What kind of truth a device gives about a target; "measured" only where it is the one that the target stands for."""
    if session.transport.emulated or EMULATED in device.get("board", ""):
        return "emulated"
    return "measured" if target is not None and matches(target.hardware, device) else "host"


def parity_of_outputs(pack: OpenPack, artifact: ArtifactRecord, outputs: Arrays) -> tuple[OutputParity, ...]:
    """An artifact's answers to the golden inputs, in the student's terms, against the float64 run, by the floors it was built with.

    Raises:
        KeyError, ValueError: an output is missing, or of another shape.
    """
    return tuple(_output(held, outputs, pack) for held in artifact.parity.outputs)


def _output(held: OutputParity, outputs: Arrays, pack: OpenPack) -> OutputParity:
    """One output against the float64 run, beside the floor it was built with."""
    reference, actual = pack.reference[held.name], np.asarray(outputs[held.name])
    decibels = metrics.sqnr_db(reference, actual)
    return msgspec.structs.replace(
        held,
        sqnr_db=None if decibels == np.inf else max(decibels, WORST_DB),
        max_abs_error=min(metrics.max_abs_error(reference, actual), WORST_ERROR),
        cosine=metrics.cosine(reference, actual),
        to_student_sqnr_db=None,
        non_finite=metrics.non_finite(actual),
    )


def _times(
    session: Session, pack: OpenPack, artifacts: Sequence[ArtifactRecord], asked: Bench, limits: Limits, truth: Truth
) -> Mapping[str, Latency]:
    """Scheme -> latency, of artifacts that answered right."""
    if not artifacts:
        return {}
    files: Artifacts = {artifact.scheme: pack.file(artifact) for artifact in artifacts}
    outcome = time_artifacts(session, files, pack.golden, asked.profile, limits, asked.threads)
    found = latencies(session, outcome, files, asked.profile, truth)
    return {artifact.scheme: _with_floor(found[artifact.scheme], pack, artifact, asked.threads) for artifact in artifacts}


def _with_floor(latency: Latency, pack: OpenPack, artifact: ArtifactRecord, threads: int) -> Latency:
    """Beside what the target's hardware allows at most; a measured time below it is none."""
    target = pack.target(artifact)
    floor = None if target is None else floor_ms(pack.work, artifact, target, threads)
    held = msgspec.structs.replace(latency, floor_ms=floor)
    spoiled = beaten(held) if held.truth == "measured" else ""
    return msgspec.structs.replace(held, invalid=(*held.invalid, spoiled)) if spoiled else held


def _against(session: Session, new: OpenPack, old: OpenPack, artifact: ArtifactRecord, asked: Bench, limits: Limits) -> Comparison | None:
    """An artifact against the older pack's, interleaved; None when that has none of the same target and scheme."""
    other = next((each for each in old.manifest.artifacts if (each.target, each.scheme) == (artifact.target, artifact.scheme)), None)
    if other is None:
        return None
    if other.inputs != artifact.inputs:
        raise PackError(
            f"the older pack's {other.target} {other.scheme} takes other inputs", "compare packs of students with the same inputs"
        )
    files: Artifacts = {_OLD: old.file(other), _NEW: new.file(artifact)}
    more = partial(_pairs, session, files, new.golden, asked, limits)
    return compare(more, asked.margin, asked.threads, max(asked.profile.pairs, PAIRS)).against(other.file.sha256)


def _pairs(session: Session, files: Artifacts, golden: Arrays, asked: Bench, limits: Limits, pairs: int) -> Pairs:
    outcome = time_artifacts(session, files, golden, asked.profile, limits, asked.threads, pairs)
    return Pairs(outcome.arrays[_OLD], outcome.arrays[_NEW])
