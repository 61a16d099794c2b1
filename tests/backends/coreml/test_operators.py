"""Every lowered operator: ONNX -> package on disk -> interpreter, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.mil.program import Program

from .models import Arrays, make_model, run_onnxruntime, save, single

RNG = np.random.default_rng(5)
IMAGE = (1, 4, 7, 9)


def normal(*shape: int) -> Any:
    return RNG.normal(0, 1, shape).astype(np.float32)


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def scalar(value: float) -> Any:
    return np.array(value, np.float32)


WEIGHT, DEPTHWISE, BIAS = normal(6, 4, 3, 3), normal(8, 1, 3, 3), normal(6)


def like_its_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """The shape that onnx does not infer for an operator it defines as a function."""
    model.graph.output[0].type.CopyFrom(model.graph.input[0].type)
    return model


CASES: dict[str, onnx.ModelProto] = {
    "conv": single("Conv", IMAGE, [WEIGHT, BIAS]),
    "conv pads": single("Conv", IMAGE, [WEIGHT, BIAS], pads=[1, 0, 2, 1], strides=[2, 1]),
    "conv same upper": single("Conv", IMAGE, [WEIGHT], auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": single("Conv", IMAGE, [normal(6, 4, 2, 2)], auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv valid": single("Conv", IMAGE, [WEIGHT], auto_pad="VALID"),
    "conv dilated": single("Conv", IMAGE, [WEIGHT], dilations=[2, 3], pads=[2, 3, 2, 3]),
    "conv grouped": single("Conv", IMAGE, [normal(6, 2, 3, 3), BIAS], group=2),
    "conv depthwise x2": single("Conv", IMAGE, [DEPTHWISE], group=4, pads=[1, 1, 1, 1]),
    "conv depthwise": single("Conv", IMAGE, [DEPTHWISE[:4], BIAS[:4]], group=4, pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv pointwise": single("Conv", IMAGE, [normal(6, 4, 1, 1), BIAS]),
    "conv 1-D": single("Conv", (2, 4, 11), [normal(6, 4, 3), BIAS], pads=[2, 1], strides=[2], dilations=[2]),
    "gemm": single("Gemm", (3, 5), [normal(5, 6), BIAS]),
    "gemm transB": single("Gemm", (3, 5), [normal(6, 5), BIAS], transB=1),
    "gemm alpha beta": single("Gemm", (3, 5), [normal(6, 5), normal(1)], transB=1, alpha=0.5, beta=2.0),
    "gemm transA": single("Gemm", (5, 3), [normal(5, 6), normal(3, 6)], transA=1),
    "matmul": single("MatMul", (2, 3, 5), [normal(5, 6)]),
    "matmul rank 4": single("MatMul", (2, 2, 3, 5), [normal(5, 6)]),
    "matmul batched": single("MatMul", (2, 3, 5), [normal(2, 5, 6)]),
    "add": single("Add", IMAGE, [normal(4, 1, 1)]),
    "add rank": single("Add", (4, 1), [normal(2, 1, 3)]),
    "sub": single("Sub", IMAGE, [normal(1, 4, 1, 9)]),
    "mul": single("Mul", IMAGE, [scalar(1.5)]),
    "div": single("Div", IMAGE, [scalar(-3)]),
    "max": single("Max", IMAGE, [normal(9), normal(7, 1)]),
    "min": single("Min", IMAGE, [normal(9)]),
    "square": single("Pow", IMAGE, [scalar(2)]),
    "cube": single("Pow", IMAGE, [integers(3)]),
    "relu": single("Relu", IMAGE),
    "relu6": single("Clip", IMAGE, [scalar(0), scalar(6)]),
    "clip": single("Clip", IMAGE, [scalar(-0.5), scalar(1.25)]),
    "clip below": single("Clip", IMAGE, [scalar(-0.5)]),
    "clip above": single("Clip", IMAGE, [None, scalar(0.25)]),
    "leaky relu": single("LeakyRelu", IMAGE, alpha=0.2),
    "prelu channel": single("PRelu", IMAGE, [normal(4, 1, 1)]),
    "prelu element": single("PRelu", IMAGE, [normal(4, 7, 9)]),
    "prelu rank 2": single("PRelu", (3, 5), [normal(5)]),
    "sigmoid": single("Sigmoid", IMAGE),
    "tanh": single("Tanh", IMAGE),
    "hard sigmoid": single("HardSigmoid", IMAGE, alpha=0.3, beta=0.4),
    "hard swish": single("HardSwish", IMAGE),
    "softmax": single("Softmax", (3, 5)),
    "softmax axis": single("Softmax", IMAGE, axis=1),
    "elu": single("Elu", IMAGE, alpha=0.7),
    "gelu": single("Gelu", IMAGE),
    "gelu tanh": single("Gelu", IMAGE, approximate="tanh"),
    "softplus": single("Softplus", IMAGE),
    "softsign": single("Softsign", IMAGE),
    "mish": single("Mish", IMAGE),
    "erf": single("Erf", IMAGE),
    "exp": single("Exp", IMAGE),
    "abs": single("Abs", IMAGE),
    "neg": single("Neg", IMAGE),
    "reciprocal": single("Reciprocal", IMAGE),
    "floor": single("Floor", IMAGE),
    "ceil": single("Ceil", IMAGE),
    "round": single("Round", IMAGE),
    "sign": single("Sign", IMAGE),
    "sin": single("Sin", IMAGE),
    "cos": single("Cos", IMAGE),
    "log softmax": single("LogSoftmax", (3, 5)),
    "log softmax axis": single("LogSoftmax", IMAGE, axis=1),
    "group norm": like_its_input(single("GroupNormalization", IMAGE, [normal(4), normal(4)], num_groups=2)),
    "instance norm": single("InstanceNormalization", IMAGE, [normal(4), normal(4)], epsilon=1e-4),
    "conv transpose": single("ConvTranspose", IMAGE, [normal(4, 3, 2, 2), normal(3)], strides=[2, 2]),
    "conv transpose pads": single(
        "ConvTranspose", IMAGE, [normal(4, 3, 3, 4)], strides=[2, 3], pads=[1, 0, 2, 2], output_padding=[1, 2], dilations=[2, 1]
    ),
    "conv transpose groups": single("ConvTranspose", IMAGE, [normal(4, 3, 3, 2), normal(6)], group=2),
    "conv transpose 1-D": single("ConvTranspose", (2, 3, 10), [normal(3, 2, 4)], strides=[2], pads=[1, 1]),
    "depth to space": single("DepthToSpace", (1, 12, 3, 5), blocksize=2),
    "pixel shuffle": single("DepthToSpace", (2, 18, 3, 5), blocksize=3, mode="CRD"),
    "expand": single("Expand", (3, 1, 5), [integers(2, 1, 4, 1)]),
    "tile": single("Tile", IMAGE, [integers(1, 2, 1, 3)]),
    "reduce l2": single("ReduceL2", IMAGE, [integers(1)], keepdims=0),
    "max pool": single("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max pool ceil": single("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max pool 1-D": single("MaxPool", (1, 3, 10), kernel_shape=[3], strides=[2]),
    "average pool": single("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool counted": single("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 0, 2, 1], count_include_pad=1),
    "average pool ceil": single("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average pool same": single("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "global average pool": single("GlobalAveragePool", IMAGE),
    "global max pool": single("GlobalMaxPool", IMAGE),
    "reduce mean": single("ReduceMean", IMAGE, [integers(-1, 2)], keepdims=0),
    "reduce sum": single("ReduceSum", IMAGE, [integers(1)]),
    "reduce max": single("ReduceMax", (2, 3, 4), [integers(0, 2)], keepdims=0),
    "reduce min all": single("ReduceMin", (2, 3, 4)),
    "reduce noop": single("ReduceSum", (2, 3), [integers()], noop_with_empty_axes=1),
    "concat": single("Concat", IMAGE, [normal(1, 2, 7, 9)], axis=1),
    "split": single("Split", IMAGE, [integers(1, 3)], outputs=2, axis=1),
    "split num outputs": single("Split", IMAGE, outputs=2, axis=2, num_outputs=2),
    "slice": single("Slice", IMAGE, [integers(1, -6), integers(3, 2**40), integers(1, 3), integers(1, 2)]),
    "slice backward": single("Slice", IMAGE, [integers(-1, 5), integers(-(2**40), 0), integers(1, 3), integers(-1, -2)]),
    "pad": single("Pad", IMAGE, [integers(0, 1, 2, 0, 0, 0, 1, 3), scalar(1.5)]),
    "pad axes": single("Pad", IMAGE, [integers(1, 2), None, integers(3)]),
    "pad reflect": single("Pad", IMAGE, [integers(0, 0, 2, 1, 0, 0, 3, 4)], mode="reflect"),
    "pad edge": single("Pad", IMAGE, [integers(0, 0, 2, 1, 0, 0, 3, 4)], mode="edge"),
    "reshape": single("Reshape", IMAGE, [integers(0, 2, -1)]),
    "flatten": single("Flatten", IMAGE, axis=2),
    "transpose": single("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "transpose reversed": single("Transpose", (2, 3, 4)),
    "squeeze": single("Squeeze", (1, 3, 1, 4), [integers(-2)]),
    "squeeze all": single("Squeeze", (1, 3, 1, 4)),
    "unsqueeze": single("Unsqueeze", (3, 4), [integers(0, -1)]),
    "gather": single("Gather", IMAGE, [np.array([[0, -1], [2, 2]], np.int64)], axis=2),
    "gather scalar": single("Gather", IMAGE, [np.array(-2, np.int64)], axis=1),
    "cast and back": single("Cast", IMAGE, to=1),
    "identity": single("Identity", IMAGE),
    "batch norm": single("BatchNormalization", IMAGE, [normal(4), normal(4), normal(4), np.abs(normal(4)) + 1]),
    "layer norm": single("LayerNormalization", (2, 3, 5), [normal(5), normal(5)]),
    "layer norm axes": single("LayerNormalization", (2, 3, 5), [normal(3, 5)], axis=1, epsilon=1e-12),
    "resize nearest": single("Resize", IMAGE, [None, np.array([1, 1, 2, 3], np.float32)], mode="nearest"),
    "resize asymmetric floor": single(
        "Resize",
        IMAGE,
        [None, np.array([1, 1, 2, 2], np.float32)],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "resize nearest sizes": single("Resize", IMAGE, [None, None, integers(1, 4, 5, 13)], mode="nearest", nearest_mode="ceil"),
    "resize linear": single("Resize", IMAGE, [None, None, integers(1, 4, 11, 5)], mode="linear"),
    "resize corners": single(
        "Resize", IMAGE, [None, None, integers(1, 4, 11, 5)], mode="linear", coordinate_transformation_mode="align_corners"
    ),
    "resize asymmetric": single(
        "Resize", IMAGE, [None, None, integers(1, 4, 14, 18)], mode="linear", coordinate_transformation_mode="asymmetric"
    ),
}
# Operators of which a negative input is outside the domain.
POSITIVE: dict[str, onnx.ModelProto] = {
    "log": single("Log", IMAGE),
    "sqrt": single("Sqrt", IMAGE),
    "pow": single("Pow", IMAGE, [scalar(0.7)]),
}


def convert_and_run(model: onnx.ModelProto, folder: Path, scheme: str, feed: Arrays) -> tuple[Arrays, Arrays]:
    """What the package gives and what ONNX Runtime gives, by output name."""
    path = save(model, folder)
    written = write(path, folder / scheme, WriteOptions(scheme=scheme))
    package = folder / scheme / written.file
    assert lint(package) == []
    given = Program.load(package).run(feed)
    return {binding.hub_name: given[binding.name] for binding in written.outputs}, run_onnxruntime(path, feed)


@pytest.mark.parametrize("comparison", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_a_choice_by_comparison_equals_onnxruntime(comparison: str, tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node(comparison, ["image", "bound"], ["mask"]),
        onnx.helper.make_node("Where", ["mask", "other", "image"], ["y"]),
    ]
    model = make_model(nodes, {"image": IMAGE}, ["y"], {"bound": np.float32(0.25), "other": normal(4, 1, 1)})
    feed = feed_of(model)
    feed["image"][0, 0] = 0.25
    assert_close(*convert_and_run(model, tmp_path, "fp32", feed), FP32_TOLERANCE)


def feed_of(model: onnx.ModelProto) -> Arrays:
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    return {"image": np.random.default_rng(11).normal(0, 1, shape).astype(np.float32)}


def assert_close(found: Arrays, reference: Arrays, relative: float) -> None:
    assert found.keys() == reference.keys()
    for name, want in reference.items():
        assert found[name].shape == want.shape
        assert np.isfinite(found[name]).all()
        np.testing.assert_allclose(found[name], want, rtol=0, atol=relative * max(1.0, float(np.abs(want).max())))


# At most 108 products a sum here: 108 * 2^-24 = 6.4e-6 of the largest value if every rounding went the same way.
FP32_TOLERANCE = 6.5e-6
# Inputs, constants and results are each rounded to fp16 (2^-11 = 4.9e-4 relative); sums accumulate in float32. A reciprocal near zero
# and the slope of exp enlarge the input's rounding, by at most 8 on these inputs.
FP16_TOLERANCE = 4e-3


@pytest.mark.parametrize("name", CASES)
def test_fp32_package_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    feed = feed_of(CASES[name])
    assert_close(*convert_and_run(CASES[name], tmp_path, "fp32", feed), FP32_TOLERANCE)


# A step function turns a rounded input into another step.
STEPS = ("floor", "ceil", "round", "sign")


@pytest.mark.parametrize("name", [name for name in CASES if name not in STEPS])
def test_fp16_package_is_finite_and_within_half_precision(name: str, tmp_path: Path) -> None:
    feed = feed_of(CASES[name])
    assert_close(*convert_and_run(CASES[name], tmp_path, "fp16", feed), FP16_TOLERANCE)


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize("name", POSITIVE)
def test_operators_of_positive_numbers(name: str, scheme: str, tmp_path: Path) -> None:
    feed = {key: np.abs(array) + np.float32(0.01) for key, array in feed_of(POSITIVE[name]).items()}
    tolerance = FP32_TOLERANCE if scheme == "fp32" else FP16_TOLERANCE
    assert_close(*convert_and_run(POSITIVE[name], tmp_path, scheme, feed), tolerance)


def test_log_of_zero_is_minus_infinity_as_in_onnx(tmp_path: Path) -> None:
    path = save(single("Log", (1, 3)), tmp_path)
    package = tmp_path / write(path, tmp_path, WriteOptions(scheme="fp32")).file
    assert Program.load(package).run({"image": np.zeros((1, 3), np.float32)})["result_0"].tolist() == [[-np.inf] * 3]


@pytest.mark.parametrize("system", ["iOS15", "iOS16", "iOS17", "iOS18"])
def test_every_system_version_gets_its_own_opset(system: str, tmp_path: Path) -> None:
    path = save(CASES["conv pads"], tmp_path)
    written = write(path, tmp_path, WriteOptions(scheme="fp16", minimum_os=system))
    program = Program.load(tmp_path / written.file)
    assert (program.opset, written.minimum_os) == (f"CoreML{int(system.removeprefix('iOS')) - 10}", system)
    assert lint(tmp_path / written.file) == []
