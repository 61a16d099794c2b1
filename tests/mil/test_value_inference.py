"""The interpreter against MIL's own ``value_inference`` on constants, which Apple wrote and neither our frontend nor interpreter uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .packages import builder, infer, interpret

X = np.random.default_rng(1).normal(0, 1, (2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)

UNARY = ["abs", "ceil", "cos", "erf", "exp", "exp2", "floor", "relu", "relu6", "round", "sigmoid", "sign", "sin", "softplus"]
UNARY += ["softsign", "square", "tanh"]
BINARY = ["add", "sub", "mul", "real_div", "maximum", "minimum", "greater", "less_equal", "equal"]

FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "clip": lambda mb, x: mb.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.7)),
    "leaky_relu": lambda mb, x: mb.leaky_relu(x=x, alpha=np.float32(0.2)),
    "elu": lambda mb, x: mb.elu(x=x, alpha=np.float32(0.7)),
    "sigmoid_hard": lambda mb, x: mb.sigmoid_hard(x=x, alpha=np.float32(0.3), beta=np.float32(0.4)),
    "gelu exact": lambda mb, x: mb.gelu(x=x, mode="EXACT"),
    "gelu tanh": lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    "softmax": lambda mb, x: mb.softmax(x=x, axis=1),
    "layer_norm": lambda mb, x: mb.layer_norm(x=x, axes=[1, 2], epsilon=np.float32(1e-3)),
    "reduce_mean": lambda mb, x: mb.reduce_mean(x=x, axes=[-1, 0], keep_dims=True),
    "reduce_sum": lambda mb, x: mb.reduce_sum(x=x, axes=[1], keep_dims=False),
    "reduce_max": lambda mb, x: mb.reduce_max(x=x, axes=[1], keep_dims=False),
    "reduce_min": lambda mb, x: mb.reduce_min(x=x, axes=[2], keep_dims=False),
    "transpose": lambda mb, x: mb.transpose(x=x, perm=[2, 0, 1]),
    "reshape": lambda mb, x: mb.reshape(x=x, shape=[4, -1]),
    "expand_dims": lambda mb, x: mb.expand_dims(x=x, axes=[1, -1]),
    "reverse": lambda mb, x: mb.reverse(x=x, axes=[0, 2]),
    "slice": lambda mb, x: mb.slice_by_index(x=x, begin=[0, 2, 1], end=[2, 0, 4], stride=[1, -1, 2], begin_mask=[True, False, False]),
    "slice squeeze": lambda mb, x: mb.slice_by_index(x=x, begin=[1, 0, 1], end=[0, 3, 4], squeeze_mask=[True, False, False]),
    "slice_by_size": lambda mb, x: mb.slice_by_size(x=x, begin=[0, 1, 1], size=[2, 2, -1]),
    "pad": lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 1], mode="constant", constant_val=np.float32(3)),
    "pad reflect": lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="reflect"),
    "pad replicate": lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 1], mode="replicate"),
    "gather": lambda mb, x: mb.gather(x=x, indices=np.array([[2, 0]], np.int32), axis=1),
    "tile": lambda mb, x: mb.tile(x=x, reps=[1, 2, 3]),
    "concat": lambda mb, x: mb.concat(values=[x, x], axis=1),
    "split": lambda mb, x: mb.split(x=x, split_sizes=[1, 3], axis=2),
    "linear": lambda mb, x: mb.linear(x=x, weight=X[0] * 2, bias=X[0, :, 0]),
    "matmul": lambda mb, x: mb.matmul(x=x, y=X, transpose_y=True),
    "cast": lambda mb, x: mb.cast(x=x, dtype="int32"),
    "quantize": lambda mb, x: mb.cast(
        x=mb.quantize(
            input=x, scale=np.array([0.1, 0.02, 0.3], np.float32), zero_point=np.array([3, 0, 255], np.uint8), output_dtype="uint8", axis=1
        ),
        dtype="int32",
    ),
}
# fp32 on both sides; sums of at most 12 terms in another order, and erf by another formula: 12 * 2^-24.
TOLERANCE = 7.2e-7


def assert_same(body: Callable[..., Any], **inputs: Any) -> None:
    found, want = interpret(body, **inputs), infer(body, **inputs)
    for given, expected in zip(found, want, strict=True):
        assert given.shape == expected.shape
        np.testing.assert_allclose(
            given.astype(np.float64), expected.astype(np.float64), rtol=0, atol=TOLERANCE * max(1, np.abs(expected).max())
        )


@pytest.mark.parametrize("operation", UNARY)
def test_functions_of_one_value(operation: str) -> None:
    assert_same(lambda x: getattr(builder(), operation)(x=x), x=X)


@pytest.mark.parametrize("operation", ["sqrt", "log", "rsqrt", "inverse"])
def test_functions_of_a_positive_value(operation: str) -> None:
    assert_same(lambda x: getattr(builder(), operation)(x=x), x=POSITIVE)


@pytest.mark.parametrize("operation", BINARY)
def test_arithmetic_broadcasts(operation: str) -> None:
    def body(x: Any, y: Any) -> Any:
        found = getattr(builder(), operation)(x=x, y=y)
        return builder().cast(x=found, dtype="fp32") if operation in ("greater", "less_equal", "equal") else found

    assert_same(body, x=X, y=X[0, :, :1].copy())


@pytest.mark.parametrize("form", FORMS)
def test_other_forms(form: str) -> None:
    assert_same(lambda x: FORMS[form](builder(), x), x=X)
