"""Steps of the student: capture it, and run it as the reference for everything that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgepack.arrays import save_arrays, stacked
from edgepack.calibration.observe import feed_of
from edgepack.calibration.pixels import values_of
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Progress
from edgepack.hub.canonical import plain_session
from edgepack.student.identity import identified, same_student
from edgepack.student.load import load_student, source_name
from edgepack.student.program import Student
from edgepack.student.sizes import refuse_other_answers, say_sizes
from edgepack.student.spec import ImagePreprocessing, StudentDescription, refuse_unfitting_labels
from edgepack.student.state import carried, say_state


def identify(student: str, out: Path, progress: Progress) -> None:
    """Write identity.json: what a student of Python is (``edgepack.student.identity``)."""
    _, identity = identified(student)
    (out / "identity.json").write_bytes(msgspec.json.encode(identity))
    progress(1, 1)


def _loaded(student: str, identity: Path | None) -> Student:
    """The student; one of Python must still be the one that was identified."""
    return load_student(student) if identity is None else same_student(student, identity)


def capture(
    student: str,
    out: Path,
    progress: Progress,
    identity: Path | None = None,
    preprocessing: dict[str, Any] | None = None,
    labels: Sequence[str] = (),
    fold_preprocessing: bool = False,
) -> None:
    """Write captured.onnx, student.json and example.npz.

    Args:
        student: how the user named it; identity: identity.json of one of Python.
        preprocessing, labels: a calibration manifest's, which serve a student that declares none.
        fold_preprocessing: also write pixels.json, the student as it is once its preprocessing is part of the model.
    """
    loaded = _loaded(student, identity)
    given = msgspec.convert(preprocessing, ImagePreprocessing | None)
    description = _supplemented(loaded.describe(source_name(student)), given, tuple(labels))
    if fold_preprocessing:
        (out / "pixels.json").write_bytes(msgspec.json.encode(description.on_pixels()))
    (out / "student.json").write_bytes(msgspec.json.encode(description))
    save_arrays(out / "example.npz", loaded.program.example())
    progress(1, 2)
    loaded.program.capture(out / "captured.onnx")
    if description.state or description.sizes:
        import onnx

        captured = onnx.load(out / "captured.onnx")
        say_state(captured, description.state)
        say_sizes(captured, description.sizes)
        onnx.save(captured, out / "captured.onnx")
        if description.sizes:
            refuse_other_answers(loaded.program.run, plain_session(captured), description, loaded.program.example())
    progress(2, 2)


def _supplemented(description: StudentDescription, given: ImagePreprocessing | None, given_labels: tuple[str, ...]) -> StudentDescription:
    preprocessing = description.preprocessing or given
    inputs = description.inputs
    if description.preprocessing is None and preprocessing is not None and len(inputs) == 1 and inputs[0].value_range is None:
        layout = inputs[0].layout or ("NCHW" if len(inputs[0].shape or ()) == 4 else "")
        inputs = (msgspec.structs.replace(inputs[0], value_range=preprocessing.value_range, layout=layout),)
    labels = description.labels or given_labels
    refuse_unfitting_labels(labels, description.outputs)
    return msgspec.structs.replace(description, preprocessing=preprocessing, labels=labels, inputs=inputs)


def reference(
    student: str,
    golden: Path,
    out: Path,
    progress: Progress,
    identity: Path | None = None,
    evaluation: Path | None = None,
    folded: Path | None = None,
) -> None:
    """Write what the student itself answers.

    golden_outputs.npz: its own precision; golden_reference.npz: float64; evaluation_outputs.npz: its own precision, when there is an
    evaluation set. Arrays by output name, samples stacked.

    Args:
        identity: identity.json of a student of Python.
        folded: student.json where the samples are pixels: the student gets what its preprocessing makes of them, in the precision of
            the run, so that float64 is the truth about pixels.
    """
    loaded = _loaded(student, identity)
    program = loaded.program
    sets = {"golden_outputs": (golden, "float32", program.run), "golden_reference": (golden, "float64", program.run_float64)}
    if evaluation is not None:
        sets["evaluation_outputs"] = (evaluation, "float32", program.run)
    for name, (path, dtype, run) in sets.items():
        samples = Samples.open(path)
        if folded is not None:
            samples = values_of(samples, msgspec.json.decode(folded.read_bytes(), type=StudentDescription), dtype)
        rows = carried(run, [dict(feed_of(samples, index)) for index in range(samples.count)], loaded.state)
        progress(samples.count, samples.count)
        save_arrays(out / f"{name}.npz", stacked(rows))
