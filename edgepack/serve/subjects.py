"""What a visitor gets of a pack: the artifacts that its runtimes can run, their golden inputs, and what it is told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

import edgepack
from edgepack.arrays import Arrays
from edgepack.devices.runner_process import artifact_feed
from edgepack.errors import one_line
from edgepack.latency.on_device import OpenPack
from edgepack.latency.protocol import Profile
from edgepack.pack.digest import plain_files
from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import ArtifactRecord, FileRecord
from edgepack.pack.run import chosen
from edgepack.runner import contract
from edgepack.serve.messages import App, Demo, Plan, PlannedFile, Port, Protocol, SubjectPlan
from edgepack.student.spec import StudentDescription

# What the runtimes take and give in a browser, by numpy's names. LiteRT.js 2.5 knows three types of tensors.
_TYPES = {
    "ort": frozenset({"float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"}),
    "litert": frozenset({"float32", "int32", "uint8"}),
}
RUNTIMES = {"ort": "onnxruntime-web", "litert": "LiteRT.js"}
# What apps run, whose artifacts their runtimes take, and what people call these.
APP_PLATFORMS = ("ios", "android")
APP_RUNNERS = {"coreml": "mil", "litert": "litert", "ort": "ort"}
APP_RUNTIMES = {"coreml": "Core ML", "litert": "LiteRT", "ort": "ONNX Runtime"}


@dataclass(frozen=True)
class Subject:
    """One artifact that a visitor runs, by its number.

    Attributes:
        feed: the golden inputs in its own terms, stacked. unit: that an app asks its runtime for; "" in a browser.
    """

    id: int
    artifact: ArtifactRecord
    feed: Arrays
    unit: str = ""

    @property
    def name(self) -> str:
        """As people call it."""
        return f"{self.artifact.target} {self.artifact.scheme}" + (f" on {self.unit}" if self.unit else "")

    @property
    def label(self) -> str:
        """Its name in a file of samples."""
        return self.artifact.scheme


@dataclass(frozen=True)
class Served:
    """A pack as it is served: subjects in groups that are timed against each other, and why others are left out.

    Attributes:
        versions: of the runtimes that the page is given, by runner. chosen: the artifacts that were asked for, whoever runs them.
    """

    pack: OpenPack
    groups: tuple[tuple[Subject, ...], ...]
    left_out: tuple[str, ...]
    profile: Profile
    threads: int
    versions: Mapping[str, str]
    chosen: tuple[ArtifactRecord, ...] = ()

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All of them, by number."""
        return tuple(subject for group in self.groups for subject in group)


def served(
    pack: OpenPack, targets: Sequence[str], schemes: Sequence[str], profile: Profile, threads: int, versions: Mapping[str, str]
) -> Served:
    """What of a pack a browser gets: each file once, those of one target and runtime together.

    Raises:
        PackError: it holds nothing that a browser runs, or a file is not the one that was verified.
    """
    artifacts, left_out = list[ArtifactRecord](), list[str]()
    asked = tuple(chosen(pack.manifest, targets, schemes))
    for artifact in asked:
        why = _why_not(artifact)
        if why:
            left_out.append(f"{artifact.target} {artifact.scheme}: {why}")
        elif artifact.file.sha256 not in {held.file.sha256 for held in artifacts}:
            artifacts.append(artifact)
    if not artifacts and all(artifact.failures or artifact.platform not in APP_PLATFORMS for artifact in asked):
        raise PackError(f"nothing of this pack runs in a browser ({left_out[0]})", "build it for android, raspberry-pi-5 or web")
    for artifact in artifacts:
        pack.file(artifact)
    groups = _grouped([_numbered(index, artifact, pack) for index, artifact in enumerate(artifacts)])
    return Served(pack, groups, tuple(left_out), profile, threads, versions, asked)


def served_to(app: App, held: Served) -> Served:
    """What of a served pack an app gets: the artifacts made for its platform and runtime, once for each of its units.

    Raises:
        PackError: there are none, or a file is not the one that was verified.
    """
    runner, pack = APP_RUNNERS[app.runtime], held.pack
    fitting = [each for each in held.chosen if each.platform == app.platform and each.runner == runner]
    artifacts = [each for each in fitting if not _why_no_app(each)]
    if not artifacts:
        why = _why_no_app(fitting[0]) if fitting else f"it was not built for {app.platform}, or -t and -s leave that out"
        raise PackError(
            f"this pack has no artifact for an app on {app.platform} with {APP_RUNTIMES[app.runtime]} ({why})", "build it again"
        )
    for artifact in artifacts:
        pack.file(artifact)
    runs = [(artifact, unit) for unit in app.units for artifact in artifacts]
    groups = _grouped([_numbered(index, artifact, pack, unit) for index, (artifact, unit) in enumerate(runs)])
    left_out = tuple(f"{each.target} {each.scheme}: {why}" for each in fitting if (why := _why_no_app(each)))
    return replace(held, groups=groups, left_out=left_out)


def _grouped(subjects: Sequence[Subject]) -> tuple[tuple[Subject, ...], ...]:
    """Those that are timed against each other."""
    by = groupby(subjects, key=lambda subject: (subject.unit, subject.artifact.target, subject.artifact.runner))
    return tuple(tuple(group) for _, group in by)


def _numbered(index: int, artifact: ArtifactRecord, pack: OpenPack, unit: str = "") -> Subject:
    """PackError where the golden samples of a stranger's pack are not those of its artifact."""
    try:
        feed = artifact_feed(pack.golden, artifact.inputs)
        judged = {binding.hub_name for binding in artifact.outputs} | {output.name for output in artifact.parity.outputs}
        unknown = judged - pack.reference.keys()
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise PackError(f"the golden inputs do not fit {artifact.file.path} ({one_line(error)})", "build the pack again") from error
    if unknown or not all(map(len, feed.values())):
        raise PackError(f"the pack has no golden samples of {', '.join(sorted(unknown)) or artifact.file.path}", "build the pack again")
    return Subject(index, artifact, feed, unit)


def _why_not(artifact: ArtifactRecord) -> str:
    """Why a browser cannot run an artifact, or should not; "" where it can."""
    if artifact.runner == "tflite_runtime":
        return "browsers run LiteRT of today, which artifacts of target web are for"
    if artifact.runner not in RUNTIMES:
        return "Core ML runs on Apple systems alone, and there not in a browser: the app in demo_app/ios runs it"
    if artifact.failures:
        return _FAILED
    odd = {binding.dtype for binding in (*artifact.inputs, *artifact.outputs)} - _TYPES[artifact.runner]
    return f"{RUNTIMES[artifact.runner]} has no tensors of type {', '.join(sorted(odd))}" if odd else ""


def _why_no_app(artifact: ArtifactRecord) -> str:
    """Why an app cannot measure an artifact of its runtime, or should not; "" where it can."""
    if artifact.failures:
        return _FAILED
    return "Core ML keeps its state, and the app feeds inputs alone: measure the artifact of target ios" if artifact.kept else ""


_FAILED = "it failed its gate, and wrong answers have no latency"


def plan(held: Served) -> Plan:
    """What a visitor is told at first."""
    student = held.pack.manifest.student
    return Plan(
        student=student.name,
        edgepack=edgepack.__version__,
        samples=len(next(iter(held.pack.golden.values()))),
        threads=held.threads,
        subjects=tuple(_subject(subject, held.pack) for subject in held.subjects),
        left_out=held.left_out,
        protocol=_protocol(held.profile),
        demo=_demo(student),
    )


def files_of(folder: Path, record: FileRecord) -> tuple[PlannedFile, ...]:
    """Of an artifact that is a folder each of its files, as they are now; none of a plain file."""
    root = inside(folder, record.path)
    return tuple(_planned(root, path) for path in plain_files(root)) if root.is_dir() else ()


def _planned(root: Path, path: Path) -> PlannedFile:
    content = path.read_bytes()
    return PlannedFile(path.relative_to(root).as_posix(), len(content), hashlib.sha256(content).hexdigest())


def _subject(subject: Subject, pack: OpenPack) -> SubjectPlan:
    artifact = subject.artifact
    return SubjectPlan(
        id=subject.id,
        target=artifact.target,
        scheme=artifact.scheme,
        runner=cast(Literal["ort", "litert", "mil"], artifact.runner),
        file=artifact.file.path.rpartition("/")[2],
        bytes=artifact.file.bytes,
        sha256=artifact.file.sha256,
        inputs=tuple(Port(each.name, each.dtype, subject.feed[each.name].shape[1:], each.permutation) for each in artifact.inputs),
        outputs=tuple(Port(each.name, each.dtype, (), each.permutation) for each in artifact.outputs),
        files=files_of(pack.folder, artifact.file),
        unit=subject.unit,
    )


def _protocol(profile: Profile) -> Protocol:
    return Protocol(
        profile.name,
        profile.warm_up,
        profile.pairs,
        profile.seconds,
        profile.warm_up_seconds,
        contract.WINDOW,
        contract.FEWEST_TICKS,
        contract.MOST_INNER,
    )


def _demo(student: StudentDescription) -> Demo:
    preprocessing = student.preprocessing
    if preprocessing is None or len(student.inputs) != 1:
        return Demo("none", student.labels, None, "")
    layout = student.inputs[0].layout or "NCHW"
    drawn = preprocessing.channels == 1 and student.labels == tuple("0123456789")
    return Demo("draw" if drawn else "camera", student.labels, preprocessing, layout)


def answer_bytes(subject: Subject, reference: Arrays) -> int:
    """The most bytes that a subject's outputs have, 8 a number."""
    return 8 * sum(prod(reference[held.hub_name].shape) for held in subject.artifact.outputs)


def input_bytes(subject: Subject, index: int) -> bytes:
    """One input's golden samples, stacked, little-endian, as typed arrays of JavaScript read them; IndexError where there is none."""
    array: NDArray[Any] = subject.feed[subject.artifact.inputs[index].name]
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
