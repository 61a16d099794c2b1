"""Running the artifacts of a pack on a real input, with nothing but the pack."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import Arrays, load_arrays, refuse_claims, save_arrays
from edgepack.backends.artifact import ArtifactDescription
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, Response, artifact_feed, hub_arrays, run_local
from edgepack.errors import EdgepackError, one_line
from edgepack.hub.external import refuse_any_file
from edgepack.inspection.flatbuffer import keeps_weights_elsewhere
from edgepack.latency.protocol import profile
from edgepack.latency.timing import measure
from edgepack.pack.digest import intact
from edgepack.pack.files import MANIFEST, PackError
from edgepack.pack.manifest import ArtifactRecord, Latency, Pack
from edgepack.runner.bundle import PORTABLE
from edgepack.student.spec import StudentDescription, TensorSpec
from edgepack.verify.metrics import NO_CLASS, pixel_classes, probabilities


@dataclass(frozen=True)
class Answer:
    """What one artifact answered.

    Attributes:
        outputs: by the student's names, without the sample axis; of a stateful student those of the last step.
        top: (label, score) of the best classes, when the student has labels; scores are probabilities.
        areas: (label, share of the pixels) of the largest classes, when the student names a class for every pixel.
        truth: kind of the run; latency: None where the runtime has none here.
    """

    artifact: ArtifactRecord
    outputs: Arrays
    top: tuple[tuple[str, float], ...]
    areas: tuple[tuple[str, float], ...]
    truth: str
    runtime: str
    latency: Latency | None


def chosen(pack: Pack, targets: Sequence[str], schemes: Sequence[str]) -> list[ArtifactRecord]:
    """The artifacts of these targets and schemes, all when none is named; PackError when nothing is left."""
    found = [
        artifact
        for artifact in pack.artifacts
        if (not targets or artifact.target in targets) and (not schemes or artifact.scheme in schemes)
    ]
    if not found:
        held = ", ".join(f"{artifact.target} {artifact.scheme}" for artifact in pack.artifacts)
        raise PackError("the pack has no such artifact", f"it holds {held or 'none'}")
    return found


def read_input(path: Path, student: StudentDescription) -> Arrays:
    """A file as one stacked sample: an image through the pack's preprocessing, an .npz by input name, or an .npy.

    Raises:
        PackError: the file is missing, is of no known kind, or does not fit the student.
    """
    if not path.is_file():
        raise PackError(f"input {path} is not a file", "give an image, an .npz or an .npy file")
    arrays = _READERS.get(path.suffix.lower(), _image)(path, student)
    sample = _steps(arrays, student, path) if student.state else _sample(arrays, student, path)
    _refuse_other_sizes(sample, student, path)
    return sample


def _sample(arrays: Arrays, student: StudentDescription, path: Path) -> Arrays:
    return {spec.name: _fitting(arrays, spec, path)[None] for spec in student.inputs}


def _refuse_other_sizes(sample: Arrays, student: StudentDescription, path: Path) -> None:
    """PackError where an open size is outside its range, or two inputs give one symbol two sizes."""
    seen: dict[str, tuple[int, str]] = {}
    for spec in student.inputs:
        for dimension, size in zip(spec.shape or (), sample[spec.name].shape[1:], strict=True):
            if isinstance(dimension, str) and dimension in student.sizes:
                low, high = student.sizes[dimension]
                if not low <= size <= high:
                    raise PackError(f"'{spec.name}' in {path.name} has {dimension} {size}", f"the student takes {low} to {high}")
                held, where = seen.setdefault(dimension, (size, spec.name))
                if held != size:
                    raise PackError(f"'{spec.name}' in {path.name} has {dimension} {size}, '{where}' has {held}", "give both one size")


def _steps(arrays: Arrays, student: StudentDescription, path: Path) -> Arrays:
    """The steps of one sequence, stacked: inputs have one axis more than a step, or are one step; a state that is not given is zeros."""
    steps = {spec.name: spec for spec in student.inputs if spec.name not in student.state}
    first = next(iter(steps.values()))
    single = first.name in arrays and arrays[first.name].ndim <= len(first.shape or ())
    rows = {name: array[None] if single else array for name, array in arrays.items() if name in steps}
    count = min((len(array) for array in rows.values() if array.ndim), default=0)
    if not count:
        raise PackError(f"{path.name} holds no steps", f"give {', '.join(steps)}, a step or a sequence of them")
    held = {name: np.stack([_fitting({name: row}, steps[name], path) for row in array[:count]]) for name, array in rows.items()}
    missing = [name for name in steps if name not in held]
    if missing:
        raise PackError(f"{path.name} holds no '{missing[0]}'", f"it holds {', '.join(arrays)}")
    for spec in (spec for spec in student.inputs if spec.name in student.state):
        start = _fitting(arrays, spec, path) if spec.name in arrays else np.zeros(_sizes(spec), spec.dtype)
        held[spec.name] = np.stack([start] * count)
    return held


def _sizes(spec: TensorSpec) -> list[int]:
    """A shape with 1 for every open size."""
    return [size if isinstance(size, int) else 1 for size in spec.shape or ()]


def _image(path: Path, student: StudentDescription) -> Arrays:
    if student.preprocessing is None or len(student.inputs) != 1:
        raise PackError("the student declares no preprocessing for images", "give an .npz with its input tensors")
    spec = student.inputs[0]
    return {spec.name: student.preprocessing.load(path, spec.layout or "NCHW")}


# What numpy and zipfile raise for files that are cut off, damaged or of another kind.
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _npz(path: Path, student: StudentDescription) -> Arrays:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")
        return {name: array for name, array in load_arrays(path).items() if isinstance(array, np.ndarray)}
    except _UNREADABLE as error:
        raise PackError(f"{path} cannot be read as .npz ({error})", "write it with numpy.savez") from error


def _npy(path: Path, student: StudentDescription) -> Arrays:
    try:
        refuse_claims(path)
        with path.open("rb") as file:
            return {student.inputs[0].name: np.lib.format.read_array(file, allow_pickle=False)}
    except _UNREADABLE as error:
        raise PackError(f"{path} cannot be read as .npy ({error})", "write it with numpy.save") from error


_READERS = {".npz": _npz, ".npy": _npy}


def _fitting(arrays: Arrays, spec: TensorSpec, path: Path) -> NDArray[np.generic]:
    if spec.name not in arrays:
        raise PackError(f"{path.name} holds no '{spec.name}'", f"it holds {', '.join(arrays)}")
    array = arrays[spec.name]
    wanted = spec.shape or ()
    fits = array.ndim == len(wanted) and all(isinstance(want, str) or want == have for want, have in zip(wanted, array.shape, strict=True))
    if not fits or str(array.dtype) != spec.dtype:
        raise PackError(
            f"'{spec.name}' in {path.name} is {array.dtype}{list(array.shape)}", f"the student takes {spec.dtype}{list(wanted)}"
        )
    return array


def refuse_other_files(path: Path, runner: str) -> None:
    """What a runtime would read besides the artifact, of which the digest says nothing; PackError or ModelFileError where there is such."""
    if runner == "ort":
        refuse_any_file(path)
    if runner in ("litert", "tflite_runtime") and path.is_file() and keeps_weights_elsewhere(path.read_bytes()):
        raise PackError(f"{path.name} keeps weights in another file", "build the pack again")


def infer(folder: Path, artifact: ArtifactRecord, samples: Arrays, limits: Limits) -> tuple[Arrays, Response]:
    """Run an artifact on stacked samples in the student's terms; its outputs in the same, and what the runner said.

    Raises:
        PackError: its file is missing, is not the one that was verified, reads other files, or does not answer as the manifest says.
        RunnerError: its runner failed.
    """
    path = intact(folder, artifact.file)
    refuse_other_files(path, artifact.runner)
    try:
        return _run(path, artifact, samples, limits)
    except EdgepackError:
        raise
    except (*_UNREADABLE, TypeError, IndexError) as error:
        raise PackError(f"{artifact.file.path} does not answer as {MANIFEST} says ({one_line(error)})", "build the pack again") from error


def _run(path: Path, artifact: ArtifactRecord, samples: Arrays, limits: Limits) -> tuple[Arrays, Response]:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        save_arrays(place / "inputs.npz", artifact_feed(samples, artifact.inputs))
        request = Request("run", {"artifact": str(path)}, str(place / "inputs.npz"), str(place / "outputs.npz"), state=artifact.state)
        response = run_local(artifact.runner, request, place, limits)
        if (place / "outputs.npz").stat().st_size > _LARGEST_ANSWER:
            raise PackError(f"{artifact.file.path} answers one sample with more than {_LARGEST_ANSWER} bytes", "use a smaller model")
        return hub_arrays(load_arrays(place / "outputs.npz"), artifact.outputs), response


# A mask of 21 classes at 1024 x 1024 in float32 has 88 MB.
_LARGEST_ANSWER = 2**28


def answer(folder: Path, pack: Pack, artifact: ArtifactRecord, sample: Arrays, limits: Limits, top: int, timed: bool) -> Answer:
    """Run one artifact on one stacked sample.

    Raises:
        PackError: its file is missing or is not the one that was verified. RunnerError: its runner failed.
    """
    stacked, response = infer(folder, artifact, sample, limits)
    outputs = {name: array[-1] for name, array in stacked.items()}
    described = ArtifactDescription(artifact.file.path, artifact.inputs, artifact.outputs, artifact.runner)
    path = intact(folder, artifact.file)
    can_time = timed and artifact.runner in PORTABLE and not artifact.failures
    latency = measure({artifact.scheme: (path, described)}, sample, profile("smoke"), limits)[artifact.scheme] if can_time else None
    return Answer(
        artifact,
        outputs,
        best(outputs, pack.student.labels, top),
        areas(outputs, pack.student, top),
        response.truth,
        f"{response.runtime} {response.version}",
        latency,
    )


def best(outputs: Arrays, labels: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
    """The ``count`` likeliest classes of the first output, when it is one score a label; logits become probabilities by softmax."""
    scores = next(iter(outputs.values())).reshape(1, -1)
    if not labels or scores.size != len(labels):
        return ()
    likely = probabilities(scores)[0]
    return tuple((labels[index], float(likely[index])) for index in np.argsort(-likely, kind="stable")[:count])


def areas(outputs: Arrays, student: StudentDescription, count: int) -> tuple[tuple[str, float], ...]:
    """The ``count`` classes that most pixels are of, when the first output is one score a label for every pixel, as its layout says."""
    spec = student.outputs[0]
    scores, axis = outputs[spec.name], spec.layout.find("C")
    if not {*"CHW"} <= {*spec.layout} or scores.ndim != len(spec.layout) or scores.shape[axis] != len(student.labels):
        return ()
    classes = pixel_classes(scores, axis)
    shares = np.bincount(classes[classes != NO_CLASS], minlength=len(student.labels)) / classes.size
    return tuple((student.labels[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")[:count] if shares[index])
