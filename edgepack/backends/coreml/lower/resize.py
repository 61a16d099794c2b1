"""Resize (ONNX Resize-19), in the forms that MIL expresses exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import constant_at, lowers, needs_constants, only, required
from edgepack.quantize.fold import Operation

# ONNX Resize-19: where output element i lies in the input, for sizes (in, out).
_COORDINATES: dict[str, Callable[[NDArray[np.float64], int, int], NDArray[np.float64]]] = {
    "half_pixel": lambda i, size, out: (i + 0.5) * size / out - 0.5,
    "pytorch_half_pixel": lambda i, size, out: (i + 0.5) * size / out - 0.5 if out > 1 else np.zeros_like(i),
    "asymmetric": lambda i, size, out: i * size / out,
    "align_corners": lambda i, size, out: i * (size - 1) / (out - 1) if out > 1 else np.zeros_like(i),
}
# ONNX Resize-19: which whole coordinate stands for x.
_NEAREST: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
# MIL's resize_bilinear samples at the same places.
_SAMPLING = {
    "half_pixel": "UNALIGN_CORNERS",
    "pytorch_half_pixel": "UNALIGN_CORNERS",
    "asymmetric": "DEFAULT",
    "align_corners": "STRICT_ALIGN_CORNERS",
}
_HONOURS = {
    "mode",
    "coordinate_transformation_mode",
    "nearest_mode",
    "antialias",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "axes",
}
_SPATIAL = (2, 3)


def _mode(operation: Operation) -> str:
    return str(operation.attributes.get("coordinate_transformation_mode", "half_pixel"))


def _changed(operation: Operation) -> list[int]:
    x, y = required(operation, 0), operation.outputs[0]
    return [axis for axis in range(x.rank) if x.shape[axis] != y.shape[axis]]


def _scales(operation: Operation) -> tuple[str, str] | None:
    """ONNX samples with the scale as given; the forms here with out / in. Both agree unless a size was rounded down."""
    given = constant_at(operation, 2)
    if not given:
        return None
    x, y = required(operation, 0), operation.outputs[0]
    axes = operation.attributes.get("axes", list(range(x.rank)))
    off = [axis for axis, scale in zip(axes, given, strict=True) if abs(np.float32(scale) * x.shape[axis] - y.shape[axis]) > 1e-3]
    return None if not off else (f"scale of axis {off[0]} does not give a whole size", "resize to an exact size in the student")


def _linear(operation: Operation) -> tuple[str, str] | None:
    if operation.attributes.get("mode", "nearest") != "linear":
        return None
    x, y = required(operation, 0), operation.outputs[0]
    if x.rank != 4 or set(_changed(operation)) - set(_SPATIAL):
        return "interpolates other than the two spatial dimensions of (N, C, H, W)", "resize height and width only"
    if _mode(operation) in ("align_corners", "pytorch_half_pixel") and 1 in y.shape[2:]:
        return "resizes to a single element with corner alignment", "use half_pixel"
    return None


@lowers(
    "Resize",
    honours=_HONOURS,
    objects=(
        needs_constants(1, 2, 3),
        only("mode", "nearest", "linear"),
        only("coordinate_transformation_mode", "half_pixel", *_COORDINATES),
        only("antialias", 0),
        _scales,
        _linear,
    ),
)
def resize(operation: Operation, emit: Emitter) -> Var:
    """ONNX Resize-19. Nearest repeats elements by whole factors, or takes them by index; linear samples where MIL does.

    The other attributes concern cubic interpolation, the refused crop mode, and how sizes were chosen.
    """
    x = emit.value(required(operation, 0))
    if not _changed(operation):
        return x
    if operation.attributes.get("mode", "nearest") == "nearest":
        return _nearest(operation, x, emit)
    height, width = operation.outputs[0].shape[2:]
    mode = _SAMPLING[_mode(operation)]
    return emit("resize_bilinear", x=x, target_size_height=height, target_size_width=width, sampling_mode=mode)


def _nearest(operation: Operation, x: Var, emit: Emitter) -> Var:
    sources = {axis: _source_indices(operation, axis) for axis in _changed(operation)}
    sizes = required(operation, 0).shape
    if len(sizes) == 4 and set(sources) <= set(_SPATIAL) and all(_repeats(indices, sizes[axis]) for axis, indices in sources.items()):
        factors = [np.float32(operation.outputs[0].shape[axis] // sizes[axis]) for axis in _SPATIAL]
        return emit("upsample_nearest_neighbor", x=x, scale_factor_height=factors[0], scale_factor_width=factors[1])
    for axis, indices in sources.items():
        x = emit("gather", x=x, indices=indices.astype(np.int32), axis=axis)
    return x


def _source_indices(operation: Operation, axis: int) -> NDArray[np.float64]:
    """Which input element each output element along ``axis`` copies."""
    size, out = required(operation, 0).shape[axis], operation.outputs[0].shape[axis]
    places = _COORDINATES[_mode(operation)](np.arange(out, dtype=np.float64), size, out)
    rounding = _NEAREST[operation.attributes.get("nearest_mode", "round_prefer_floor")]
    return np.clip(rounding(places), 0, size - 1)


def _repeats(indices: NDArray[np.float64], size: int) -> bool:
    """Whether every element is copied the same whole number of times."""
    return len(indices) % size == 0 and np.array_equal(indices, np.arange(len(indices)) // (len(indices) // size))
