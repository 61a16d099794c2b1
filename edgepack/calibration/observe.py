"""Ranges: what every real-valued tensor of the hub takes on over the calibration set. Taken once, with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.readers import Progress, Samples

if TYPE_CHECKING:
    import onnx

# Fine enough that a bin is an eighth of an 8-bit step: quantization error measured on bin centres is then off by under 2 %.
_BINS = 2048
# Candidate clippings of the MSE search: 1.00, 0.98, ... 0.30 of the observed range. Beyond that, clipping dominates on any tensor seen.
_SHRINKS = np.linspace(1.0, 0.3, 36)
_LEVELS = 255

Run = Callable[..., dict[str, NDArray[Any]]]


class Range(msgspec.Struct, frozen=True):
    """Observed extremes of one tensor, and the clipped range with the least mean squared quantization error at 8 bits."""

    minimum: float
    maximum: float
    mse_minimum: float
    mse_maximum: float

    def bounds(self, method: str) -> tuple[float, float]:
        """(low, high) by "minmax" or "mse"."""
        return (self.minimum, self.maximum) if method == "minmax" else (self.mse_minimum, self.mse_maximum)


class Ranges(msgspec.Struct, frozen=True):
    """Ranges by value name, with the number of samples they were taken over."""

    samples: int
    tensors: dict[str, Range]


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the model that also returns the values called ``names``."""
    import onnx

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    present = {output.name for output in model.graph.output}
    extended.graph.output.extend(typed[name] for name in names if name not in present and name in typed)
    return extended


def observe(model: onnx.ModelProto, samples: Samples, progress: Progress) -> Ranges:
    """Run the hub over the samples twice: extremes, then histograms between them.

    Args:
        model: the fp32 hub in canonical form, every value typed.
        samples: the calibration set.

    Raises:
        CalibrationError: a tensor is not finite on a sample (the message names both).
    """
    import onnx

    from edgepack.hub.canonical import plain_session

    names = [
        value.name for value in (*model.graph.value_info, *model.graph.output) if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    inputs = [value.name for value in model.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    run = plain_session(with_outputs(model, names))
    total = 2 * samples.count
    extremes = _Extremes()
    for index, tensors in enumerate(_tensors(run, samples, names, inputs)):
        extremes.add(tensors, index)
        progress(index + 1, total)
    histograms = _Histograms(extremes)
    for index, tensors in enumerate(_tensors(run, samples, names, inputs)):
        histograms.add(tensors)
        progress(samples.count + index + 1, total)
    return Ranges(samples.count, {name: histograms.range(name) for name in sorted(extremes.bounds)})


def feed_of(samples: Samples, index: int) -> dict[str, NDArray[Any]]:
    """One sample as a feed."""
    return {name: array[index] for name, array in samples.arrays.items()}


def _tensors(run: Run, samples: Samples, names: list[str], inputs: list[str]) -> Any:
    for index in range(samples.count):
        feed = feed_of(samples, index)
        yield {**{name: feed[name] for name in inputs}, **run(feed, names)}


class _Extremes:
    """Running minimum and maximum by tensor."""

    def __init__(self) -> None:
        self.bounds: dict[str, tuple[float, float]] = {}

    def add(self, tensors: Mapping[str, NDArray[Any]], sample: int) -> None:
        for name, array in tensors.items():
            if not array.size:
                continue
            low, high = float(array.min()), float(array.max())
            if not np.isfinite([low, high]).all():
                raise CalibrationError(
                    f"tensor '{name}' is not finite on calibration sample {sample}", "remove the sample, or check the student's weights"
                )
            held = self.bounds.get(name, (low, high))
            self.bounds[name] = (min(low, held[0]), max(high, held[1]))


class _Histograms:
    """Counts between the extremes, and the search for the best clipping over them."""

    def __init__(self, extremes: _Extremes) -> None:
        self._bounds = extremes.bounds
        self._counts = {name: np.zeros(_BINS, np.int64) for name in extremes.bounds}

    def add(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        for name, array in tensors.items():
            low, high = self._bounds.get(name, (0.0, 0.0))
            if high > low:
                # In float64: between neighbouring float32 numbers numpy finds no room for the bins.
                self._counts[name] += np.histogram(array.astype(np.float64), bins=_BINS, range=(low, high))[0]

    def range(self, name: str) -> Range:
        low, high = self._bounds[name]
        shrink = best_shrink(self._counts[name], low, high)
        return Range(low, high, low * shrink if low < 0 else low, high * shrink if high > 0 else high)


def best_shrink(counts: NDArray[np.int64], low: float, high: float) -> float:
    """The clipping factor, 1.0 to 0.3, with the least squared error at 8 bits over a histogram between ``low`` and ``high``."""
    if not high > low:
        return 1.0
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    errors = [
        float((counts * np.square(centres - _through_codes(centres, min(low, 0) * shrink, max(high, 0) * shrink))).sum())
        for shrink in _SHRINKS
    ]
    return float(_SHRINKS[int(np.argmin(errors))])


def _through_codes(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    step = (high - low) / _LEVELS
    result: NDArray[np.float64] = np.rint((np.clip(values, low, high) - low) / step) * step + low
    return result
