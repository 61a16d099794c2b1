"""Pools in the forms that formats have: over images, without dilation, of averages and maxima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import attribute, constant, dtype_name, label
from edgepack.hub.passes.editing import Speller, Spelling, initializer, is_read, respell, run_passes, set_attributes

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


@dataclass(frozen=True)
class Window:
    """A pooling window along one axis, in elements (ONNX MaxPool-12: kernel_shape, strides, dilations, pads).

    Attributes:
        size, out: elements before and after.
        begin, end: padding as the node gives it.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    @property
    def reach(self) -> int:
        """Padding at the end with what ceil_mode overhangs, negative where the last elements are not read."""
        return (self.out - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - self.size - self.begin

    def counts(self, padding: bool) -> NDArray[np.float64]:
        """(out,) how many taps lie on elements, or on elements and padding; never on an overhang."""
        taps = np.arange(self.out)[:, None] * self.stride + np.arange(self.kernel) * self.dilation - self.begin
        low, high = (-self.begin, self.size + self.end) if padding else (0, self.size)
        return np.asarray(((taps >= low) & (taps < high)).sum(axis=1), np.float64)


def windows(node: ir.Node) -> tuple[Window, ...] | None:
    """The window of each spatial axis of a pool with explicit pads, None when a spatial size is not known."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        return None
    sizes, outs = list(source.shape)[2:], list(result.shape)[2:]
    if not all(isinstance(size, int) for size in (*sizes, *outs)):
        return None
    return _windows(node, sizes, outs)


def _windows(node: ir.Node, sizes: Sequence[Any], outs: Sequence[Any]) -> tuple[Window, ...]:
    ones = [1] * len(sizes)
    strides, dilations = attribute(node, "strides") or ones, attribute(node, "dilations") or ones
    pads = attribute(node, "pads") or [0] * (2 * len(ones))
    sides = (pads[: len(ones)], pads[len(ones) :])
    return tuple(Window(*held) for held in zip(sizes, outs, attribute(node, "kernel_shape"), strides, dilations, *sides, strict=True))


def whole_windows(model: ir.Model) -> bool:
    """ceil_mode becomes padding at the end, where that is known to count for nothing, or is divided out.

    onnx infers the output size of opset 21 without the rule that the last window starts on the image or its left padding, so shapes that
    contradict it are inferred anew: this rewrite comes before anything is computed from them.
    """
    from onnx_ir.passes import common

    nodes = [node for node in model.graph if node.op_type in VOLUMES and attribute(node, "ceil_mode", 0)]
    if any(known_shape_but_batch(node.inputs[0]) is None for node in nodes):
        run_passes(model, common.ShapeInferencePass())
    changed = [_make_whole(model, node) for node in nodes]
    return any(changed)


def _make_whole(model: ir.Model, node: ir.Node) -> bool:
    held = _ceiled(node) if attribute(node, "auto_pad", "NOTSET") == "NOTSET" else None
    if held is None or any(window.reach >= window.kernel > 1 and window.dilation > 1 for window in held):
        return False
    pads = [window.begin for window in held] + [max(window.reach, window.end) for window in held]
    _correct_shapes(model, node, held)
    if any(window.reach > window.end for window in held) and attribute(node, "count_include_pad", 0):
        return respell(model.graph, node, lambda node, spell: _counted(node, pads, held, spell))
    set_attributes(node, {"ceil_mode": None, "pads": pads if any(pads) else None})
    return True


def _ceiled(node: ir.Node) -> tuple[Window, ...] | None:
    """The windows of a pool in ceil_mode, sizes by ONNX MaxPool-12: the last one starts on the image or the padding before it."""
    source = node.inputs[0]
    sizes = list(source.shape)[2:] if source is not None and source.shape is not None else []
    if not sizes or not all(isinstance(size, int) for size in sizes):
        return None
    floored = _windows(node, sizes, [1] * len(sizes))
    outs = []
    for window in floored:
        span = (window.kernel - 1) * window.dilation + 1
        out = -(-(window.size + window.begin + window.end - span) // window.stride) + 1
        outs.append(out - ((out - 1) * window.stride >= window.size + window.begin))
    return _windows(node, sizes, outs)


def _counted(node: ir.Node, pads: list[int], held: Sequence[Window], spell: Spelling) -> Values:
    """A mean that counts its padding but not its overhang: the mean that counts both, times window / count."""
    options = {name: attribute(node, name) for name in node.attributes if name not in ("ceil_mode", "pads")}
    pooled = spell("AveragePool", node.inputs[0], **options, pads=pads)
    source, window = node.inputs[0], np.prod([held_window.kernel for held_window in held])
    assert source is not None
    return [spell("Mul", pooled, spell.constant(window / _outer_counts(held, padding=True), dtype_name(source)))]


def _outer_counts(held: Sequence[Window], padding: bool) -> NDArray[np.float64]:
    """(1, 1, out, ...) how many elements of each window count."""
    counts = np.ones((1, 1))
    for window in held:
        counts = counts[..., None] * window.counts(padding)
    return counts


def _correct_shapes(model: ir.Model, node: ir.Node, held: Sequence[Window]) -> None:
    """Replace an inferred shape that is not the pool's, and every shape that may follow from it."""
    import onnx_ir as ir

    result, source = node.outputs[0], node.inputs[0]
    assert source is not None and source.shape is not None
    right = ir.Shape([*source.shape[:2], *(window.out for window in held)])
    if result.shape is None or result.shape == right:
        return
    for value in (value for other in model.graph for value in other.outputs):
        value.shape = None
    result.shape = right


def volume_pool(node: ir.Node, spell: Spelling) -> Values | None:
    """A pool over (N, C, D, H, W) as one over (H, W) and one over D: a window is a box, and its extreme or mean is taken side by side.

    The mean of a box is the mean of the means of its slices, whatever part of the box is padding or overhang, because that part is the
    same for every slice; likewise for sums of powers.
    """
    held = windows(node)
    shape = known_shape_but_batch(node.inputs[0])
    if held is None or len(held) != 3 or shape is None or any(map(is_read, node.outputs[1:])):
        return None
    depth, height, width = held
    channels = shape[0]
    flat = spell("Reshape", node.inputs[0], spell.integers(-1, channels * depth.size, height.size, width.size))
    slices = spell(node.op_type, flat, **_options(node, (1, 2)))
    columns = spell("Reshape", slices, spell.integers(-1, channels, depth.size, height.out * width.out))
    pooled = spell(node.op_type, columns, **_options(node, (0, None)))
    return [spell("Reshape", pooled, spell.integers(-1, channels, depth.out, height.out, width.out))]


def _options(node: ir.Node, axes: Sequence[int | None]) -> dict[str, Any]:
    """The attributes of a pool over some of its spatial axes; None stands for an axis that is left alone."""
    same = {name: attribute(node, name) for name in ("ceil_mode", "count_include_pad", "p") if name in node.attributes}
    picked = {name: _picked(attribute(node, name), axes, 1) for name in ("kernel_shape", "strides", "dilations") if name in node.attributes}
    pads = attribute(node, "pads")
    if not pads:
        return same | picked
    half = len(pads) // 2
    return same | picked | {"pads": _picked(pads[:half], axes, 0) + _picked(pads[half:], axes, 0)}


def _picked(numbers: Sequence[int], axes: Sequence[int | None], alone: int) -> list[int]:
    return [alone if axis is None else numbers[axis] for axis in axes]


def known_shape_but_batch(value: ir.Value | None) -> tuple[int, ...] | None:
    """Sizes after the first, when all of them are known."""
    sizes = list(value.shape)[1:] if value is not None and value.shape is not None else [None]
    return tuple(size for size in sizes if isinstance(size, int)) if all(isinstance(size, int) for size in sizes) else None


def dilated_max_pool(node: ir.Node, spell: Spelling) -> Values | None:
    """A dilated MaxPool, an axis at a time, as the maximum of strided slices."""
    held, x = windows(node), node.inputs[0]
    if held is None or x is None or _is_dense(held) or any(map(is_read, node.outputs[1:])):
        return None
    dtype = np.dtype(dtype_name(x))
    lowest = np.finfo(dtype).min if dtype.kind == "f" else np.iinfo(dtype).min
    value = _padded(x, held, spell, spell.constant(lowest, dtype))
    for axis, window in enumerate(held, start=2):
        parts = [_strided(value, axis, window, tap, spell) for tap in range(window.kernel)]
        value = parts[0] if len(parts) == 1 else spell("Max", *parts)
    return [value]


def _strided(value: ir.Value, axis: int, window: Window, tap: int, spell: Spelling) -> ir.Value:
    """The elements that tap number ``tap`` of every window reads."""
    start = tap * window.dilation
    bounds = (start, start + (window.out - 1) * window.stride + 1, axis, window.stride)
    return spell("Slice", value, *(spell.integers(bound) for bound in bounds))


def _padded(x: ir.Value, held: Sequence[Window], spell: Spelling, value: ir.Value) -> ir.Value:
    begins, ends = [window.begin for window in held], [max(window.reach, 0) for window in held]
    if not any((*begins, *ends)):
        return x
    return spell("Pad", x, spell.integers(0, 0, *begins, 0, 0, *ends), value, mode="constant")


def dilated_average_pool(node: ir.Node, spell: Spelling) -> Values | None:
    """A dilated AveragePool as the sum over its window divided by how many elements count, a constant for each place."""
    held = windows(node)
    if held is None or _is_dense(held) or _channels(node) is None:
        return None
    counts = _outer_counts(held, bool(attribute(node, "count_include_pad", 0)))
    x = node.inputs[0]
    assert x is not None
    summed = _window_sum(node, x, held, spell)
    return [spell("Mul", summed, spell.constant(1 / counts, dtype_name(x)))]


def lp_pool(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX LpPool-18: the p-th root of the sum of |x|^p over a window; padding adds nothing."""
    held, x = windows(node), node.inputs[0]
    if held is None or x is None or _channels(node) is None:
        return None
    p = attribute(node, "p", 2)
    return [_root(_window_sum(node, _power(x, p, spell), held, spell), p, x, spell)]


def global_lp_pool(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX GlobalLpPool-2: the same over the whole image."""
    x, p = node.inputs[0], attribute(node, "p", 2)
    if x is None or x.shape is None:
        return None
    axes = spell.integers(*range(2, len(x.shape)))
    return [_root(spell("ReduceSum", _power(x, p, spell), axes, keepdims=1), p, x, spell)]


def _power(x: ir.Value, p: int, spell: Spelling) -> ir.Value:
    """|x|^p, without Pow where a product says it."""
    if p == 2:
        return spell("Mul", x, x)
    size = spell("Abs", x)
    return size if p == 1 else spell("Pow", size, spell.constant(p, dtype_name(x)))


def _root(total: ir.Value, p: int, x: ir.Value, spell: Spelling) -> ir.Value:
    if p == 2:
        return spell("Sqrt", total)
    return spell("Pow", total, spell.constant(1 / p, dtype_name(x))) if p != 1 else spell("Identity", total)


def _window_sum(node: ir.Node, x: ir.Value, held: Sequence[Window], spell: Spelling) -> ir.Value:
    """Sums over windows as a depthwise Conv of ones, which takes every stride, dilation and padding; an overhang is padding too."""
    source = node.inputs[0]
    assert source is not None
    channels = _channels(node)
    kernel = [window.kernel for window in held]
    ones = spell.constant(np.ones((channels or 0, 1, *kernel)), dtype_name(source))
    pads = [window.begin for window in held] + [max(window.reach, 0) for window in held]
    strides, dilations = [window.stride for window in held], [window.dilation for window in held]
    return spell("Conv", x, ones, group=channels, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads)


def _channels(node: ir.Node) -> int | None:
    source = node.inputs[0]
    size = source.shape[1] if source is not None and source.shape is not None and len(source.shape) > 2 else None
    return size if isinstance(size, int) else None


def _is_dense(held: Sequence[Window]) -> bool:
    return all(window.dilation == 1 or window.kernel == 1 for window in held)


VOLUMES: dict[str, Speller] = dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), volume_pool)
IMAGES: dict[str, Speller] = {
    "MaxPool": dilated_max_pool,
    "AveragePool": dilated_average_pool,
    "LpPool": lp_pool,
    "GlobalLpPool": global_lp_pool,
}


def global_pools(model: ir.Model) -> bool:
    """ReduceMean over exactly the spatial axes of (N, C, H, W) becomes GlobalAveragePool, which onnxruntime has an integer kernel for."""
    nodes = [node for node in model.graph if _is_mean_over_space(node)]
    for node in nodes:
        _pool_globally(model.graph, node)
    return bool(nodes)


def _is_mean_over_space(node: ir.Node) -> bool:
    source = node.inputs[0] if node.op_type == "ReduceMean" else None
    axes = constant(node.inputs[1]) if source is not None and len(node.inputs) > 1 else None
    if source is None or axes is None or source.shape is None or len(source.shape) != 4 or node.outputs[0].shape is None:
        return False
    if source.dtype is None or not source.dtype.is_floating_point():
        return False
    return sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _pool_globally(graph: ir.Graph, node: ir.Node) -> None:
    """With keepdims the pool itself; without, the pool and a Reshape that drops the two axes of size 1."""
    import onnx_ir as ir

    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.shape is not None
    pool = ir.node("GlobalAveragePool", [source], name=f"{node.name}/pool")
    replacement, pooled = pool, pool.outputs[0]
    pooled.name, pooled.type = f"{output.name}/pooled", output.type
    pooled.shape = ir.Shape([*source.shape[:2], 1, 1])
    added = [pool]
    if not attribute(node, "keepdims", 1):
        shape = initializer(graph, f"{output.name}/shape", np.asarray([0, -1], np.int64))
        replacement = ir.node("Reshape", [pooled, shape], name=f"{node.name}/reshape")
        added.append(replacement)
    ir.convenience.replace_nodes_and_values(graph, node, [node], added, [output], [replacement.outputs[0]])


def no_mean_over_space(model: ir.Model) -> str | None:
    left = [node for node in model.graph if _is_mean_over_space(node)]
    return f"{label(left[0])} is not a GlobalAveragePool" if left else None
