"""One strategy an operator: it draws inputs, attributes from their whole legal range, and adds the node.

Sources: the ONNX operator pages, opset 21. What onnxruntime then refuses, the builder leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from tests.fuzz.builder import Builder, Graph, Value

Strategy = Callable[[Builder], object]
STRATEGIES: dict[str, Strategy] = {}
# Where numbers live: what a student is made of, and what int8 kernels know.
_IMAGES = (4, 4, 4, 3)


def draws(*operators: str) -> Callable[[Callable[[Builder, str], object]], Callable[[Builder, str], object]]:
    """Register a strategy that adds any of these operators."""

    def register(strategy: Callable[[Builder, str], object]) -> Callable[[Builder, str], object]:
        for operator in operators:
            STRATEGIES[operator] = lambda builder, name=operator: strategy(builder, name)  # type: ignore[misc]
        return strategy

    return register


# Elementwise functions


@draws("Relu", "Sigmoid", "Tanh", "Softplus", "Mish", "HardSwish", "Abs", "Neg", "Erf", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos")
def _function(b: Builder, operator: str) -> object:
    return b.add(operator, [b.tensor()])


@draws("Sqrt", "Log", "Reciprocal")
def _of_positive(b: Builder, operator: str) -> object:
    x = b.positive(b.tensor())
    return x and b.add(operator, [x])


@draws("Exp")
def _exp(b: Builder, operator: str) -> object:
    x = b.tensor()
    return x.array.max() < 8 and b.add(operator, [x])


@draws("Elu", "LeakyRelu")
def _sloped(b: Builder, operator: str) -> object:
    return b.add(operator, [b.tensor()], alpha=b.one_of((None, 0.01, 0.0, 0.5, 1.0, 1.5, 2.0, -0.3)))


@draws("HardSigmoid")
def _hard_sigmoid(b: Builder, operator: str) -> object:
    return b.add(operator, [b.tensor()], alpha=b.one_of((None, 1 / 6, 0.5, 1.0, -0.4)), beta=b.one_of((None, 0.5, 0.0, -0.2, 1.2)))


@draws("Gelu")
def _gelu(b: Builder, operator: str) -> object:
    return b.add(operator, [b.tensor()], approximate=b.one_of((None, "none", "tanh")))


@draws("Clip")
def _clip(b: Builder, operator: str) -> object:
    low, high = sorted((b.one_of((-3.0, -1.0, -0.5, 0.0, 0.25)), b.one_of((6.0, 1.0, 0.5, 3.0, 0.0))))
    bounds = [b.constant(low), b.constant(high)]
    return b.add(operator, [b.tensor(), *b.one_of((bounds, bounds[:1], [None, bounds[1]], []))])


@draws("PRelu")
def _prelu(b: Builder, operator: str) -> object:
    x = b.tensor()
    return b.add(operator, [x, b.constant(b.normal(b.one_of((_smaller(b, x.shape), (1,), (), _per_channel(x))), 0.5))])


@draws("Softmax", "LogSoftmax")
def _softmax(b: Builder, operator: str) -> object:
    x = b.tensor()
    return b.add(operator, [x], axis=b.one_of((None, b.axis(x.rank))))


# Elementwise arithmetic with broadcasting


def _smaller(b: Builder, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that broadcasts to ``shape``."""
    cut = b.whole(0, len(shape))
    return tuple(1 if b.chance(0.35) else size for size in shape[cut:])


def _per_channel(x: Value) -> tuple[int, ...]:
    return (x.shape[1], *(1,) * (x.rank - 2)) if x.rank > 1 else x.shape


def _operand(b: Builder, x: Value) -> Value:
    """Something to compute with ``x``: itself, another of the graph, a scalar, a channel's worth, a broadcast one, or a larger one."""
    dtype = x.array.dtype
    kind = b.whole(0, 9)
    same = [value for value in b.values if value.array.dtype == dtype and _broadcasts(value.shape, x.shape)]
    if kind < 3 and same:
        return b.one_of(same)
    if kind < 4:
        return b.fresh((), dtype) if b.quantizable or b.chance(0.7) else b.fresh((1,), dtype)
    if kind < 6:
        return b.fresh(_per_channel(x), dtype)
    if kind < 8 or x.rank > 4:
        return b.fresh(_smaller(b, x.shape), dtype)
    return b.fresh([size if size > 1 else b.one_of((1, 3)) for size in (*b.shape(b.whole(0, 5 - x.rank)), *x.shape)], dtype)


def _broadcasts(one: Sequence[int], other: Sequence[int]) -> bool:
    try:
        np.broadcast_shapes(tuple(one), tuple(other))
    except ValueError:
        return False
    return True


def _either_side(b: Builder, x: Value, y: Value) -> list[Value]:
    return [x, y] if b.chance(0.6) else [y, x]


@draws("Add", "Sub", "Mul")
def _arithmetic(b: Builder, operator: str) -> object:
    x = b.tensor(dtype=np.int32 if b.chance(0.1) and not b.quantizable else np.float32)
    return b.add(operator, _either_side(b, x, _operand(b, x)))


@draws("Div")
def _div(b: Builder, operator: str) -> object:
    x = b.tensor()
    divisor = b.positive(_operand(b, x))
    return divisor and b.add(operator, [x, divisor])


@draws("Pow")
def _pow(b: Builder, operator: str) -> object:
    x = b.tensor()
    exponent = b.one_of((2.0, 3.0, 1.0, 0.0, 0.5, -1.0, -0.5, 1.7))
    if exponent in (2.0, 3.0, 1.0, 0.0):
        return b.add(operator, [x, b.constant(exponent)])
    base = b.positive(x)
    powers = b.constant(exponent) if b.chance(0.6) else b.constant(b.normal(_smaller(b, x.shape), 0.7))
    return base and b.add(operator, [base, powers])


@draws("Max", "Min")
def _extreme(b: Builder, operator: str) -> object:
    x = b.tensor(dtype=np.int32 if b.chance(0.1) and not b.quantizable else np.float32)
    return b.add(operator, [*_either_side(b, x, _operand(b, x)), *([_operand(b, x)] if b.chance(0.3) else [])][b.chance(0.1) :])


@draws("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def _comparison(b: Builder, operator: str) -> object:
    x = b.tensor(dtype=np.int32 if b.chance(0.3) else np.float32)
    made = b.add(operator, _either_side(b, x, _operand(b, x)))
    return made and b.chance(0.6) and _chosen(b, made[0])


@draws("Not", "And", "Or", "Xor")
def _logical(b: Builder, operator: str) -> object:
    x = b.tensor(dtype=np.bool_)
    return b.add(operator, [x] if operator == "Not" else _either_side(b, x, _operand(b, x)))


@draws("Where")
def _where(b: Builder, operator: str) -> object:
    return _chosen(b, b.tensor(dtype=np.bool_))


def _chosen(b: Builder, condition: Value) -> object:
    floats = [value for value in b.values if value.array.dtype == np.float32 and _broadcasts(value.shape, condition.shape)]
    x = b.one_of(floats) if floats else b.fresh(_smaller(b, condition.shape))
    return b.add("Where", [condition, *_either_side(b, x, _operand(b, x))])


@draws("Cast")
def _cast(b: Builder, operator: str) -> object:
    from onnx import TensorProto

    x = b.tensor(dtype=b.one_of((np.float32, np.int32, np.bool_)))
    return b.add(operator, [x], to=b.one_of((TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL, TensorProto.INT64)))


# Convolutions, products, normalizations


def _window(b: Builder, sizes: Sequence[int], pools: bool = False) -> dict[str, Any]:
    """kernel_shape, strides, dilations, pads or auto_pad over spatial axes."""
    # A pool whose window does not fit is no valid ONNX, although onnxruntime runs it.
    kernel = [b.whole(1, min(size if pools else size + 1, 5)) for size in sizes]
    held: dict[str, Any] = {"kernel_shape": kernel}
    if b.chance(0.6):
        held["strides"] = [b.whole(1, 3) for _ in sizes]
    if b.chance(0.3):
        held["dilations"] = [b.whole(1, 1 if pools and 3 * k > size else 3) for k, size in zip(kernel, sizes, strict=True)]
    mode = b.one_of(("none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"))
    if mode == "pads":
        # A pool's padding must be smaller than its window.
        limits = [min(size - 1, 3) if pools else 3 for size in kernel] * 2
        held["pads"] = [b.whole(0, limit) for limit in limits]
    elif mode != "none":
        held["auto_pad"] = mode
    return held


@draws("Conv")
def _conv(b: Builder, operator: str) -> object:
    if not b.quantizable and b.chance(0.3):
        return _conv_of_rare_form(b, False)
    x = b.tensor(_IMAGES)
    channels = x.shape[1]
    group = b.one_of([1, 1, *(g for g in range(2, channels + 1) if channels % g == 0), channels])
    out = group * b.whole(1, 3)
    window = _window(b, x.shape[2:])
    weight = b.constant(_spread(b, (out, channels // group, *window["kernel_shape"])))
    bias = [b.constant(b.normal((out,)))] if b.chance(0.6) else []
    held = window if b.chance(0.7) else {name: value for name, value in window.items() if name != "kernel_shape"}
    return b.add(operator, [x, weight, *bias], group=group if group > 1 or b.chance(0.2) else None, **held)


def _spread(b: Builder, shape: Sequence[int]) -> Any:
    """Weights that keep the size of what they multiply."""
    return b.normal(shape, float(1 / np.sqrt(max(np.prod(shape[1:]), 1))))


@draws("ConvTranspose")
def _conv_transpose(b: Builder, operator: str) -> object:
    if not b.quantizable and b.chance(0.3):
        return _conv_of_rare_form(b, True)
    x = b.tensor(_IMAGES)
    channels, spatial = x.shape[1], x.rank - 2
    group = b.one_of([1, 1, *(g for g in range(2, channels + 1) if channels % g == 0)])
    window = _window(b, [3] * spatial)
    strides = window.get("strides", [1] * spatial)
    limits = [max(s, d) - 1 for s, d in zip(strides, window.get("dilations", [1] * spatial), strict=True)]
    # With auto_pad, onnx's shape inference and onnxruntime disagree on output_padding.
    if "auto_pad" not in window and b.chance(0.4):
        window["output_padding"] = [b.whole(0, limit) for limit in limits]
    if "pads" in window:
        window["pads"] = [min(pad, size - 1) for pad, size in zip(window["pads"], window["kernel_shape"] * 2, strict=True)]
    out = b.whole(1, 3)
    weight = b.constant(_spread(b, (channels, out, *window["kernel_shape"])))
    bias = [b.constant(b.normal((out * group,)))] if b.chance(0.5) else []
    return b.add(operator, [x, weight, *bias], group=group if group > 1 else None, **window)


@draws("Gemm")
def _gemm(b: Builder, operator: str) -> object:
    x = b.tensor((2,))
    over, kept = (x.shape if (turned := b.chance(0.25)) else x.shape[::-1])[:2]
    width, flipped = b.one_of(SIZES_OUT), b.chance(0.5)
    weight_shape = (width, over) if flipped else (over, width)
    weight = b.constant(b.normal(weight_shape, float(1 / np.sqrt(over)))) if b.chance(0.85) else b.fresh(weight_shape)
    shapes = ((width,), (1, width), (1,), (), (kept, 1), (kept, width))
    bias = [b.constant(b.normal(b.one_of(shapes)))] if b.chance(0.7) else []
    scales = {"alpha": b.one_of((None, 0.5, 1.5)), "beta": b.one_of((None, 2.0, 0.0))}
    return b.add(operator, [x, weight, *bias], transA=int(turned) or None, transB=int(flipped) or None, **scales)


SIZES_OUT = (1, 2, 5, 6, 10)


@draws("MatMul")
def _matmul(b: Builder, operator: str) -> object:
    x = b.tensor((2, 3, 4, 1))
    size = x.shape[-1]
    batch = b.one_of(((), (), (1,), x.shape[:-2], (3,)))
    shape = b.one_of(((*batch, size, b.one_of(SIZES_OUT)), (size,)) if b.chance(0.2) else ((*batch, size, b.one_of(SIZES_OUT)),))
    other = b.constant(b.normal(shape, float(1 / np.sqrt(size)))) if b.chance(0.6) else b.fresh(shape)
    if b.chance(0.2) and x.rank > 1:
        left = b.constant(b.normal((b.one_of(SIZES_OUT), x.shape[-2]), float(1 / np.sqrt(x.shape[-2]))))
        return b.add(operator, [left, x])
    return b.add(operator, [x, other])


@draws("BatchNormalization")
def _batch_normalization(b: Builder, operator: str) -> object:
    x = b.tensor((4, 4, 3, 2, 5))
    size = x.shape[1]
    held = [b.normal((size,)), b.normal((size,)), b.normal((size,)), b.random.uniform(0.3, 2, size)]
    return b.add(operator, [x, *(b.constant(array) for array in held)], epsilon=b.one_of((None, 1e-3, 0.1)))


@draws("InstanceNormalization")
def _instance_normalization(b: Builder, operator: str) -> object:
    x = b.tensor((4, 4, 3, 5))
    held = [b.constant(b.normal((x.shape[1],))) for _ in range(2)]
    return b.add(operator, [x, *held], epsilon=b.one_of((1e-3, 1e-2, 0.1, None)))


@draws("LayerNormalization")
def _layer_normalization(b: Builder, operator: str) -> object:
    x = b.tensor()
    axis = b.axis(x.rank)
    shape = x.shape[axis:]
    held = [b.constant(b.normal(shape)) for _ in range(2 if b.chance(0.7) else 1)]
    return b.add(operator, [x, *held], axis=axis if axis != -1 or b.chance(0.5) else None, epsilon=b.one_of((1e-3, 1e-2, None)))


# Pools and reductions


@draws("AveragePool", "MaxPool", "LpPool")
def _pool(b: Builder, operator: str) -> object:
    x = b.tensor(_IMAGES)
    window = _window(b, x.shape[2:], pools=True)
    # With auto_pad, onnx's shape inference and onnxruntime disagree on ceil_mode and, for averages, on dilations; for LpPool on ceil_mode.
    if "auto_pad" not in window and operator != "LpPool" and b.chance(0.5):
        window["ceil_mode"] = 1
    if operator == "AveragePool" and "auto_pad" in window:
        window.pop("dilations", None)
    if operator == "AveragePool" and b.chance(0.4):
        window["count_include_pad"] = 1
    if operator == "LpPool" and b.chance(0.5):
        window["p"] = b.one_of((1, 2, 3))
    return b.add(operator, [x], **window)


@draws("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(b: Builder, operator: str) -> object:
    return b.add(operator, [b.tensor((4, 4, 3, 5))])


@draws("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
def _reduction(b: Builder, operator: str) -> object:
    x = b.tensor()
    return _reduced(b, operator, x)


@draws("ReduceProd", "ReduceLogSum")
def _reduction_of_positive(b: Builder, operator: str) -> object:
    x = b.positive(b.tensor())
    return x and _reduced(b, operator, x)


def _reduced(b: Builder, operator: str, x: Value) -> object:
    kind = b.whole(0, 9)
    keep = b.one_of((None, 0, 1))
    if kind == 0:
        return b.add(operator, [x], keepdims=keep)
    if kind == 1:
        return b.add(operator, [x], keepdims=keep, noop_with_empty_axes=1)
    return b.add(operator, [x, b.constant(b.axes(x.rank), np.int64)], keepdims=keep)


@draws("ArgMax", "ArgMin")
def _arg(b: Builder, operator: str) -> object:
    x = b.tensor(dtype=np.int32 if b.chance(0.15) else np.float32)
    last = b.one_of((None, 0, 1))
    return b.add(operator, [x], axis=b.one_of((None, b.axis(x.rank))), keepdims=b.one_of((None, 0, 1)), select_last_index=last)


@draws("TopK")
def _topk(b: Builder, operator: str) -> object:
    x = b.tensor()
    axis = b.axis(x.rank)
    count = b.constant([b.whole(1, x.shape[axis])], np.int64)
    return b.add(operator, [x, count], outputs=2, axis=axis, largest=b.one_of((None, 0, 1)), sorted=b.one_of((None, 1)))


# What only moves numbers


def _any(b: Builder, ranks: Sequence[int] = (1, 2, 3, 4, 5)) -> Value:
    """A tensor of any element type, mostly float."""
    return b.tensor(ranks, np.float32 if b.quantizable or b.chance(0.85) else b.one_of((np.int32, np.bool_)))


@draws("Reshape")
def _reshape(b: Builder, operator: str) -> object:
    x = _any(b)
    sizes = b._split(x.array.size, b.whole(1, 5))
    if b.chance(0.4):
        sizes[b.whole(0, len(sizes) - 1)] = -1
    if b.chance(0.3):
        copied = [i for i, size in enumerate(sizes) if i < x.rank and size == x.shape[i]]
        sizes = [0 if i in copied[:1] else size for i, size in enumerate(sizes)]
    return b.add(operator, [x, b.constant(sizes, np.int64)])


@draws("Flatten")
def _flatten(b: Builder, operator: str) -> object:
    x = _any(b)
    return b.add(operator, [x], axis=b.one_of((None, b.whole(-x.rank, x.rank))))


@draws("Transpose")
def _transpose(b: Builder, operator: str) -> object:
    x = _any(b)
    return b.add(operator, [x], perm=b.one_of((None, b.some_of(range(x.rank), x.rank, x.rank))))


@draws("Squeeze")
def _squeeze(b: Builder, operator: str) -> object:
    x = _any(b)
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not ones:
        return None
    chosen = [axis - x.rank if b.chance(0.3) else axis for axis in ones[: b.whole(1, len(ones))]]
    return b.add(operator, [x] if b.chance(0.2) else [x, b.constant(chosen, np.int64)])


@draws("Unsqueeze")
def _unsqueeze(b: Builder, operator: str) -> object:
    x = _any(b, (1, 2, 3, 4))
    count = b.whole(1, 5 - x.rank)
    return b.add(operator, [x, b.constant(b.axes(x.rank + count)[:count], np.int64)])


@draws("Expand")
def _expand(b: Builder, operator: str) -> object:
    x = _any(b)
    wanted = [b.one_of((1, 2, 3)) if size == 1 else b.one_of((1, size)) for size in x.shape]
    more = [b.one_of((1, 2)) for _ in range(b.whole(0, 5 - x.rank))] if b.chance(0.3) else []
    return b.add(operator, [x, b.constant([*more, *wanted[b.whole(0, x.rank - 1) if not more else 0 :]], np.int64)])


@draws("Tile")
def _tile(b: Builder, operator: str) -> object:
    x = _any(b)
    return b.add(operator, [x, b.constant([b.one_of((1, 1, 2, 3)) for _ in x.shape], np.int64)])


@draws("Concat")
def _concat(b: Builder, operator: str) -> object:
    x = _any(b)
    axis = b.axis(x.rank)
    others = []
    for _ in range(b.whole(0, 2)):
        fitting = [v for v in b.values if v.array.dtype == x.array.dtype and v.rank == x.rank and _joins(v.shape, x.shape, axis)]
        shape = list(x.shape)
        shape[axis] = b.whole(1, 4)
        others.append(b.one_of(fitting) if fitting and b.chance(0.7) else b.fresh(shape, x.array.dtype))
    return b.add(operator, b.some_of([x, *others], 1 + len(others), 1 + len(others)), axis=axis)


def _joins(one: Sequence[int], other: Sequence[int], axis: int) -> bool:
    rank = len(one)
    return all(one[i] == other[i] for i in range(rank) if i != axis % rank)


@draws("Split")
def _split(b: Builder, operator: str) -> object:
    x = _any(b)
    axis = b.axis(x.rank)
    size, count = x.shape[axis], b.whole(1, min(3, x.shape[axis]))
    held = axis if axis or b.chance(0.5) else None
    if b.chance(0.4):
        return b.add(operator, [x], outputs=count, axis=held, num_outputs=count)
    cuts = sorted(b.some_of(range(1, size), count - 1, count - 1))
    parts = np.diff([0, *cuts, size])
    return b.add(operator, [x, b.constant(parts, np.int64)], outputs=count, axis=held)


@draws("Slice")
def _slice(b: Builder, operator: str) -> object:
    x = _any(b)
    axes = b.axes(x.rank)
    ends = [np.iinfo(np.int64).max, np.iinfo(np.int64).min]
    starts, stops, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = b.one_of((1, 1, 2, 3, -1, -2))
        first, last = sorted((b.whole(0, size - 1), b.whole(0, size - 1)))
        start, stop = (first, last + 1) if step > 0 else (last, first - 1)
        stop = stop if stop >= 0 else -size - 1
        if b.chance(0.3):
            start, stop = (0, ends[0]) if step > 0 else (ends[0], ends[1])
        elif b.chance(0.3) and start > 0:
            start -= size
        starts, stops, steps = [*starts, start], [*stops, stop], [*steps, step]
    kind = b.constant if b.chance(0.7) else lambda array, _: b.constant(np.clip(array, -(2**31), 2**31 - 1), np.int32)
    parts = [kind(held, np.int64) for held in (starts, stops, axes, steps)]
    return b.add(operator, [x, *parts])


@draws("Pad")
def _pad(b: Builder, operator: str) -> object:
    x = _any(b)
    mode = b.one_of(("constant", "constant", "reflect", "edge", "wrap"))
    axes = b.axes(x.rank) if b.chance(0.4) else list(range(x.rank))
    sizes = [x.shape[axis] for axis in axes]
    most = [size - 1 if mode == "reflect" else 3 if mode != "wrap" else size for size in sizes] * 2
    least = [-1 if mode == "constant" and size > 2 and b.chance(0.15) else 0 for size in sizes] * 2
    pads = [b.whole(low, min(high, 3)) if b.chance(0.6) else 0 for low, high in zip(least, most, strict=True)]
    value = b.constant(b.one_of((0.0, 1.5, -1.0)), x.array.dtype) if mode == "constant" and b.chance(0.5) else None
    last = [b.constant(axes, np.int64)] if len(axes) < x.rank or axes != list(range(x.rank)) else []
    inputs = [x, b.constant(pads, np.int64), *([value] if value or last else []), *last]
    return b.add(operator, inputs, mode=mode if mode != "constant" or b.chance(0.3) else None)


@draws("Gather")
def _gather(b: Builder, operator: str) -> object:
    x = _any(b)
    axis = b.axis(x.rank)
    size = x.shape[axis]
    indices = b.random.integers(-size, size, b.one_of(((), (1,), (3,), (2, 2), (size + 1,))))
    chosen = b.constant(indices, b.one_of((np.int64, np.int32))) if b.quantizable or b.chance(0.8) or len(b.inputs) > 2 else None
    return b.add(operator, [x, chosen or b.input(indices.astype(np.int32))], axis=axis if axis or b.chance(0.5) else None)


def _places(b: Builder, indices: Any) -> Value:
    """Indices known or computed at run time."""
    known = b.quantizable or b.chance(0.5) or len(b.inputs) > 2
    return b.constant(indices, b.one_of((np.int64, np.int32))) if known else b.input(np.asarray(indices, np.int32))


@draws("GatherElements")
def _gather_elements(b: Builder, operator: str) -> object:
    x = _any(b)
    axis = b.axis(x.rank)
    shape = [b.whole(1, size) for size in x.shape]
    shape[axis] = b.whole(1, 6)
    return b.add(
        operator, [x, _places(b, b.random.integers(-x.shape[axis], x.shape[axis], shape))], axis=axis if axis or b.chance(0.5) else None
    )


def _vectors(b: Builder, sizes: Sequence[int], count: int, repeats: bool) -> Any:
    """(count, len(sizes)) places, some from the end; different ones unless ``repeats``."""
    total = int(np.prod(sizes))
    flat = b.random.integers(0, total, count) if repeats else b.random.permutation(total)[:count]
    places = np.stack(np.unravel_index(flat, tuple(sizes)), axis=-1)
    return np.where(b.random.random(places.shape) < 0.3, places - np.asarray(sizes), places)


@draws("GatherND")
def _gather_nd(b: Builder, operator: str) -> object:
    x = _any(b, (2, 3, 4))
    batch = b.one_of((0, 0, 1))
    taken = b.whole(1, x.rank - batch)
    count = b.whole(1, 5)
    vectors = _vectors(b, x.shape[batch : batch + taken], x.shape[0] * count if batch else count, True)
    shape = (x.shape[0], count, taken) if batch else b.one_of(((count, taken), (1, count, taken)))
    return b.add(operator, [x, _places(b, vectors.reshape(shape))], batch_dims=batch or None)


def _scattered(b: Builder) -> tuple[Value, str | None]:
    """Data and a reduction; booleans have none, and without one ONNX wants no two equal indices."""
    x, reduction = _any(b, (1, 2, 3, 4)), b.one_of((None, None, "add", "mul", "max", "min"))
    return x, None if x.array.dtype == np.bool_ else reduction


@draws("ScatterND")
def _scatter_nd(b: Builder, operator: str) -> object:
    x, reduction = _scattered(b)
    taken = b.whole(1, x.rank)
    sizes = x.shape[:taken]
    vectors = _vectors(b, sizes, min(b.whole(1, 5), int(np.prod(sizes))), reduction is not None)
    updates = b.fresh((len(vectors), *x.shape[taken:]), x.array.dtype)
    indices = _places(b, vectors)
    # onnxruntime's scatter takes int64 alone.
    indices = indices if indices.array.dtype == np.int64 else b.add("Cast", [indices], to=7)[0]
    return b.add(operator, [x, indices, updates], reduction=reduction)


@draws("ScatterElements")
def _scatter_elements(b: Builder, operator: str) -> object:
    x, reduction = _scattered(b)
    axis = b.axis(x.rank)
    shape = [size if b.chance(0.5) else b.whole(1, size) for size in x.shape]
    size = x.shape[axis]
    order = np.argsort(b.random.random((*shape[: axis % x.rank], size, *shape[axis % x.rank + 1 :])), axis=axis)
    indices = np.take(order, range(shape[axis]), axis=axis)
    indices = indices if reduction is None else b.random.integers(-size, size, shape)
    updates = b.fresh(shape, x.array.dtype)
    return b.add(operator, [x, _places(b, indices), updates], axis=axis, reduction=reduction)


@draws("OneHot")
def _one_hot(b: Builder, operator: str) -> object:
    depth = b.whole(1, 6)
    indices = b.input(b.random.integers(-depth - 1, depth + 2, b.shape(b.whole(1, 3))).astype(np.int64)) if len(b.inputs) < 3 else None
    values = b.constant(b.one_of(([0.0, 1.0], [-1.0, 2.5])))
    return indices and b.add(operator, [indices, b.constant(depth, np.int64), values], axis=b.one_of((None, 0, -1)))


@draws("GridSample")
def _grid_sample(b: Builder, operator: str) -> object:
    spatial = b.one_of((2, 2, 3))
    x = b.tensor((spatial + 2,))
    points = b.shape(spatial)
    # Most within the image, some far beyond; none where a rounding decides which pixel is read.
    grid = b.random.uniform(-1.6, 1.6, (x.shape[0], *points, spatial)).astype(np.float32)
    known = b.quantizable or len(b.inputs) > 2
    # Coordinates of a constant are computed, and rounded, on the way: these are exact in float32.
    grid = np.round(grid * 64) / 64 if known else grid
    mode = b.one_of(("nearest", "linear", "linear", "cubic")) if spatial == 2 else b.one_of(("nearest", "linear"))
    padding, aligned = b.one_of((None, "border", "reflection")), b.one_of((None, 0, 1))
    # onnxruntime moves both coordinates to the border where one is beyond it, which a cubic sees; onnx divides by a span of 0.
    if (mode == "cubic" and padding == "border") or (padding == "reflection" and 1 in x.shape[2:]):
        padding = None
    held = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    return b.add(operator, [x, b.constant(grid) if known else b.input(grid)], **held)


@draws("ReverseSequence")
def _reverse_sequence(b: Builder, operator: str) -> object:
    x = b.tensor((2, 3, 4))
    time = b.one_of((0, 1))
    lengths = b.random.integers(1, x.shape[time] + 1, x.shape[1 - time])
    held = b.constant(lengths, np.int64) if b.quantizable or b.chance(0.5) or len(b.inputs) > 2 else b.input(lengths.astype(np.int64))
    return b.add(operator, [x, held], time_axis=time, batch_axis=1 - time)


@draws("Compress")
def _compress(b: Builder, operator: str) -> object:
    x = _any(b)
    axis = b.one_of((None, b.axis(x.rank)))
    condition = b.random.random(x.array.size if axis is None else x.shape[axis]) < 0.6
    return condition.any() and b.add(operator, [x, b.constant(condition, np.bool_)], axis=axis)


@draws("CenterCropPad")
def _center_crop_pad(b: Builder, operator: str) -> object:
    x = b.tensor((2, 3, 4))
    axes = sorted(b.some_of(range(x.rank), 1, x.rank))
    sizes = [max(1, x.shape[axis] + b.whole(-3, 3)) for axis in axes]
    return b.add(operator, [x, b.constant(sizes, np.int64)], axes=axes)


@draws("AffineGrid")
def _affine_grid(b: Builder, operator: str) -> object:
    spatial = b.one_of((2, 3))
    theta = b.fresh((2, spatial, spatial + 1))
    sizes = [2, 3, *(b.whole(2, 5) for _ in range(spatial))]
    return b.add(operator, [theta, b.constant(sizes, np.int64)], align_corners=b.one_of((None, 1)))


@draws("Col2Im")
def _col2im(b: Builder, operator: str) -> object:
    image, block, strides, gaps = ([b.whole(low, high) for _ in range(2)] for low, high in ((4, 7), (1, 3), (1, 2), (1, 2)))
    pads = [b.whole(0, 1) for _ in range(4)]
    extent = [(size - 1) * gap + 1 for size, gap in zip(block, gaps, strict=True)]
    counts = [(size + pads[at] + pads[at + 2] - extent[at]) // strides[at] + 1 for at, size in enumerate(image)]
    if min(counts) < 1:
        return None
    x = b.fresh((b.whole(1, 2), b.whole(1, 3) * block[0] * block[1], counts[0] * counts[1]))
    sizes = [b.constant(image, np.int64), b.constant(block, np.int64)]
    return b.add(operator, [x, *sizes], strides=strides, pads=pads, dilations=gaps)


@draws("RoiAlign")
def _roi_align(b: Builder, operator: str) -> object:
    x = b.tensor((4,))
    corners = b.random.uniform(-2, 9, (3, 2))
    boxes = np.concatenate([corners, corners + b.random.uniform(0.5, 6, (3, 2))], axis=1).astype(np.float32)
    images = b.constant(b.random.integers(0, x.shape[0], 3), np.int64)
    held = b.constant(boxes) if b.quantizable or len(b.inputs) > 2 else b.input(boxes)
    mode = b.one_of((None, "output_half_pixel"))
    size = {"output_height": b.whole(1, 3), "output_width": b.whole(1, 3), "sampling_ratio": b.whole(1, 2), "spatial_scale": 0.5}
    return b.add(operator, [x, held, images], coordinate_transformation_mode=mode, **size)


def _conv_of_rare_form(b: Builder, transposed: bool) -> object:
    """Weights that come in at run time, and volumes."""
    spatial, group = b.one_of((1, 2, 3)), b.one_of((1, 1, 2))
    channels, outputs = group * b.whole(1, 2), group * b.whole(1, 2)
    kernel = [b.whole(1, 3) for _ in range(spatial)]
    held = {name: [b.whole(1, 2) for _ in range(spatial)] for name in ("strides", "dilations")}
    held["pads"] = [b.whole(0, 1) for _ in range(2 * spatial)]
    shape = (channels, outputs // group) if transposed else (outputs, channels // group)
    weights = b.normal((*shape, *kernel), 0.5)
    x = b.fresh((b.whole(1, 2), channels, *(b.whole(3, 6) for _ in range(spatial))))
    known = b.quantizable or b.chance(0.4) or len(b.inputs) > 2
    inputs = [x, b.constant(weights) if known else b.input(weights)]
    bias = [b.constant(b.normal((outputs,)))] if b.chance(0.5) else []
    return b.add("ConvTranspose" if transposed else "Conv", [*inputs, *bias], group=group, **held)


@draws("DepthToSpace", "SpaceToDepth")
def _blocks(b: Builder, operator: str) -> object:
    block = b.whole(1, 3)
    held = {"mode": b.one_of((None, "DCR", "CRD"))} if operator == "DepthToSpace" else {}
    wanted = [v for v in b.values if v.rank == 4 and v.array.dtype == np.float32]
    shape = (1, 2 * block**2, 3, 2) if operator == "DepthToSpace" else (1, 3, 2 * block, 3 * block)
    x = wanted[-1] if wanted and b.chance(0.3) else b.fresh(shape)
    return b.add(operator, [x], blocksize=block, **held)


@draws("Resize")
def _resize(b: Builder, operator: str) -> object:
    x = b.tensor((4, 4, 4, 3, 2))
    mode = b.one_of(("nearest", "linear", "linear", "cubic"))
    held: dict[str, Any] = {"mode": mode if mode != "nearest" or b.chance(0.7) else None}
    modes = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric", None)
    held["coordinate_transformation_mode"] = b.one_of(modes)
    if mode == "nearest":
        held["nearest_mode"] = b.one_of((None, "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if mode != "nearest" and b.chance(0.2):
        held["antialias"] = 1
    if mode == "cubic":
        held["cubic_coeff_a"] = b.one_of((None, -0.5))
        held["exclude_outside"] = b.one_of((None, 1))
    exact = ("half_pixel", "asymmetric", None)
    spatial = x.rank - 2 if x.rank > 2 else x.rank
    fixed = x.rank - spatial
    if b.chance(0.5):
        sizes = [max(1, b.one_of((size, 2 * size, size // 2, size + 3, 3 * size))) for size in x.shape[fixed:]]
        inputs = [x, None, None, b.constant([*x.shape[:fixed], *sizes], np.int64)]
    else:
        # Where a scale does not give a whole size, onnx and onnxruntime disagree on which length some coordinate modes take.
        options = [
            [s for s in (2.0, 1.0, 3.0, 0.5, 1.5, 0.6) if (s * size) % 1 == 0 or held["coordinate_transformation_mode"] in exact]
            for size in x.shape[fixed:]
        ]
        scales = [b.one_of(held_scales) for held_scales in options]
        inputs = [x, None, b.constant([*[1.0] * fixed, *scales])]
    return b.add(operator, inputs, **held)


@draws("QuantizeLinear")
def _codes(b: Builder, operator: str) -> object:
    x = b.tensor()
    # onnxruntime's optimizer joins two pairs of codes in a row to one, which rounds otherwise.
    if any(x.name in node.output for node in b.nodes if node.op_type == "DequantizeLinear"):
        return None
    axis = b.axis(x.rank)
    shape = b.one_of(((), (), (x.shape[axis],)))
    scale = b.constant(b.random.uniform(0.02, 0.1, shape))
    kind = b.one_of((np.uint8, np.int8))
    zero = b.constant(b.random.integers(0, 100, shape), kind)
    codes = b.add("QuantizeLinear", [x, scale, zero], axis=axis if shape else None)
    return codes and b.add("DequantizeLinear", [codes[0], scale, zero], axis=axis if shape else None)


# Functions of numbers, losses, transforms


@draws("Asinh", "Atan", "Sinh", "Cosh", "Softsign", "Selu", "IsNaN", "Hardmax")
def _further_function(b: Builder, operator: str) -> object:
    x = b.tensor(ranks=(2, 3, 4))
    return np.abs(x.array).max() < 20 and b.add(operator, [x], **({"axis": b.axis(x.rank)} if operator == "Hardmax" else {}))


@draws("Acos", "Asin", "Atanh")
def _of_the_unit(b: Builder, operator: str) -> object:
    # Near 1 the slope of these is infinite, and so is what rounding does.
    within = b.add("Clip", [b.tensor(), b.constant(-0.9), b.constant(0.9)])
    return within and b.add(operator, [within[0]])


@draws("Acosh")
def _acosh(b: Builder, operator: str) -> object:
    above = b.add("Max", [b.tensor(), b.constant(1.1)])
    return above and b.add(operator, [above[0]])


@draws("Celu", "ThresholdedRelu", "Shrink", "LRN", "IsInf", "LpNormalization", "MeanVarianceNormalization")
def _with_attributes(b: Builder, operator: str) -> object:
    x = b.tensor(ranks=(4,))
    forms: dict[str, dict[str, Any]] = {
        "Celu": {"alpha": b.one_of((None, 0.5, 2.0))},
        "ThresholdedRelu": {"alpha": b.one_of((None, 0.0, 0.3))},
        "Shrink": {"bias": b.one_of((None, 0.0, 0.5)), "lambd": b.one_of((None, 0.1, 1.0))},
        "LRN": {"size": b.one_of((1, 3, 5)), "alpha": b.one_of((None, 0.1)), "beta": b.one_of((None, 0.5)), "bias": b.one_of((None, 2.0))},
        "IsInf": {"detect_negative": b.one_of((None, 0)), "detect_positive": b.one_of((None, 0))},
        "LpNormalization": {"axis": b.one_of((None, b.axis(4))), "p": b.one_of((None, 1, 2))},
        "MeanVarianceNormalization": {"axes": b.one_of(([0, 2, 3], [1, 2, 3]))},
    }
    return b.add(operator, [x], **forms[operator])


@draws("Mod")
def _mod(b: Builder, operator: str) -> object:
    x = b.tensor(dtype=np.int32)
    divisor = b.constant(b.one_of((3, -4, 7)), np.int32)
    return b.add(operator, [x, divisor], fmod=b.one_of((None, 0, 1)))


@draws("CumSum")
def _cumulative(b: Builder, operator: str) -> object:
    x = b.tensor(ranks=(1, 2, 3, 4))
    flags = {name: b.one_of((None, 1)) for name in ("exclusive", "reverse")}
    return b.add(operator, [x, b.constant(b.axis(x.rank), np.int64)], **flags)


@draws("Trilu")
def _triangle(b: Builder, operator: str) -> object:
    x = b.tensor(ranks=(2, 3, 4))
    return b.add(operator, [x, b.constant(b.whole(-3, 3), np.int64)], upper=b.one_of((None, 0, 1)))


@draws("Einsum")
def _einsum(b: Builder, operator: str) -> object:
    left = b.tensor(ranks=(2, 3, 4))
    letters = "abcd"[: left.rank]
    shared = letters[b.whole(0, left.rank - 1) :] if b.chance(0.7) else letters[-1:]
    right = b.fresh([*(left.shape[letters.index(label)] for label in shared), b.whole(1, 4)])
    result = "".join(label for label in letters if label not in shared or b.chance(0.3)) + "z"
    return b.add(operator, [left, right], equation=f"{letters},{shared}z->{result}")


@draws("DFT")
def _transform(b: Builder, operator: str) -> object:
    x = b.tensor(ranks=(2, 3))
    signal = b.add("Unsqueeze", [x, b.constant([x.rank], np.int64)])
    return signal and b.add(operator, [signal[0], None, b.constant(b.whole(0, x.rank - 1), np.int64)], onesided=b.one_of((None, 1)))


@draws("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def _loss(b: Builder, operator: str) -> object:
    x = b.tensor(ranks=(2, 3, 4))
    named = b.constant(np.arange(x.array.size // x.shape[1]).reshape((x.shape[0], *x.shape[2:])) % x.shape[1], np.int64)
    weight = [b.constant(np.abs(b.normal((x.shape[1],))) + np.float32(0.1))] if b.chance(0.5) else []
    reduction = b.one_of(("none", "mean", "sum")) if x.rank > 2 else "none"
    return b.add(operator, [x, named, *weight], reduction=reduction, ignore_index=b.one_of((None, 1, -1)))


# Recurrent layers

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = ("Sigmoid", "Tanh", "Relu", "HardSigmoid", "LeakyRelu", "Softsign", "Elu")


@draws("LSTM", "GRU", "RNN")
def _recurrent(b: Builder, operator: str) -> object:
    x, hidden = b.tensor((3,)), b.whole(1, 6)
    direction = b.one_of((None, "forward", "reverse", "bidirectional"))
    count, rows = 1 + (direction == "bidirectional"), _GATES[operator] * hidden
    steps, batch, width = x.shape

    def state() -> Value | None:
        return b.fresh((count, batch, hidden)) if b.chance(0.5) else None

    inputs = [x, b.constant(b.normal((count, rows, width), 0.5)), b.constant(b.normal((count, rows, hidden), 0.5))]
    inputs.append(b.constant(b.normal((count, 2 * rows), 0.5)) if b.chance(0.7) else None)
    inputs.append(b.constant(b.random.integers(1, steps + 1, (batch,)), np.int32) if b.chance(0.3) else None)
    inputs += [state(), *([state()] if operator == "LSTM" else [])]
    if operator == "LSTM" and b.chance(0.3):
        inputs.append(b.constant(b.normal((count, 3 * hidden), 0.5)))
    places = {"LSTM": 3, "GRU": 2, "RNN": 1}[operator]
    functions = [b.one_of(_ACTIVATIONS) for _ in range(places)] * count if b.chance(0.3) else None
    held: dict[str, Any] = {
        "direction": direction,
        "hidden_size": hidden,
        "clip": b.one_of((None, None, 0.5, 3.0)),
        "activations": functions,
    }
    held |= {"linear_before_reset": b.one_of((None, 0, 1))} if operator == "GRU" else {}
    held |= {"input_forget": b.one_of((None, None, 1))} if operator == "LSTM" else {}
    return b.add(operator, inputs, outputs=1 + b.whole(0, 1 + (operator == "LSTM")), **held)


# What a round of a loop does to its two states; their sizes stay bounded.
_ROUNDS = (
    ("Tanh", "Sub"),
    ("Sigmoid", "Max"),
    ("Sin", "Add"),
)


@draws("Loop")
def _loop(b: Builder, operator: str) -> object:
    """Two real states, one of which may take the other's place, and a whole one that the condition reads, so that no rounding decides."""
    x, node, typed = b.tensor(), helper.make_node, helper.make_tensor_value_info
    function, joins = b.one_of(_ROUNDS)
    by_count, by_condition = b.one_of(((True, False), (False, True), (True, True)))
    factor = numpy_helper.from_array(b.normal((), 2.0), "factor")
    limit = numpy_helper.from_array(np.asarray(b.whole(0, 12)), "limit")
    body = helper.make_graph(
        [
            node("Mul", ["s", "factor"], ["scaled"]),
            node(joins, ["scaled", "t"], ["joined"]),
            node(function, ["joined"], ["made"]),
            node("Identity", ["t" if b.chance(0.3) else "s"], ["kept"]),
            node("Add", ["n", "i"], ["n2"]),
            node("Less", ["n2", "limit"], ["below"]) if by_condition else node("Identity", ["c"], ["below"]),
        ],
        "body",
        [typed("i", 7, []), typed("c", 9, []), typed("s", 1, x.shape), typed("t", 1, x.shape), typed("n", 7, [])],
        [typed("below", 9, []), typed("made", 1, x.shape), typed("kept", 1, x.shape), typed("n2", 7, [])],
        [factor, *([limit] if by_condition else [])],
    )
    # A count of run time, or one too large to write out.
    counts = [b.fresh((1,), np.int64)] if not b.quantizable else []
    count = b.one_of([*counts, b.constant(2**40, np.int64)] if by_condition else counts) if by_count and (counts or by_condition) else None
    if count is None and not by_condition:
        return []
    return b.add(operator, [count, None, x, b.constant(b.normal(x.shape)), b.constant(0, np.int64)], outputs=3, body=body)


# For static int8: what the scheme puts on codes and what it must place around them.
QUANTIZABLE = tuple(
    """
    Conv Conv Conv ConvTranspose Gemm MatMul Add Sub Mul Relu Clip LeakyRelu Sigmoid Tanh HardSwish HardSigmoid PRelu Elu
    AveragePool MaxPool
    GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax Concat Split Slice Pad Reshape Flatten Transpose Squeeze Unsqueeze Resize Gather
    DepthToSpace SpaceToDepth Max Min Expand Tile Softmax BatchNormalization Gelu Mish Softplus LSTM GRU Loop
    """.split()  # noqa: SIM905 - a table, not a column
)


def graph_of(seed: Sequence[int], quantizable: bool = False, operators: Sequence[str] = ()) -> Graph | None:
    """A model of one to six operators (with what makes their inputs fit, at times more nodes); None when nothing came of it."""
    builder = Builder(seed, quantizable)
    known = operators or (QUANTIZABLE if quantizable else tuple(STRATEGIES))
    for _ in range(builder.whole(1, 6)):
        STRATEGIES[builder.one_of(known)](builder)
    return builder.finish()
