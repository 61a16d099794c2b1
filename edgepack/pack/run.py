"""Running the artifacts of a pack on a real input, with nothing but the pack."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import Arrays, load_arrays, save_arrays
from edgepack.backends.artifact import ArtifactDescription
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, artifact_feed, hub_arrays, run_local
from edgepack.latency.local import measure
from edgepack.latency.protocol import profile
from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import ArtifactRecord, Latency, Pack
from edgepack.runner.bundle import PORTABLE
from edgepack.student.spec import StudentDescription, TensorSpec


@dataclass(frozen=True)
class Answer:
    """What one artifact answered.

    Attributes:
        outputs: by the student's names, without the sample axis.
        top: (label, score) of the best classes, when the student has labels; scores are probabilities.
        truth: kind of the run; latency: None where the runtime has none here.
    """

    artifact: ArtifactRecord
    outputs: Arrays
    top: tuple[tuple[str, float], ...]
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
        raise PackError("the pack has no such artifact", f"it holds {held}")
    return found


def read_input(path: Path, student: StudentDescription) -> Arrays:
    """A file as one stacked sample: an image through the pack's preprocessing, an .npz by input name, or an .npy.

    Raises:
        PackError: the file is missing, is of no known kind, or does not fit the student.
    """
    if not path.is_file():
        raise PackError(f"input {path} does not exist", "give an image, an .npz or an .npy file")
    arrays = _READERS.get(path.suffix.lower(), _image)(path, student)
    return {spec.name: _fitting(arrays, spec, path)[None] for spec in student.inputs}


def _image(path: Path, student: StudentDescription) -> Arrays:
    if student.preprocessing is None or len(student.inputs) != 1:
        raise PackError("the student declares no preprocessing for images", "give an .npz with its input tensors")
    spec = student.inputs[0]
    return {spec.name: student.preprocessing.load(path, spec.layout or "NCHW")}


def _npz(path: Path, student: StudentDescription) -> Arrays:
    try:
        return load_arrays(path)
    except (OSError, ValueError, EOFError) as error:
        raise PackError(f"{path} cannot be read as .npz ({error})", "write it with numpy.savez") from error


def _npy(path: Path, student: StudentDescription) -> Arrays:
    try:
        return {student.inputs[0].name: np.load(path, allow_pickle=False)}
    except (OSError, ValueError, EOFError) as error:
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


def answer(folder: Path, pack: Pack, artifact: ArtifactRecord, sample: Arrays, limits: Limits, top: int, timed: bool) -> Answer:
    """Run one artifact on one stacked sample.

    Raises:
        RunnerError: its runner failed.
    """
    path = inside(folder, artifact.file.path)
    described = ArtifactDescription(artifact.file.path, artifact.inputs, artifact.outputs, artifact.runner)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        save_arrays(place / "inputs.npz", artifact_feed(sample, artifact.inputs))
        request = Request("run", {"artifact": str(path)}, str(place / "inputs.npz"), str(place / "outputs.npz"))
        response = run_local(artifact.runner, request, place, limits)
        outputs = {name: array[0] for name, array in hub_arrays(load_arrays(place / "outputs.npz"), artifact.outputs).items()}
    can_time = timed and artifact.runner in PORTABLE
    latency = measure({artifact.scheme: (path, described)}, sample, profile("smoke"), limits)[artifact.scheme] if can_time else None
    return Answer(
        artifact, outputs, best(outputs, pack.student.labels, top), response.truth, f"{response.runtime} {response.version}", latency
    )


def best(outputs: Arrays, labels: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
    """The ``count`` likeliest classes of the first output, when it is one score a label; logits become probabilities by softmax."""
    scores = next(iter(outputs.values())).reshape(-1).astype(np.float64)
    if not labels or scores.size != len(labels):
        return ()
    is_distribution = scores.min() >= 0 and abs(scores.sum() - 1) < 1e-2
    exponent = np.exp(scores - scores.max())
    probabilities = scores if is_distribution else exponent / exponent.sum()
    return tuple((labels[index], float(probabilities[index])) for index in np.argsort(-probabilities, kind="stable")[:count])
