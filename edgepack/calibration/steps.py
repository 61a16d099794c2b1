"""Steps of the calibration: samples read and checked, golden inputs chosen, ranges observed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import load_arrays
from edgepack.calibration.checks import checked, refuse_overlap, set_digest
from edgepack.calibration.manifest import CalibrationSet
from edgepack.calibration.readers import Request, Samples, read
from edgepack.converter.step import Progress
from edgepack.pack.manifest import CalibrationRecord
from edgepack.student.spec import StudentDescription

# Golden inputs that a pack carries: enough for a stable SQNR, few enough to stay small (DESIGN: 16 parity samples).
GOLDEN_SAMPLES = 16
# Without a calibration set: the example and three drawn inputs, so that a value baked in at capture shows on the others.
_DRAWN_SAMPLES = 3


def collect(student: Path, manifest: Path, out: Path, progress: Progress) -> None:
    """Read and check a manifest's samples: calibration.npz, evaluation.npz (when there is one), golden.npz, samples.json."""
    described = msgspec.json.decode(student.read_bytes(), type=StudentDescription)
    given = CalibrationSet.load(manifest)
    sets: dict[str, Samples] = {}
    for kind, source in {"calibration": given.calibration, "evaluation": given.evaluation}.items():
        if source is not None:
            request = Request(source, manifest.resolve().parent, described, described.preprocessing, progress)
            sets[kind] = checked(read(request), described.inputs, len(described.labels), kind)
            sets[kind].save(out / f"{kind}.npz")
    calibration, evaluation = sets["calibration"], sets.get("evaluation")
    if evaluation is not None:
        refuse_overlap(calibration, evaluation)
    _golden(evaluation or calibration).save(out / "golden.npz")
    held_out = (evaluation.count, set_digest(evaluation)) if evaluation is not None else (0, "")
    facts = CalibrationRecord(given.name, given.licence, calibration.count, held_out[0], set_digest(calibration), held_out[1])
    (out / "samples.json").write_bytes(msgspec.json.encode(facts))


def _golden(samples: Samples) -> Samples:
    """Evenly spaced samples of a set."""
    count = min(GOLDEN_SAMPLES, samples.count)
    return samples.take(np.linspace(0, samples.count - 1, count).round().astype(int).tolist())


def draw(student: Path, example: Path, out: Path, progress: Progress) -> None:
    """Golden inputs for a build without a calibration set: the example and inputs drawn like it (golden.npz)."""
    described = msgspec.json.decode(student.read_bytes(), type=StudentDescription)
    random = np.random.default_rng(0)
    examples = load_arrays(example)
    arrays = {spec.name: np.stack(_like(examples[spec.name], spec.value_range, random)) for spec in described.inputs}
    Samples(arrays).save(out / "golden.npz")
    progress(1, 1)


def _like(example: NDArray[Any], value_range: tuple[float, float] | None, random: np.random.Generator) -> list[NDArray[Any]]:
    """The example, then inputs like it: floats uniform in the declared range or normal, others from the example's own values."""
    if example.dtype.kind != "f":
        drawn = [random.choice(example.reshape(-1), example.shape) for _ in range(_DRAWN_SAMPLES)]
    elif value_range is not None:
        drawn = [random.uniform(*value_range, example.shape) for _ in range(_DRAWN_SAMPLES)]
    else:
        drawn = [random.standard_normal(example.shape) for _ in range(_DRAWN_SAMPLES)]
    return [example, *(array.astype(example.dtype) for array in drawn)]


def observe(hub: Path, calibration: Path, out: Path, progress: Progress) -> None:
    """Ranges of every real-valued tensor of the hub (ranges.json)."""
    import onnx

    from edgepack.calibration.observe import observe as observe_ranges

    ranges = observe_ranges(onnx.load(hub), Samples.open(calibration), progress)
    (out / "ranges.json").write_bytes(msgspec.json.format(msgspec.json.encode(ranges), indent=1))
