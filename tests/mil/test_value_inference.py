"""The interpreter against MIL's own ``value_inference`` on constants, which Apple wrote and neither our frontend nor interpreter uses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.mil.environment import coremltools
from edgepack.mil.program import Program
from tests.conformance_mil.operators import emitted

from .packages import builder, infer, interpret, save_package

SHAPE = (2, 3, 4)
X = np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
COUNTS = np.random.default_rng(2).integers(-9, 9, SHAPE).astype(np.int32)

UNARY = ["abs", "ceil", "cos", "erf", "exp", "exp2", "floor", "identity", "relu", "relu6", "round", "sigmoid", "sign", "sin", "softplus"]
UNARY += ["softsign", "square", "tanh", "atan", "cosh", "sinh", "tan"]
WITHIN_ONE = ["acos", "asin", "atanh"]
POSITIVE = ["inverse", "log", "rsqrt", "sqrt"]
BINARY = ["add", "maximum", "minimum", "mul", "real_div", "sub"]
COMPARISONS = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"]
LOGIC = ["logical_and", "logical_or", "logical_xor"]
WHOLE = ["add", "floor_div", "maximum", "minimum", "mod", "mul", "sub"]
REDUCTIONS = [
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_log_sum_exp",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
]
REDUCTIONS += ["reduce_sum_square"]

# Each row of two of the middle dimension, put somewhere else; SHAPE is (2, 3, 4).
PLACES = np.array([[[2, 0, 1, 2], [0, 1, 2, 0]], [[1, 1, 0, 2], [2, 0, 1, 0]]], np.int32)

Form = Callable[[Any, Any], Any]


def branch(mb: Any, x: Any, bound: float) -> Any:
    pred = mb.greater(x=mb.reduce_max(x=x, axes=[0, 1, 2], keep_dims=False), y=np.float32(bound))
    return mb.cond(pred=pred, _true_fn=lambda: mb.add(x=x, y=np.float32(1)), _false_fn=lambda: mb.mul(x=x, y=np.float32(2)))


FORMS: dict[str, Form] = {
    "first branch": lambda mb, x: branch(mb, x, -100),
    "second branch": lambda mb, x: branch(mb, x, 100),
    "clip": lambda mb, x: mb.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.7)),
    "leaky_relu": lambda mb, x: mb.leaky_relu(x=x, alpha=np.float32(0.2)),
    "prelu": lambda mb, x: mb.prelu(x=mb.expand_dims(x=x, axes=[0]), alpha=np.array([0.1, 0.2], np.float32)),
    "elu": lambda mb, x: mb.elu(x=x, alpha=np.float32(0.7)),
    "sigmoid_hard": lambda mb, x: mb.sigmoid_hard(x=x, alpha=np.float32(0.3), beta=np.float32(0.4)),
    "gelu exact": lambda mb, x: mb.gelu(x=x, mode="EXACT"),
    "gelu tanh": lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    "gelu sigmoid": lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
    "softmax": lambda mb, x: mb.softmax(x=x, axis=1),
    "layer_norm": lambda mb, x: mb.layer_norm(x=x, axes=[1, 2], epsilon=np.float32(1e-3)),
    "layer_norm scaled": lambda mb, x: mb.layer_norm(x=x, axes=[-1], gamma=X[0, 0], beta=X[1, 0]),
    "pow": lambda mb, x: mb.pow(x=mb.abs(x=x), y=np.float32(1.7)),
    "select": lambda mb, x: mb.select(cond=mb.greater(x=x, y=np.float32(0)), a=x, b=X),
    "logical_not": lambda mb, x: mb.cast(x=mb.logical_not(x=mb.greater(x=x, y=np.float32(0))), dtype="fp32"),
    "shape": lambda mb, x: mb.add(x=mb.shape(x=x), y=np.zeros(3, np.int32)),
    "argmax": lambda mb, x: [mb.reduce_argmax(x=x, axis=1, keep_dims=True), mb.reduce_argmin(x=x, axis=-1)],
    # MIL's own inference of the exclusive form fails (its np.zeros gets an array for a type).
    "cumsum": lambda mb, x: [mb.cumsum(x=x, axis=1), mb.cumsum(x=x, reverse=True)],
    "scatter_along_axis": lambda mb, x: mb.scatter_along_axis(data=x, indices=PLACES, updates=X[:, :2], axis=1, mode="update"),
    "transpose": lambda mb, x: mb.transpose(x=x, perm=[2, 0, 1]),
    "reshape": lambda mb, x: mb.reshape(x=x, shape=[4, -1]),
    "reshape keeping sizes": lambda mb, x: mb.reshape(x=x, shape=[1, 0, -1, 0]),
    "flatten2d": lambda mb, x: mb.flatten2d(x=x, axis=2),
    "expand_dims": lambda mb, x: mb.expand_dims(x=x, axes=[1, -1]),
    "squeeze": lambda mb, x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, 2]), axes=[-3]),
    "squeeze all": lambda mb, x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, 2])),
    "stack": lambda mb, x: mb.stack(values=[x, x], axis=-2),
    "reverse": lambda mb, x: mb.reverse(x=x, axes=[0, 2]),
    "slice": lambda mb, x: mb.slice_by_index(x=x, begin=[0, 2, 1], end=[2, 0, 4], stride=[1, -1, 2], begin_mask=[True, False, False]),
    "slice squeeze": lambda mb, x: mb.slice_by_index(x=x, begin=[1, 0, 1], end=[0, 3, 4], squeeze_mask=[True, False, False]),
    "slice_by_size": lambda mb, x: mb.slice_by_size(x=x, begin=[0, 1, 1], size=[2, 2, -1]),
    "pad": lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 1], mode="constant", constant_val=np.float32(3)),
    "pad reflect": lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="reflect"),
    "pad replicate": lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 1], mode="replicate"),
    "gather": lambda mb, x: mb.gather(x=x, indices=np.array([[2, 0]], np.int32), axis=1),
    "gather in batches": lambda mb, x: mb.gather(x=x, indices=np.array([[2, 0, 1], [1, 1, 0]], np.int32), axis=2, batch_dims=1),
    "gather_along_axis": lambda mb, x: mb.gather_along_axis(x=x, indices=np.abs(COUNTS) % 3, axis=1),
    "tile": lambda mb, x: mb.tile(x=x, reps=[1, 2, 3]),
    "concat": lambda mb, x: mb.concat(values=[x, x], axis=1),
    "split": lambda mb, x: mb.split(x=x, split_sizes=[1, 3], axis=2),
    "split evenly": lambda mb, x: mb.split(x=x, num_splits=2, axis=2),
    "topk": lambda mb, x: mb.topk(x=x, k=2, axis=1),
    "topk ascending": lambda mb, x: mb.topk(x=x, k=3, axis=-1, ascending=True),
    "argsort": lambda mb, x: mb.argsort(x=x, axis=2),
    "linear": lambda mb, x: mb.linear(x=x, weight=X[0] * 2, bias=X[0, :, 0]),
    "matmul": lambda mb, x: mb.matmul(x=x, y=X, transpose_y=True),
    "clamped_relu": lambda mb, x: mb.clamped_relu(x=x, alpha=np.float32(0.3), beta=np.float32(0.5)),
    "linear_activation": lambda mb, x: mb.linear_activation(x=x, alpha=np.float32(0.3), beta=np.float32(-0.5)),
    "scaled_tanh": lambda mb, x: mb.scaled_tanh(x=x, alpha=np.float32(0.3), beta=np.float32(1.5)),
    "threshold": lambda mb, x: mb.threshold(x=x, alpha=np.float32(0.1)),
    "thresholded_relu": lambda mb, x: mb.thresholded_relu(x=x, alpha=np.float32(0.1)),
    "softplus_parametric": lambda mb, x: mb.softplus_parametric(x=x, alpha=X[0, :, 0], beta=X[1, :, 0]),
    "einsum": lambda mb, x: mb.einsum(values=[x, mb.transpose(x=x, perm=[2, 1, 0])], equation="dgh,hgk->dgk"),
    "fill_like": lambda mb, x: mb.fill_like(ref_tensor=x, value=np.int32(3)),
    "cast": lambda mb, x: mb.cast(x=x, dtype="int32"),
    "quantize": lambda mb, x: mb.cast(
        x=mb.quantize(
            input=x, scale=np.array([0.1, 0.02, 0.3], np.float32), zero_point=np.array([3, 0, 255], np.uint8), output_dtype="uint8", axis=1
        ),
        dtype="int32",
    ),
}


def functions(x: Any) -> list[Any]:
    """Every function of one value."""
    above = builder().add(x=builder().abs(x=x), y=np.float32(0.1))
    within = builder().mul(x=builder().tanh(x=x), y=np.float32(0.9))
    groups = ((UNARY, x), (POSITIVE, above), (WITHIN_ONE, within))
    return [getattr(builder(), name)(x=value) for names, value in groups for name in names]


def arithmetic(x: Any, y: Any) -> list[Any]:
    """Every function of two values; what is true or false as 1 or 0."""
    compared = [getattr(builder(), name)(x=x, y=y) for name in COMPARISONS]
    combined = [getattr(builder(), name)(x=compared[1], y=compared[0]) for name in LOGIC]
    told = [builder().cast(x=found, dtype="fp32") for found in [*compared, *combined]]
    return [getattr(builder(), name)(x=x, y=y) for name in BINARY] + told


def whole(x: Any, y: Any) -> list[Any]:
    """Every function of two integers."""
    return [getattr(builder(), name)(x=x, y=y) for name in WHOLE]


def reductions(x: Any) -> list[Any]:
    """Every reduction, over two axes and kept, over one, and over all."""
    forms: list[dict[str, Any]] = [{"axes": [-1, 0], "keep_dims": True}, {"axes": [1], "keep_dims": False}, {"keep_dims": True}]
    above = builder().add(x=builder().abs(x=x), y=np.float32(0.1))
    logs = [builder().reduce_log_sum(x=above, **form) for form in forms]
    return [getattr(builder(), name)(x=x, **form) for name in REDUCTIONS for form in forms] + logs


# fp32 on both sides: functions differ by about 2 units in the last place (2^-23 each), and sums of at most 24 terms in another order by
# 24 * 2^-24 of the largest; erf by another formula, by less.
TOLERANCE = 24 * 2.0**-24


def close(found: list[Any], want: list[Any]) -> None:
    assert len(found) == len(want)
    for place, (given_value, expected) in enumerate(zip(found, want, strict=True)):
        assert given_value.shape == (expected.shape or (1,)) or given_value.shape == expected.shape, place
        wide = expected.astype(np.float64).reshape(given_value.shape)
        scale = max(1.0, float(np.abs(wide).max(initial=0)))
        np.testing.assert_allclose(given_value.astype(np.float64), wide, rtol=0, atol=TOLERANCE * scale, err_msg=str(place))


def assert_same(body: Callable[..., Any], **inputs: Any) -> None:
    close(interpret(body, **inputs), infer(body, **inputs))


@cache
def program(body: Callable[..., Any], kind: str, *shapes: tuple[int, ...]) -> Program:
    """The package of ``body``, written once for many inputs."""
    inputs = {name: np.zeros(shape, kind) for name, shape in zip("xy", shapes, strict=False)}
    with tempfile.TemporaryDirectory() as folder:
        return Program.load(save_package(body, inputs, Path(folder)))


def assert_same_for(body: Callable[..., Any], **inputs: Any) -> None:
    held = program(body, str(inputs["x"].dtype), *(array.shape for array in inputs.values()))
    results = held.run(inputs)
    close([results[output.name] for output in held.outputs], infer(body, **inputs))


# Halves, where rounding to even shows, among numbers whose exponentials are finite.
NUMBERS = st.one_of(st.sampled_from([0.0, -0.5, 0.5, 1.5, 2.5, -1.5, 6.0]), st.floats(-8, 8, width=32, allow_subnormal=False))


@given(hnp.arrays(np.float32, SHAPE, elements=NUMBERS))
@settings(max_examples=40, deadline=None)
def test_functions_of_one_value(x: Any) -> None:
    assert_same_for(functions, x=x)


@given(
    hnp.arrays(np.float32, SHAPE, elements=NUMBERS), hnp.arrays(np.float32, (3, 1), elements=NUMBERS.filter(lambda value: abs(value) > 0.1))
)
@settings(max_examples=40, deadline=None)
def test_arithmetic_and_comparisons_broadcast(x: Any, y: Any) -> None:
    assert_same_for(arithmetic, x=x, y=y)


@given(
    hnp.arrays(np.int32, SHAPE, elements=st.integers(-1000, 1000)),
    hnp.arrays(np.int32, (3, 1), elements=st.integers(-50, 50).filter(bool)),
)
@settings(max_examples=40, deadline=None)
def test_arithmetic_of_integers(x: Any, y: Any) -> None:
    assert_same_for(whole, x=x, y=y)


@given(hnp.arrays(np.float32, SHAPE, elements=NUMBERS))
@settings(max_examples=40, deadline=None)
def test_reductions(x: Any) -> None:
    assert_same_for(reductions, x=x)


@pytest.mark.parametrize("form", FORMS)
def test_other_forms(form: str) -> None:
    assert_same(lambda x: FORMS[form](builder(), x), x=X)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_slices_of_any_direction(data: st.DataObject) -> None:
    """One slice a dimension that takes something, at times with an open end or a single element."""
    ends = [data.draw(st.tuples(*[st.integers(0, size - 1)] * 2)) for size in SHAPE]
    step = [data.draw(st.integers(1, 2)) * (1 if last >= first else -1) for first, last in ends]
    stop = [last + 1 if last >= first else last - 1 for first, last in ends]
    open_end = [last < first and end < 0 for (first, last), end in zip(ends, stop, strict=True)]
    single = [*data.draw(st.tuples(st.booleans(), st.booleans())), False]
    masks = {"end_mask": open_end, "squeeze_mask": single}
    begin = [first for first, _ in ends]
    assert_same(lambda x: builder().slice_by_index(x=x, begin=begin, end=stop, stride=step, **masks), x=X)


@given(st.permutations(range(3)), hnp.arrays(np.int32, hnp.array_shapes(min_dims=1, max_dims=2, max_side=3), elements=st.integers(0, 1)))
@settings(max_examples=20, deadline=None)
def test_indices_computed_at_run_time(perm: list[int], indices: Any) -> None:
    def body(x: Any, y: Any) -> Any:
        return builder().gather(x=builder().transpose(x=x, perm=list(perm)), indices=y, axis=1)

    found = interpret(body, x=X, y=indices)
    close(found, infer(body, x=X, y=indices))


# Of iOS 18: queries are x, (2, 3, 4).
ATTENTIONS: dict[str, Form] = {
    "plain": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=mb.mul(x=x, y=np.float32(-2)), value=x),
    "other lengths": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=KEYS, value=KEYS[..., :3]),
    "added mask": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=KEYS, value=KEYS, attn_mask=KEYS[0, :3, :1] * KEYS[0, :, 1]),
    "boolean mask": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=KEYS, value=KEYS, attn_mask=KEYS[0, :, 0] != KEYS[0, 1, 0]),
}
KEYS = np.random.default_rng(3).normal(0, 1, (2, 5, 4)).astype(np.float32)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_equals_value_inference(name: str) -> None:
    def body(x: Any) -> Any:
        return ATTENTIONS[name](builder(), x)

    close(interpret(body, release=18, x=X), infer(body, release=18, x=X))


def test_every_operation_the_backend_emits_that_infers_values_is_compared_here() -> None:
    coremltools()
    from coremltools.converters.mil.mil.operation import Operation
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    newest = {name: list(SSAOpRegistry.core_ops[name].values())[-1] for name in emitted()}
    inferring = {name for name, held in newest.items() if held.value_inference is not Operation.value_inference}
    assert not inferring - compared()


def compared() -> set[str]:
    """The operations in the bodies of this file."""
    from coremltools.converters.mil.mil import Function, types

    real, count = (builder().placeholder(shape=SHAPE, dtype=dtype) for dtype in (types.fp32, types.int32))
    with Function({"x": real, "y": count}, opset_version=coremltools().target.iOS17) as function:
        x, y = function.inputs["x"], function.inputs["y"]
        functions(x), arithmetic(x, x), whole(y, y), reductions(x)
        [form(builder(), x) for form in FORMS.values()]
        function.set_outputs([x])
    with Function({"x": builder().placeholder(shape=SHAPE, dtype=types.fp32)}, opset_version=coremltools().target.iOS18) as newer:
        newer.set_outputs([form(builder(), newer.inputs["x"]) for form in ATTENTIONS.values()])
    return {str(held.op_type) for held in (*function.operations, *newer.operations)}
