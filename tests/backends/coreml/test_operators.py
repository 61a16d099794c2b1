"""Every lowered operator: ONNX -> package on disk -> interpreter, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.backends.coreml.lower.shape import transpositions
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
    "conv 3-D": single("Conv", (1, 2, 4, 5, 6), [normal(3, 2, 3, 2, 3), normal(3)], pads=[1, 0, 1, 1, 1, 0], strides=[2, 1, 1]),
    "conv 1-D": single("Conv", (2, 4, 11), [normal(6, 4, 3), BIAS], pads=[2, 1], strides=[2], dilations=[2]),
    "gemm": single("Gemm", (3, 5), [normal(5, 6), BIAS]),
    "gemm transB": single("Gemm", (3, 5), [normal(6, 5), BIAS], transB=1),
    "gemm alpha beta": single("Gemm", (3, 5), [normal(6, 5), normal(1)], transB=1, alpha=0.5, beta=2.0),
    "gemm transA": single("Gemm", (5, 3), [normal(5, 6), normal(3, 6)], transA=1),
    "matmul": single("MatMul", (2, 3, 5), [normal(5, 6)]),
    "matmul rank 4": single("MatMul", (2, 2, 3, 5), [normal(5, 6)]),
    "matmul batched": single("MatMul", (2, 3, 5), [normal(2, 5, 6)]),
    "matmul vector left": single("MatMul", (5,), [normal(2, 5, 6)]),
    "matmul vector right": single("MatMul", (2, 3, 5), [normal(5)]),
    "matmul vector by weight": single("MatMul", (5,), [normal(5, 6)]),
    "sum": single("Sum", IMAGE, [normal(4, 1, 1), normal(9)]),
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
    "conv transpose same upper": single("ConvTranspose", IMAGE, [normal(4, 3, 3, 2), normal(3)], strides=[2, 1], auto_pad="SAME_UPPER"),
    "conv transpose same lower": single("ConvTranspose", IMAGE, [normal(4, 3, 4, 3)], strides=[3, 2], auto_pad="SAME_LOWER"),
    "conv transpose to a shape": single("ConvTranspose", IMAGE, [normal(4, 3, 3, 3), normal(3)], strides=[2, 2], output_shape=[14, 18]),
    "conv transpose beyond": single(
        "ConvTranspose", IMAGE, [normal(4, 3, 2, 2), normal(3)], strides=[3, 2], output_padding=[2, 1], pads=[0, 0, 1, 0]
    ),
    "conv transpose 3-D": single("ConvTranspose", (1, 2, 3, 3, 4), [normal(2, 2, 2, 3, 2)], strides=[2, 1, 2], group=2),
    "space to depth": single("SpaceToDepth", (2, 3, 4, 6), blocksize=2),
    "top k": single("TopK", (3, 7), [integers(4)], outputs=2),
    "top k smallest": single("TopK", IMAGE, [integers(3)], outputs=2, axis=1, largest=0),
    "argmin": single("ArgMin", (3, 7), axis=1),
    "reduce prod": single("ReduceProd", (2, 3, 4), [integers(0, -1)]),
    "depth to space": single("DepthToSpace", (1, 12, 3, 5), blocksize=2),
    "pixel shuffle": single("DepthToSpace", (2, 18, 3, 5), blocksize=3, mode="CRD"),
    "expand": single("Expand", (3, 1, 5), [integers(2, 1, 4, 1)]),
    "tile": single("Tile", IMAGE, [integers(1, 2, 1, 3)]),
    "max pool": single("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max pool ceil": single("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max pool 1-D": single("MaxPool", (1, 3, 10), kernel_shape=[3], strides=[2]),
    "average pool": single("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool counted": single("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 0, 2, 1], count_include_pad=1),
    "average pool ceil": single("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average pool same": single("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "average pool counted ceil": single(
        "AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1, count_include_pad=1
    ),
    "average pool dilated": single("AveragePool", IMAGE, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 2, 0], strides=[1, 2]),
    "average pool dilated counted": single(
        "AveragePool", IMAGE, kernel_shape=[3, 2], dilations=[2, 1], pads=[1, 1, 2, 0], count_include_pad=1, ceil_mode=1, strides=[2, 2]
    ),
    "average pool 3-D": single("AveragePool", (1, 2, 4, 5, 6), kernel_shape=[2, 3, 2], pads=[1, 0, 1, 0, 1, 0], strides=[1, 2, 2]),
    "max pool dilated": single("MaxPool", IMAGE, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 2, 0], strides=[1, 2]),
    "max pool 3-D dilated": single("MaxPool", (1, 2, 6, 5, 6), kernel_shape=[2, 2, 3], dilations=[3, 1, 2], strides=[2, 1, 1]),
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
    "pad reflect any axis": single("Pad", (3, 4, 2, 5), [integers(2, 1, 0, 0, 1, 3, 0, 0)], mode="reflect"),
    "pad edge beyond": single("Pad", (1, 2, 3, 2), [integers(0, 3, 0, 4, 0, 1, 0, 5)], mode="edge"),
    "pad wrap": single("Pad", (3, 4), [integers(2, 1, 3, 0)], mode="wrap"),
    "pad negative": single("Pad", IMAGE, [integers(0, -1, 2, 0, 0, 0, -3, 1), scalar(-1)]),
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
    "resize cubic": single("Resize", IMAGE, [None, None, integers(1, 4, 10, 5)], mode="cubic", cubic_coeff_a=-0.5),
    "resize antialias": single("Resize", IMAGE, [None, None, integers(1, 4, 3, 4)], mode="linear", antialias=1),
    "resize by a fraction": single("Resize", IMAGE, [None, np.array([1, 1, 0.6, 1.7], np.float32)], mode="linear"),
    "resize crop": single(
        "Resize",
        IMAGE,
        [np.array([0, 0, 0.2, -0.1, 1, 1, 0.7, 1.2], np.float32), None, integers(1, 4, 5, 6)],
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=3.5,
    ),
    "resize channels": single("Resize", (1, 4, 3, 5), [None, None, integers(1, 7, 3, 5)], mode="linear"),
    "resize a volume": single("Resize", (1, 2, 3, 4, 5), [None, None, integers(1, 2, 5, 3, 8)], mode="linear"),
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


# A step function turns a rounded input into another step; two numbers that round to one have no order.
STEPS = ("floor", "ceil", "round", "sign", "top k", "top k smallest", "argmin")


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


WHOLE = np.array([[-7, 7, -8, 0], [9, -9, 3, 1]], np.float32)


def of_integers(operator: str, *constants: Any, inputs: int = 1, to: int = onnx.TensorProto.INT32, **attributes: Any) -> onnx.ModelProto:
    """``operator`` on int32 (or boolean) casts of the inputs; its result as float32."""
    named = {f"constant_{index}": array for index, array in enumerate(constants)}
    reads = ["image", "other"][:inputs]
    nodes = [onnx.helper.make_node("Cast", [name], [f"{name}_cast"], to=to) for name in reads]
    nodes.append(
        onnx.helper.make_node(
            operator,
            [*(f"{name}_cast" for name in reads), *named],
            ["found", *["places"] * (operator == "TopK")],
            name="tested",
            **attributes,
        )
    )
    nodes.append(onnx.helper.make_node("Cast", ["found"], ["y"], to=onnx.TensorProto.FLOAT))
    return make_model(nodes, dict.fromkeys(reads, WHOLE.shape), ["y"], named)


BOOL = onnx.TensorProto.BOOL
WHOLE_CASES = {
    "division truncates": of_integers("Div", np.array([2, -3, 3, -2], np.int32)),
    "division of two inputs": of_integers("Div", inputs=2),
    "cube": of_integers("Pow", np.array(3, np.int32)),
    "powers": of_integers("Pow", np.array([0, 1, 2, 5], np.int32)),
    "whole real power": of_integers("Pow", np.array([[2.0], [0.0]], np.float32)),
    "sum": of_integers("ReduceSum", integers(1)),
    "product": of_integers("ReduceProd", integers(0)),
    "largest": of_integers("ReduceMax", integers(0, 1)),
    "matmul": of_integers("MatMul", np.arange(12, dtype=np.int32).reshape(4, 3)),
    "top k": of_integers("TopK", integers(2)),
    "pad": of_integers("Pad", integers(1, 0, 0, 2), np.array(5, np.int32)),
    "pad edge": of_integers("Pad", integers(1, 0, 0, 2), mode="edge"),
    "greater": of_integers("Greater", np.array(2, np.int32)),
    "any": of_integers("ReduceMax", integers(0), to=BOOL),
    "all": of_integers("ReduceMin", integers(0), to=BOOL),
    "or": of_integers("Or", inputs=2, to=BOOL),
    "and": of_integers("And", inputs=2, to=BOOL),
    "xor": of_integers("Xor", inputs=2, to=BOOL),
    "not": of_integers("Not", to=BOOL),
    "equal booleans": of_integers("Equal", inputs=2, to=BOOL),
    "gather booleans": of_integers("Gather", integers(1, -1), to=BOOL, axis=1),
    "pad booleans": of_integers("Pad", integers(1, 0, 0, 2), np.array(True), to=BOOL),
    "pad booleans edge": of_integers("Pad", integers(1, 0, 0, 2), to=BOOL, mode="edge"),
}
# onnxruntime has no kernel for these: what numpy says of the same words.
NUMPY = {
    "any": lambda x: x.any(axis=0, keepdims=True),
    "all": lambda x: x.all(axis=0, keepdims=True),
    "gather booleans": lambda x: x[:, [1, -1]],
    "pad booleans edge": lambda x: np.pad(x, ((1, 0), (0, 2)), "edge"),
}


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize("name", WHOLE_CASES)
def test_integers_and_booleans_are_exact_in_every_precision(name: str, scheme: str, tmp_path: Path) -> None:
    model = WHOLE_CASES[name]
    feed = {value.name: array for value, array in zip(model.graph.input, (WHOLE, WHOLE[::-1] + 2.0), strict=False)}
    feed = {
        key: np.where(array == 0, 1, array).astype(np.float32) if "division" in name else array.astype(np.float32)
        for key, array in feed.items()
    }
    path = save(model, tmp_path)
    written = write(path, tmp_path, WriteOptions(scheme=scheme))
    assert lint(tmp_path / written.file) == []
    found = Program.load(tmp_path / written.file).run(feed)["y"]
    wanted = NUMPY[name](feed["image"] != 0) if name in NUMPY else run_onnxruntime(path, feed)["y"]
    assert np.array_equal(found, np.asarray(wanted, np.float32))


def test_negative_indices_computed_at_run_time_count_from_the_end(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["places"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Gather", ["table", "places"], ["y"], axis=0),
    ]
    model = make_model(nodes, {"image": (4,)}, ["y"], {"table": normal(5, 3)})
    feed = {"image": np.array([0, -1, 4, -5], np.float32)}
    found, reference = convert_and_run(model, tmp_path, "fp32", feed)
    assert np.array_equal(found["y"], reference["y"])


@pytest.mark.parametrize("perm", [(0, 1, 3, 2, 4, 5), (5, 3, 1, 0, 2, 4), (0, 4, 1, 5, 2, 3), (3, 1, 5, 0, 2, 4)])
@pytest.mark.parametrize("sizes", [(2, 3, 2, 3, 2, 2), (1, 3, 2, 1, 4, 3)])
def test_a_transpose_of_six_dimensions_between_reshapes_equals_onnxruntime(
    sizes: tuple[int, ...], perm: tuple[int, ...], tmp_path: Path
) -> None:
    """Window attention's way of cutting an image into windows: Core ML stops at five dimensions."""
    nodes = [
        onnx.helper.make_node("Reshape", ["image", "wide"], ["six"], name="spread"),
        onnx.helper.make_node("Transpose", ["six"], ["moved"], perm=perm, name="move"),
        onnx.helper.make_node("Reshape", ["moved", "flat"], ["y"], name="join"),
    ]
    count = int(np.prod(sizes))
    model = make_model(nodes, {"image": (2, count // 2)}, ["y"], {"wide": integers(*sizes), "flat": integers(count // 2, 2)})
    found, reference = convert_and_run(model, tmp_path, "fp32", feed_of(model))
    assert np.array_equal(found["y"], reference["y"])


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=8).flatmap(lambda sizes: st.tuples(st.just(sizes), st.permutations(range(len(sizes)))))
)
def test_transposes_of_rank_five_at_most_permute_any_number_of_dimensions(form: tuple[list[int], list[int]]) -> None:
    sizes, perm = form
    whole = np.arange(np.prod(sizes)).reshape(sizes)
    held = whole
    for shape, order in transpositions(sizes, perm):
        assert len(shape) <= 5
        held = held.reshape(shape).transpose(order)
    assert np.array_equal(held.ravel(), whole.transpose(perm).ravel())
