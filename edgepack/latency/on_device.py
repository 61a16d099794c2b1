"""The artifacts of a pack on a device: first whether they answer right there, then how fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
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
from edgepack.devices.session import Session
from edgepack.errors import DeviceError, StepError
from edgepack.latency.gate import EMULATED, matches
from edgepack.latency.protocol import Profile
from edgepack.latency.roofline import Work, beaten, floor_ms, work_of
from edgepack.latency.timing import Artifacts, facts_of, latencies, made_of, time_artifacts
from edgepack.pack.digest import intact
from edgepack.pack.manifest import SCHEMA, ArtifactRecord, Latency, Measurement, OutputParity, Pack, Parity, Truth
from edgepack.pack.run import refuse_other_files
from edgepack.runner.coreml import UNITS
from edgepack.targets import Target
from edgepack.text import cleaned
from edgepack.verify import metrics
from edgepack.verify.judge import WORST_DB, WORST_ERROR, judge_parity

# The runner of Core ML packages, as packs name it.
CORE_ML = "mil"


@dataclass(frozen=True)
class Bench:
    """What is asked.

    Attributes:
        threads: of the runtime. margin: how much slower or faster than the older pack counts, 0.03 is 3 %.
        units: compute units that Core ML is asked for, each in a run of its own.
    """

    profile: Profile
    threads: int = 1
    margin: float = 0.03
    units: tuple[str, ...] = tuple(UNITS)


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

    def prepare(self, artifacts: Sequence[ArtifactRecord]) -> None:
        """Open everything that measuring these artifacts needs, so that a bad file is found before a device is asked.

        Raises:
            PackError: a file is not the one that was verified. ModelFileError: the hub cannot be read.
        """
        for artifact in artifacts:
            self.file(artifact)
            self.floor_ms(artifact, 1)

    @cached_property
    def _work(self) -> Work | None:
        """What one query of the fp32 hub computes; None in a pack without one."""
        hub = next((hub.file for hub in self.manifest.hubs if hub.scheme == "fp32"), None)
        return None if hub is None else work_of(intact(self.folder, hub))

    def floor_ms(self, artifact: ArtifactRecord, threads: int) -> float | None:
        """The least time of a query on the target's hardware; None where that, or the work, is not known."""
        target = self.target(artifact)
        if target is None or target.hardware is None or self._work is None:
            return None
        return floor_ms(self._work, artifact, target, threads)

    def file(self, artifact: ArtifactRecord) -> tuple[Path, ArtifactDescription]:
        """An artifact as it was verified; PackError when it is not, or reads other files."""
        path = intact(self.folder, artifact.file)
        refuse_other_files(path, artifact.runner)
        return path, ArtifactDescription(artifact.file.path, artifact.inputs, artifact.outputs, artifact.runner)

    def target(self, artifact: ArtifactRecord) -> Target | None:
        """The artifact's target as it was when the pack was built."""
        return next((target for target in self.manifest.targets if target.name == artifact.target), None)


@dataclass(frozen=True)
class Failure:
    """An artifact that could not be run (``is_of_artifact``), or schemes that could not be timed or compared, and why."""

    target: str
    scheme: str
    error: StepError
    is_of_artifact: bool = False
    unit: str = ""

    @property
    def subject(self) -> str:
        """As every list names the artifact."""
        return f"{self.target} {self.scheme}" + (f" on {self.unit}" if self.unit else "")


@dataclass(frozen=True)
class Answered:
    """One artifact's answers on the device."""

    artifact: ArtifactRecord
    parity: Parity
    failures: tuple[str, ...]
    peak_bytes: int
    truth: Truth
    device: dict[str, str]
    unit: str = ""


def measure_on(
    session: Session, pack: OpenPack, artifacts: Sequence[ArtifactRecord], asked: Bench, limits: Limits
) -> Iterator[Measurement | Failure]:
    """Measure artifacts of a pack, those of one target and runtime interleaved. What is found comes as soon as it is whole.

    A runner that fails is a failure of what it ran, and ends nothing else.

    Args:
        artifacts: of portable runners, in the pack's order.
        limits: of a runner, beside the profile's own time.

    Raises:
        PackError: a file of the pack is not the one that was verified. TransportError: the connection failed.
    """
    for _, group in groupby(artifacts, key=lambda artifact: (artifact.target, artifact.runner)):
        held = list(group)
        for unit in asked.units if held[0].runner == CORE_ML else ("",):
            yield from _measured_together(session, pack, held, asked, limits, unit)


def _measured_together(
    session: Session, pack: OpenPack, artifacts: Sequence[ArtifactRecord], asked: Bench, limits: Limits, unit: str
) -> Iterator[Measurement | Failure]:
    """The artifacts of one target and runtime: each one's answers, and then the times of those that are right."""
    found: list[Answered | Failure] = []
    timed: Mapping[str, Latency] = {}
    broken: DeviceError | None = None
    try:
        for artifact in artifacts:
            found.append(_answered(session, pack, artifact, asked.threads, limits, unit))
        timed = _times(session, pack, _right(found), asked, limits, unit)
    except StepError as error:
        found.append(Failure(artifacts[0].target, ", ".join(each.artifact.scheme for each in _right(found)), error, unit=unit))
    except DeviceError as error:
        # What was answered before the connection went is worth keeping.
        broken = error
    for each in found:
        yield each if isinstance(each, Failure) else _measurement(each, timed.get(each.artifact.scheme))
    if broken is not None:
        raise broken


def _right(found: Sequence[Answered | Failure]) -> list[Answered]:
    """What has times: wrong answers have none."""
    return [each for each in found if isinstance(each, Answered) and not each.failures]


def _answered(session: Session, pack: OpenPack, artifact: ArtifactRecord, threads: int, limits: Limits, unit: str) -> Answered | Failure:
    try:
        return answer(session, pack, artifact, threads, limits, unit)
    except StepError as error:
        return Failure(artifact.target, artifact.scheme, error, is_of_artifact=True, unit=unit)


def _measurement(answered: Answered, latency: Latency | None) -> Measurement:
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
        unit=answered.unit,
    )
    return cleaned(made)


def answer(session: Session, pack: OpenPack, artifact: ArtifactRecord, threads: int, limits: Limits, unit: str = "") -> Answered:
    """The golden inputs through an artifact there, judged by the floors that the pack holds it to.

    Raises:
        RunnerError: it failed, or did not answer as the manifest says. TransportError: the connection failed.
    """
    path, described = pack.file(artifact)
    request = Request("run", {}, "", "", threads, unit=unit, state=artifact.state)
    outcome = session.run(artifact.runner, request, {"artifact": path}, artifact_feed(pack.golden, described.inputs), limits)
    device = facts_of(session, outcome)
    truth = truth_of(session, device, pack.target(artifact))
    with made_of(outcome):
        outputs = hub_arrays(outcome.arrays, described.outputs)
        parity = Parity(truth, len(next(iter(outputs.values()))), parity_of_outputs(pack, artifact, outputs))
    failures = judge_parity(parity, artifact.target, artifact.scheme)
    return Answered(artifact, parity, failures, outcome.ending.peak_bytes, truth, device, unit)


def truth_of(session: Session, device: Mapping[str, str], target: Target | None) -> Truth:
    """What kind of truth a device gives about a target; "measured" only where it is the one that the target stands for."""
    if session.transport.emulated or EMULATED in device.get("board", ""):
        return "emulated"
    return "measured" if target is not None and (matches(target.hardware, device) or _is_its_phone(device, target)) else "host"


def _is_its_phone(device: Mapping[str, str], target: Target) -> bool:
    """The target "android" stands for every phone, and names no hardware; a pack's artifacts run on others too, and are then not its."""
    return target.platform == "android" and device.get("system", "").startswith("Android ") and target.hardware is None


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


def _times(session: Session, pack: OpenPack, right: Sequence[Answered], asked: Bench, limits: Limits, unit: str) -> Mapping[str, Latency]:
    """Scheme -> latency, of artifacts that answered right."""
    if not right:
        return {}
    files: Artifacts = {each.artifact.scheme: pack.file(each.artifact) for each in right}
    outcome = time_artifacts(session, files, pack.golden, asked.profile, limits, asked.threads, unit=unit)
    found = latencies(session, outcome, files, asked.profile, right[0].truth)
    return {each.artifact.scheme: _with_floor(found[each.artifact.scheme], pack, each.artifact, asked.threads) for each in right}


def _with_floor(latency: Latency, pack: OpenPack, artifact: ArtifactRecord, threads: int) -> Latency:
    """Beside what the target's hardware allows at most; a measured time below it is none."""
    held = msgspec.structs.replace(latency, floor_ms=pack.floor_ms(artifact, threads))
    spoiled = beaten(held) if held.truth == "measured" else ""
    return msgspec.structs.replace(held, invalid=(*held.invalid, spoiled)) if spoiled else held
