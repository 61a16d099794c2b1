"""Steps of the calibration: samples read and checked, golden inputs chosen, ranges observed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import load_arrays
from edgepack.calibration.checks import checked, refuse_overlap, set_digest
from edgepack.calibration.files import data_of
from edgepack.calibration.manifest import CalibrationError, CalibrationSet
from edgepack.calibration.observe import Range
from edgepack.calibration.pixels import pixels_of
from edgepack.calibration.readers import Request, Samples, read
from edgepack.converter.step import Progress
from edgepack.hub.canonical import plain_session
from edgepack.pack.manifest import CalibrationRecord
from edgepack.student.spec import LARGEST_PIXEL, StudentDescription, row_of_scores
from edgepack.student.state import with_states

# Golden inputs that a pack carries: enough for a stable SQNR, few enough to stay small (DESIGN: 16 parity samples).
GOLDEN_SAMPLES = 16
# Without a calibration set: the example and three drawn inputs, so that a value baked in at capture shows on the others.
_DRAWN_SAMPLES = 3


def collect(student: Path, manifest: Path, out: Path, progress: Progress, as_pixels: bool = False, files: list[str] | None = None) -> None:
    """Read and check a manifest's samples: calibration.npz, evaluation.npz (when there is one), golden.npz, samples.json.

    Args:
        as_pixels: for a model that its preprocessing is part of. Sources say what they say without; the pixels behind it are written.
        files: names of the files that the build expects to be read (``data_of``); None for whatever there is.

    Raises:
        CalibrationError: the data cannot be used, or files came or went meanwhile.
    """
    described = msgspec.json.decode(student.read_bytes(), type=StudentDescription)
    given = CalibrationSet.load(manifest)
    sets: dict[str, Samples] = {}
    for kind, source in {"calibration": given.calibration, "evaluation": given.evaluation}.items():
        if source is not None:
            request = Request(source, manifest.resolve().parent, described, described.preprocessing, progress)
            held = read(request)
            checked(held, described.inputs, len(described.labels) or _classes_of(described, held), kind)
            sets[kind] = pixels_of(held, described, kind) if as_pixels else held
            sets[kind].save(out / f"{kind}.npz")
    if files is not None and sorted(data_of(manifest) or ()) != files:
        raise CalibrationError("the files of the calibration manifest changed while they were read", "build again when nobody writes them")
    calibration, evaluation = sets["calibration"], sets.get("evaluation")
    if evaluation is not None:
        refuse_overlap(calibration, evaluation)
    _golden(evaluation or calibration).save(out / "golden.npz")
    held_out = (evaluation.count, set_digest(evaluation)) if evaluation is not None else (0, "")
    facts = CalibrationRecord(given.name, given.licence, calibration.count, held_out[0], set_digest(calibration), held_out[1])
    (out / "samples.json").write_bytes(msgspec.json.encode(facts))


def _classes_of(student: StudentDescription, samples: Samples) -> int:
    """Of a student without class names: how many classes the labels of a set may name, 0 where its first output does not say."""
    is_list = samples.labels is not None and samples.labels.ndim == 1
    scores = row_of_scores(student.outputs) if is_list else 0
    return scores if scores > 1 else 0


def _golden(samples: Samples) -> Samples:
    """Evenly spaced samples of a set."""
    count = min(GOLDEN_SAMPLES, samples.count)
    return samples.take(np.linspace(0, samples.count - 1, count).round().astype(int).tolist())


def draw(student: Path, example: Path, out: Path, progress: Progress, as_pixels: bool = False, captured: Path | None = None) -> None:
    """Golden inputs for a build without a calibration set: the example and inputs drawn like it (golden.npz).

    Of a stateful student they are the steps of one sequence from a state of zeros, each with the state that the steps before it left.

    Args:
        captured: captured.onnx, which tells those states; needed for a stateful student alone.
        as_pixels: for a model that its preprocessing is part of: the images of whole pixels nearest to them.
    """
    described = msgspec.json.decode(student.read_bytes(), type=StudentDescription)
    random = np.random.default_rng(0)
    examples = load_arrays(example)
    arrays = {spec.name: np.stack(_like(examples[spec.name], spec.value_range, random)) for spec in described.inputs}
    if described.state and captured is not None:
        arrays = _sequence(arrays, described.state, captured)
    Samples(_nearest_pixels(arrays, described) if as_pixels else arrays).save(out / "golden.npz")
    progress(1, 1)


def _sequence(arrays: dict[str, NDArray[Any]], state: dict[str, str], captured: Path) -> dict[str, NDArray[Any]]:
    import onnx

    started = {name: np.zeros_like(array) if name in state else array for name, array in arrays.items()}
    count = len(next(iter(started.values())))
    feeds = [{name: array[index] for name, array in started.items()} for index in range(count)]
    return with_states(plain_session(onnx.load(captured)), feeds, state)


def _nearest_pixels(arrays: dict[str, NDArray[Any]], student: StudentDescription) -> dict[str, NDArray[Any]]:
    layout = student.inputs[0].layout or "NCHW"
    return {name: student.image_preprocessing.pixels_of(values, layout) for name, values in arrays.items()}


def _like(example: NDArray[Any], value_range: tuple[float, float] | None, random: np.random.Generator) -> list[NDArray[Any]]:
    """The example, then inputs like it: floats uniform in the declared range or normal, others from the example's own values."""
    if example.dtype.kind != "f":
        drawn = [random.choice(example.reshape(-1), example.shape) for _ in range(_DRAWN_SAMPLES)]
    elif value_range is not None:
        drawn = [random.uniform(*value_range, example.shape) for _ in range(_DRAWN_SAMPLES)]
    else:
        drawn = [random.standard_normal(example.shape) for _ in range(_DRAWN_SAMPLES)]
    return [example, *(array.astype(example.dtype) for array in drawn)]


def observe(hub: Path, calibration: Path, out: Path, progress: Progress, pixels: Path | None = None) -> None:
    """Ranges of every real-valued tensor of the hub (ranges.json).

    Args:
        pixels: pixels.json of a hub that takes pixels: their range is 0..255 whatever the samples hold, so that codes are the pixels.
    """
    import onnx

    from edgepack.calibration.observe import observe as observe_ranges

    ranges = observe_ranges(onnx.load(hub), Samples.open(calibration), progress)
    if pixels is not None:
        (spec,) = msgspec.json.decode(pixels.read_bytes(), type=StudentDescription).inputs
        ranges.tensors[spec.name] = Range(0.0, LARGEST_PIXEL, 0.0, LARGEST_PIXEL)
    (out / "ranges.json").write_bytes(msgspec.json.format(msgspec.json.encode(ranges), indent=1))
