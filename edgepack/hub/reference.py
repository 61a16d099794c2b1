"""The float64 run of an ONNX graph: onnx's own reference evaluator over a model whose every real number became float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import one_line
from edgepack.hub import control_reference, recurrent_reference
from edgepack.hub.graph import HubError

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, NDArray[Any]]
# Attributes that name an element type.
_TYPE_ATTRIBUTES = {("Cast", "to"), ("EyeLike", "dtype"), ("GroupNormalization", "stash_type")}


class Float64Run:
    """A real-valued ONNX model evaluated in float64.

    Source: ``onnx.reference.ReferenceEvaluator``, numpy implementations of the operator specification, independent of onnxruntime.
    A model that the evaluator cannot run is evaluated as it is spelled at the hub's opset, its functions written out.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._names = [output.name for output in model.graph.output]
        self._model = model
        self._evaluator: Any = None

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name; real-valued inputs are promoted.

        Raises:
            HubError: the evaluator does not know an operator, or not in this form.
        """
        double = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in feed.items()}
        if self._evaluator is not None:
            return self._named(self._evaluator.run(None, double))
        try:
            evaluator = _evaluator(self._model)
            results = evaluator.run(None, double)
        except Exception as error:
            evaluator = self._converted(error)
            results = _run(evaluator, double)
        self._evaluator = evaluator
        return self._named(results)

    def _converted(self, error: Exception) -> Any:
        from edgepack.hub.functions import expanded, has_body
        from edgepack.hub.opsets import at_opset

        converted = expanded(at_opset(self._model), has_body)
        if converted is self._model:
            raise _cannot(error) from error
        return _evaluator(converted)

    def _named(self, results: list[NDArray[Any]]) -> Arrays:
        return dict(zip(self._names, results, strict=True))


def _run(evaluator: Any, feed: Arrays) -> list[NDArray[Any]]:
    try:
        results: list[NDArray[Any]] = evaluator.run(None, feed)
    except Exception as error:
        raise _cannot(error) from error
    return results


def _cannot(error: Exception) -> HubError:
    return HubError(f"the model cannot be evaluated in float64 ({one_line(error)})", "write that operator of the student in another way")


def _evaluator(model: onnx.ModelProto) -> Any:
    from onnx.reference import ReferenceEvaluator

    own = [_grouped_conv_transpose(), _inference_batch_normalization(), _cropping_pad(), *_pools(), _global_lp_pool(), _global_max_pool()]
    own += [_gather_elements(), _grid_sample(), _affine_grid(), _local_response_normalization()]
    own += [*recurrent_reference.operators(), *control_reference.operators()]
    return ReferenceEvaluator(_promote(model), new_ops=own)


def _grouped_conv_transpose() -> Any:
    """ConvTranspose by groups: onnx 1.23's own gives wrong shapes for more than one group. Each group alone is onnx's."""
    from onnx.reference.ops import op_conv_transpose

    one_group: Any = op_conv_transpose.ConvTranspose._run

    class ConvTranspose(op_conv_transpose.ConvTranspose):
        def _run(self, x: Any, w: Any, b: Any = None, group: Any = 1, **attributes: Any) -> Any:  # type: ignore[override]
            xs, ws = np.split(x, group, axis=1), np.split(w, group, axis=0)
            bs = np.split(b, group) if b is not None else [None] * group
            parts = [one_group(self, *part, group=1, **attributes)[0] for part in zip(xs, ws, bs, strict=True)]
            return (np.concatenate(parts, axis=1),)

    return ConvTranspose


def _inference_batch_normalization() -> Any:
    """BatchNormalization by the statistics it is given: onnx 1.23's own takes opsets 7 to 13 for training and uses the batch's."""
    from onnx.reference.ops import op_batch_normalization

    newest: Any = op_batch_normalization.BatchNormalization_14

    class BatchNormalization(newest):  # type: ignore[misc]
        def _run(self, *tensors: Any, epsilon: Any = 1e-5, momentum: Any = 0.9, training_mode: Any = 0, spatial: Any = 1) -> Any:
            return newest._run(self, *tensors, epsilon=epsilon, momentum=momentum, training_mode=training_mode)

    return BatchNormalization


def _cropping_pad() -> Any:
    """Pad whose negative amounts remove elements (ONNX Pad-18): onnx 1.23's own stops at them. What remains to be padded is onnx's."""
    from onnx.reference.ops import op_pad

    newest: Any = op_pad.Pad_18

    class Pad(newest):  # type: ignore[misc]
        def _run(self, data: Any, pads: Any, value: Any = None, axes: Any = None, mode: Any = None) -> Any:
            amounts = np.asarray(pads).reshape(2, -1)
            chosen = range(data.ndim) if axes is None else [int(axis) % data.ndim for axis in axes]
            kept = [slice(None)] * data.ndim
            for axis, begin, end in zip(chosen, *np.maximum(-amounts, 0), strict=True):
                kept[axis] = slice(begin, data.shape[axis] - end)
            return newest._run(self, data[tuple(kept)], np.maximum(amounts, 0).ravel(), value, axes, mode)

    return Pad


def _local_response_normalization() -> Any:
    """LRN-13 over any rank: onnx 1.23's own counts images where it should count channels, and knows rank 4 alone."""
    from onnx.reference.op_run import OpRun

    class LRN(OpRun):
        def _run(self, x: Any, alpha: Any = 1e-4, beta: Any = 0.75, bias: Any = 1.0, size: Any = 1) -> Any:
            around = [(0, 0)] * x.ndim
            around[1] = ((size - 1) // 2, size // 2)
            squares = np.pad(np.square(x), around)
            sums = np.lib.stride_tricks.sliding_window_view(squares, size, axis=1).sum(axis=-1)
            return (x / (float(bias) + float(alpha) / size * sums) ** float(beta),)

    return LRN


def _pools() -> list[Any]:
    """LpPool, MaxPool and AveragePool by their definitions (ONNX LpPool-18, MaxPool-12, AveragePool-19).

    onnx 1.23's own LpPool averages over elements, then multiplies by the whole window; its MaxPool gives wrong shapes with auto_pad and
    stops at some windows that begin beyond the input; its AveragePool stops at auto_pad with ceil_mode. MaxPool with indices is onnx's.
    """
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops import op_max_pool

    newest: Any = op_max_pool.MaxPool

    class LpPool(OpRun):
        def _run(self, x: Any, p: Any = 2, kernel_shape: Any = None, **options: Any) -> Any:
            total = sum(_taps(np.abs(x) ** p, kernel_shape, options, 0.0, 0.0))
            return (np.asarray(total ** (1 / p), x.dtype),)

    class MaxPool(newest):  # type: ignore[misc]
        def _run(self, x: Any, kernel_shape: Any = None, **options: Any) -> Any:
            if len(self.onnx_node.output) > 1:
                return newest._run(self, x, kernel_shape=kernel_shape, **options)
            lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
            return (np.asarray(np.max(list(_taps(x, kernel_shape, options, lowest, lowest)), axis=0), x.dtype),)

    class AveragePool(OpRun):
        def _run(self, x: Any, kernel_shape: Any = None, count_include_pad: Any = 0, **options: Any) -> Any:
            total = sum(_taps(x, kernel_shape, options, 0.0, 0.0))
            # What ceil_mode reaches beyond the padding is never counted.
            counts = sum(_taps(np.ones(x.shape), kernel_shape, options, float(count_include_pad or 0), 0.0))
            return (np.asarray(total / counts, x.dtype),)

    return [LpPool, MaxPool, AveragePool]


def _taps(x: Any, kernel: Any, options: Mapping[str, Any], padding: float, overhang: float) -> Iterator[NDArray[Any]]:
    """What each position of a window sees of (N, C, *spatial) data, every output at once: (N, C, *outputs), a position after the other."""
    begins, ends, outs, strides, dilations = _window_geometry(x.shape[2:], kernel, options)
    spans = [
        stride * (out - 1) + dilation * (size - 1) + 1 for stride, out, dilation, size in zip(strides, outs, dilations, kernel, strict=True)
    ]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(begins, ends, strict=True)], constant_values=padding)
    spare = [max(span - size, 0) for span, size in zip(spans, padded.shape[2:], strict=True)]
    padded = np.pad(padded, [(0, 0), (0, 0), *((0, extra) for extra in spare)], constant_values=overhang)
    for tap in np.ndindex(*kernel):
        starts = [index * dilation for index, dilation in zip(tap, dilations, strict=True)]
        cut = [slice(start, start + stride * (out - 1) + 1, stride) for start, out, stride in zip(starts, outs, strides, strict=True)]
        yield padded[(slice(None), slice(None), *cut)]


def _global_max_pool() -> Any:
    """GlobalMaxPool by ONNX GlobalMaxPool-1: onnx 1.23's own gives one axis too many or too few where there are not two axes of space."""
    from onnx.reference.op_run import OpRun

    class GlobalMaxPool(OpRun):
        def _run(self, x: Any) -> Any:
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    return GlobalMaxPool


def _global_lp_pool() -> Any:
    """GlobalLpPool by ONNX GlobalLpPool-2, which onnx 1.23 does not implement."""
    from onnx.reference.op_run import OpRun

    class GlobalLpPool(OpRun):
        def _run(self, x: Any, p: Any = 2) -> Any:
            total = (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True)
            return (np.asarray(total ** (1 / p), x.dtype),)

    return GlobalLpPool


def _gather_elements() -> Any:
    """GatherElements by ONNX GatherElements-13: onnx 1.23's own stops where an index is shorter than the data along another axis."""
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):
        def _run(self, data: Any, indices: Any, axis: Any = 0) -> Any:
            cut = tuple(slice(None) if at == axis % data.ndim else slice(size) for at, size in enumerate(indices.shape))
            return (np.take_along_axis(data[cut], indices, axis),)

    return GatherElements


def _grid_sample() -> Any:
    """GridSample by ONNX GridSample-20 over whole arrays: onnx 1.23's own takes a point after the other, a minute for a small photo."""
    from onnx.reference.op_run import OpRun

    class GridSample(OpRun):
        def _run(self, x: Any, grid: Any, mode: Any = None, padding_mode: Any = None, align_corners: Any = None) -> Any:
            kind = {"bilinear": "linear", "bicubic": "cubic"}.get(mode or "linear", mode or "linear")
            read = [
                _axis_taps(grid[..., -1 - axis], size, kind, padding_mode or "zeros", bool(align_corners))
                for axis, size in enumerate(x.shape[2:])
            ]
            last, total = np.moveaxis(x, 1, -1), np.zeros((*grid.shape[:-1], x.shape[1]), x.dtype)
            image = np.arange(len(x)).reshape(-1, *[1] * (grid.ndim - 2))
            for taps in product(*read):
                weight = np.prod([held for _, held in taps], axis=0)
                total += weight[..., None] * last[(image, *(place for place, _ in taps))]
            return (np.moveaxis(total, -1, 1),)

    return GridSample


def _affine_grid() -> Any:
    """AffineGrid by onnx, in the type of its matrices: onnx 1.23's own rounds to float32, which then meets float64."""
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops import op_affine_grid

    points_of: Any = op_affine_grid.construct_original_grid

    class AffineGrid(OpRun):
        def _run(self, theta: Any, size: Any, align_corners: Any = None) -> Any:
            points = points_of(size[2:], align_corners or 0)
            return (np.asarray(np.einsum("...h,ndh->n...d", points, theta), theta.dtype),)

    return AffineGrid


def _axis_taps(at: Any, size: int, kind: str, padding: str, aligned: bool) -> list[tuple[Any, Any]]:
    """(pixels, weights) along one axis, for each of the pixels that a point reads."""
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    at = low + (at + 1) / 2 * (high - low)
    # A half is one in the precision of the coordinates: onnx rounds them to float32 before.
    at = np.rint(at.astype(np.float32)).astype(np.float64) if kind == "nearest" else at
    moved = np.clip(at, 0, size - 1) if padding == "border" else _mirrored(at, low, high) if padding == "reflection" else at
    at = np.where((at < low) | (at > high), moved, at)
    first = np.floor(at)
    places = [first + step for step in {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[kind]]
    weights: dict[str, Callable[[Any], Any]] = {"nearest": np.ones_like, "linear": lambda distance: 1 - distance, "cubic": _keys}
    held = [_mirrored(place, low, high) if padding == "reflection" else place for place in places]
    inside = [(place >= 0) & (place < size) if padding == "zeros" else np.ones(place.shape, bool) for place in places]
    whole = [np.clip(place, 0, size - 1).astype(np.int64) for place in held]
    return [(index, weights[kind](np.abs(at - place)) * fits) for index, place, fits in zip(whole, places, inside, strict=True)]


def _mirrored(at: Any, low: float, high: float) -> Any:
    span = high - low
    return high - np.abs(np.abs(at - low) % (2 * span) - span) if span else np.full_like(at, low)


def _keys(distance: Any, a: float = -0.75) -> Any:
    """Keys' cubic convolution kernel (https://doi.org/10.1109/TASSP.1981.1163711, equation 15) at distances up to 2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)


def _window_geometry(sizes: Any, kernel: Any, options: Mapping[str, Any]) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Padding at the start and end, output sizes, strides and dilations of a pool, an axis each; auto_pad as ONNX Conv-11 has it."""
    from onnx.reference.ops.op_pool_common import get_output_shape_explicit_padding

    ones, count = [1] * len(sizes), len(sizes)
    strides, dilations = list(options.get("strides") or ones), list(options.get("dilations") or ones)
    mode, pads = options.get("auto_pad") or "NOTSET", list(options.get("pads") or [0] * 2 * count)
    if mode in ("NOTSET", "VALID"):
        pads = pads if mode == "NOTSET" else [0] * 2 * count
        outs, _ = get_output_shape_explicit_padding(pads, sizes, kernel, strides, dilations, bool(options.get("ceil_mode")))
        return pads[:count], pads[count:], list(outs), strides, dilations
    outs = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    spans = [(out - 1) * s + (k - 1) * d + 1 for out, s, k, d in zip(outs, strides, kernel, dilations, strict=True)]
    totals = [max(span - size, 0) for span, size in zip(spans, sizes, strict=True)]
    begins = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    return begins, [total - begin for total, begin in zip(totals, begins, strict=True)], list(outs), strides, dilations


def _promote(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    from onnx import inliner

    promoted = onnx.ModelProto()
    promoted.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    opset = max((entry.version for entry in promoted.opset_import if not entry.domain), default=0)
    _promote_graph(promoted.graph, opset)
    return promoted


def _promote_graph(graph: onnx.GraphProto, opset: int) -> None:
    """Initializers, declared types and nodes, subgraphs included."""
    import onnx

    for tensor in graph.initializer:
        if _is_real(tensor.data_type):
            tensor.CopyFrom(_doubled(tensor))
    for value in (*graph.input, *graph.output):
        if _is_real(value.type.tensor_type.elem_type):
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        _promote_node(node, opset)


def _promote_node(node: onnx.NodeProto, opset: int) -> None:
    """Constants, casts and subgraphs of a node."""
    import onnx

    if node.op_type == "GroupNormalization" and opset >= 21 and not any(held.name == "stash_type" for held in node.attribute):
        node.attribute.append(onnx.helper.make_attribute("stash_type", onnx.TensorProto.FLOAT))
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and _is_real(attribute.t.data_type):
            attribute.t.CopyFrom(_doubled(attribute.t))
        if (node.op_type, attribute.name) in _TYPE_ATTRIBUTES and _is_real(attribute.i):
            attribute.i = onnx.TensorProto.DOUBLE
        if attribute.type == onnx.AttributeProto.GRAPH:
            _promote_graph(attribute.g, opset)
    _spell_out_constant(node)


def _spell_out_constant(node: onnx.NodeProto) -> None:
    """float32 that no tensor spells: Constant's value_float and value_floats, and ConstantOfShape's default."""
    import onnx

    given = {attribute.name: attribute for attribute in node.attribute}
    value: NDArray[np.float64] | None = None
    if node.op_type == "ConstantOfShape" and not given:
        value = np.zeros(1)
    elif node.op_type == "Constant" and "value_float" in given:
        value = np.asarray(given["value_float"].f, np.float64)
    elif node.op_type == "Constant" and "value_floats" in given:
        value = np.asarray(given["value_floats"].floats, np.float64)
    if value is not None:
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(value)))


def _is_real(data_type: int) -> bool:
    import onnx

    return data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _doubled(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
