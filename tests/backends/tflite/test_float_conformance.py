"""Every operator, in float, equals ONNX Runtime to float32 rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.table import BackendError
from edgepack.backends.tflite import obstacles, write
from tests.backends.tflite.models import Hub, both, convert, node, run_litert, run_ort, single

RNG = np.random.default_rng(3)

# Both sides round float32 sums of at most a few hundred products of unit-normal numbers, in different orders:
# 2^-24 * sqrt(600) * 8 is 1.2e-5 of the result's scale, about 20 here.
TOLERANCE = {"rtol": 2e-5, "atol": 5e-5}


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> Any:
    return np.asarray(values, np.int64)


def f32(*values: float) -> Any:
    return np.asarray(values, np.float32)


def conv(shape: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> Hub:
    return single("Conv", normal(*shape), weights={"w": normal(*weight), "b": normal(weight[0])}, **attributes)


def transposed(shape: tuple[int, ...], weight: tuple[int, ...], group: int = 1, **attributes: Any) -> Hub:
    weights = {"w": normal(*weight), "b": normal(group * weight[1])}
    return single("ConvTranspose", normal(*shape), weights=weights, group=group, **attributes)


CONVOLUTIONS = {
    "same": conv((1, 3, 9, 7), (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    "no_bias": single("Conv", normal(1, 3, 9, 7), weights={"w": normal(4, 3, 3, 3)}),
    "batch": conv((3, 3, 9, 7), (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    "strided_odd": conv((1, 3, 9, 7), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    "strided_even": conv((1, 3, 8, 6), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    "asymmetric_pads": conv((1, 3, 9, 7), (4, 3, 3, 2), pads=[0, 1, 2, 0]),
    "unequal_strides": conv((1, 3, 9, 11), (4, 3, 3, 5), strides=[1, 3], pads=[1, 2, 1, 2]),
    "dilated": conv((1, 3, 11, 9), (4, 3, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    "same_upper": conv((1, 3, 8, 7), (4, 3, 3, 4), strides=[2, 2], auto_pad="SAME_UPPER"),
    "same_lower": conv((1, 3, 8, 7), (4, 3, 3, 4), strides=[2, 2], auto_pad="SAME_LOWER"),
    "valid": conv((1, 3, 8, 7), (4, 3, 3, 4), auto_pad="VALID"),
    "pointwise": conv((1, 5, 4, 4), (6, 5, 1, 1)),
    "pointwise_strided": conv((1, 5, 5, 6), (6, 5, 1, 1), strides=[2, 2]),
    "grouped": conv((1, 6, 7, 7), (9, 2, 3, 3), group=3, pads=[1, 1, 1, 1]),
    "depthwise": conv((1, 6, 7, 7), (6, 1, 3, 3), group=6, pads=[1, 1, 1, 1]),
    "depthwise_multiplier": conv((1, 4, 7, 7), (8, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "depthwise_strided": conv((1, 6, 8, 8), (6, 1, 5, 5), group=6, strides=[2, 2], pads=[2, 2, 2, 2]),
    "depthwise_dilated": conv((1, 6, 9, 9), (6, 1, 3, 3), group=6, dilations=[2, 2], pads=[2, 2, 2, 2]),
    "depthwise_of_one_channel": conv((1, 1, 7, 7), (4, 1, 3, 3), pads=[1, 1, 1, 1]),
    "one_dimensional": conv((2, 4, 13), (5, 4, 3), pads=[1, 1], strides=[2]),
    "one_dimensional_grouped": conv((1, 4, 13), (6, 2, 3), pads=[2, 0], group=2, dilations=[2]),
    "one_dimensional_depthwise": conv((1, 4, 13), (4, 1, 5), pads=[2, 2], group=4),
    "transposed": single("ConvTranspose", normal(1, 3, 5, 4), weights={"w": normal(3, 4, 3, 3), "b": normal(4)}, strides=[2, 2]),
    "transposed_cut": single(
        "ConvTranspose",
        normal(1, 3, 5, 4),
        weights={"w": normal(3, 4, 4, 3), "b": normal(4)},
        strides=[2, 2],
        pads=[1, 0, 1, 2],
        output_padding=[1, 1],
    ),
    "transposed_same_as_tflite": transposed((1, 3, 5, 4), (3, 4, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    "transposed_dilated": transposed((1, 3, 5, 4), (3, 4, 3, 2), strides=[2, 1], dilations=[2, 3], pads=[1, 0, 2, 1]),
    "transposed_grouped": transposed((2, 6, 5, 4), (6, 2, 3, 4), group=3, strides=[2, 3], pads=[1, 0, 0, 2], output_padding=[1, 0]),
    "transposed_depthwise": transposed((1, 6, 5, 4), (6, 1, 4, 4), group=6, strides=[2, 2], pads=[1, 1, 1, 1]),
    "transposed_depthwise_multiplier": transposed((1, 3, 5, 4), (3, 2, 3, 3), group=3, strides=[1, 2], dilations=[2, 1]),
    "transposed_output_shape": transposed((1, 3, 5, 4), (3, 4, 3, 3), strides=[3, 2], output_shape=[14, 8]),
    "transposed_same_upper": transposed((1, 3, 5, 4), (3, 4, 4, 3), strides=[3, 2], auto_pad="SAME_UPPER"),
    "transposed_same_lower": transposed((1, 3, 5, 4), (3, 4, 4, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    "transposed_cut_at_its_end": transposed((1, 6, 4), (6, 1, 3), pads=[0, 2]),
    "transposed_1d": transposed((2, 3, 7), (3, 4, 4), strides=[2], pads=[1, 2]),
}

POOLS = {
    "max": single("MaxPool", normal(1, 3, 9, 7), kernel_shape=[2, 2], strides=[2, 2]),
    "max_padded": single("MaxPool", normal(1, 3, 8, 8) - 3, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max_same": single("MaxPool", normal(1, 3, 7, 7) - 3, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    "max_same_lower": single("MaxPool", normal(1, 3, 7, 8) - 3, kernel_shape=[2, 3], strides=[1, 2], auto_pad="SAME_LOWER"),
    "max_1d": single("MaxPool", normal(2, 3, 11) - 3, kernel_shape=[3], strides=[2], pads=[1, 1]),
    "max_ceil": single("MaxPool", normal(1, 3, 8, 9) - 3, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max_ceil_padded": single("MaxPool", normal(1, 3, 7, 7) - 3, kernel_shape=[3, 2], strides=[3, 2], pads=[1, 0, 1, 1], ceil_mode=1),
    "max_dilated": single("MaxPool", normal(1, 3, 9, 8) - 3, kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2], pads=[2, 1, 0, 1]),
    "max_3d": single("MaxPool", normal(1, 2, 5, 6, 7) - 3, kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[0, 1, 1, 1, 1, 0], ceil_mode=1),
    "average_ceil": single("AveragePool", normal(1, 3, 8, 9), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average_ceil_including": single(
        "AveragePool", normal(1, 3, 8, 9), kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
    ),
    "average_dilated": single("AveragePool", normal(1, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 2], pads=[1, 1, 1, 0]),
    "average_3d": single("AveragePool", normal(1, 2, 5, 6, 7), kernel_shape=[3, 2, 2], strides=[2, 2, 1], pads=[1, 0, 1, 1, 1, 0]),
    "average": single("AveragePool", normal(1, 3, 9, 7), kernel_shape=[3, 3], strides=[2, 2]),
    "average_excluding": single("AveragePool", normal(1, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average_including": single(
        "AveragePool", normal(1, 3, 8, 8), kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "average_same": single("AveragePool", normal(1, 3, 8, 8), kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    "average_uneven": single("AveragePool", normal(1, 3, 8, 9), kernel_shape=[2, 3], pads=[1, 0, 0, 2]),
    "average_1d": single("AveragePool", normal(2, 3, 11), kernel_shape=[3], strides=[2], pads=[1, 1]),
    "global_average": single("GlobalAveragePool", normal(2, 3, 5, 7)),
    "global_max": single("GlobalMaxPool", normal(2, 3, 5, 7)),
    "global_average_1d": single("GlobalAveragePool", normal(2, 3, 5)),
}

POSITIVE = np.abs(normal(1, 3, 4, 5)) + 0.1
ELEMENTWISE = {
    **{f"{name}_alike": single(name, normal(1, 3, 4, 5), normal(1, 3, 4, 5)) for name in ("Add", "Sub", "Mul", "Max", "Min")},
    **{f"{name}_channel": single(name, normal(1, 3, 4, 5), weights={"c": normal(3, 1, 1)}) for name in ("Add", "Sub", "Mul", "Max")},
    "div": single("Div", normal(1, 3, 4, 5), weights={"c": f32(3.0)}),
    "sub_constant_left": Hub([node("Sub", "c x")], {"x": normal(1, 3, 4, 5)}, {"c": f32(1.5)}),
    "add_full_constant": single("Add", normal(1, 3, 4, 5), weights={"c": normal(1, 3, 4, 5)}),
    "add_row": single("Add", normal(1, 3, 4, 5), normal(5)),
    "add_outer": single("Add", normal(1, 3, 1, 1), normal(2, 1, 4, 5)),
    "mul_ranks": single("Mul", normal(2, 3, 4), normal(4)),
    "max_of_one": single("Max", normal(2, 3)),
    "sum_of_three": single("Sum", normal(2, 3), normal(3), normal(2, 1)),
    "mean_of_three": single("Mean", normal(2, 3), normal(3), normal(2, 1)),
    "max_of_three": single("Max", normal(2, 3), normal(3), normal(2, 1)),
    "pow_square": single("Pow", normal(1, 3, 4, 5), weights={"e": np.float32(2)}),
    "pow_root": single("Pow", POSITIVE, weights={"e": np.float32(0.5)}),
    "pow_cube": single("Pow", normal(1, 3, 4, 5), weights={"e": np.float32(3)}),
    "pow_tensor": single("Pow", POSITIVE, normal(1, 3, 4, 5)),
    **{
        name: single(name, normal(1, 3, 4, 5) * 4)
        for name in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "HardSwish",
            "Exp",
            "Abs",
            "Neg",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "Sin",
            "Cos",
            "Erf",
            "Elu",
            "Mish",
            "Softplus",
        )
    },
    "Log": single("Log", POSITIVE),
    "Sqrt": single("Sqrt", POSITIVE),
    "Reciprocal": single("Reciprocal", POSITIVE),
    "erf_at_zero": single("Erf", f32(0, 1e-8, -1e-3, 0.5, 6, -6)),
    "round_halves": single("Round", f32(0.5, 1.5, 2.5, -0.5, -1.5)),
    "leaky": single("LeakyRelu", normal(1, 3, 4, 5), alpha=0.2),
    "prelu": single("PRelu", normal(1, 3, 4, 5), weights={"slope": normal(3, 1, 1)}),
    "elu_alpha": single("Elu", normal(1, 3, 4, 5), alpha=0.3),
    "gelu": single("Gelu", normal(1, 3, 4, 5) * 3),
    "gelu_tanh": single("Gelu", normal(1, 3, 4, 5) * 3, approximate="tanh"),
    "hard_sigmoid": single("HardSigmoid", normal(1, 3, 4, 5) * 4),
    "hard_sigmoid_slope": single("HardSigmoid", normal(1, 3, 4, 5) * 4, alpha=1 / 6, beta=0.4),
    "relu6": single("Clip", normal(1, 3, 4, 5) * 8, weights={"low": np.float32(0), "high": np.float32(6)}),
    "clip": single("Clip", normal(1, 3, 4, 5) * 8, weights={"low": np.float32(-0.5), "high": np.float32(2)}),
    "clip_above": single("Clip", normal(1, 3, 4, 5) * 8, weights={"low": None, "high": np.float32(2)}),
    "softmax_channels": single("Softmax", normal(1, 3, 4, 5), axis=1),
    "softmax_rows": single("Softmax", normal(1, 3, 4, 5), axis=-1),
    "softmax_matrix": single("Softmax", normal(2, 7)),
    "log_softmax": single("LogSoftmax", normal(2, 7, 3), axis=1),
    "identity": single("Identity", normal(1, 3, 4, 5)),
}

MATMULS = {
    "gemm": single("Gemm", normal(3, 5), weights={"w": normal(4, 5), "b": normal(4)}, transB=1),
    "gemm_plain": single("Gemm", normal(3, 5), weights={"w": normal(5, 4), "b": normal(1, 4)}),
    "gemm_scaled": single("Gemm", normal(3, 5), weights={"w": normal(5, 4), "b": normal(4)}, alpha=0.5, beta=2.0),
    "gemm_left_transposed": single("Gemm", normal(5, 3), weights={"w": normal(5, 4)}, transA=1),
    "gemm_matrix_addend": single("Gemm", normal(3, 5), weights={"w": normal(5, 4), "b": normal(3, 4)}, beta=0.5),
    "gemm_of_activations": single("Gemm", normal(3, 5), normal(4, 5), normal(4), transB=1, beta=3.0),
    "matmul_weight": single("MatMul", normal(3, 5), weights={"w": normal(5, 4)}),
    "matmul_weight_rank_3": single("MatMul", normal(2, 3, 5), weights={"w": normal(5, 4)}),
    "matmul_vector_right": single("MatMul", normal(2, 3, 5), weights={"w": normal(5)}),
    "matmul_vector_left": single("MatMul", normal(5), weights={"w": normal(5, 4)}),
    "matmul": single("MatMul", normal(2, 3, 5), normal(2, 5, 4)),
    "matmul_broadcast": single("MatMul", normal(2, 3, 4, 5), normal(5, 4)),
    "matmul_batched_constant": single("MatMul", normal(2, 3, 5), weights={"w": normal(2, 5, 4)}),
}


def group_norm(*shape: int, num_groups: int) -> Hub:
    hub = single("GroupNormalization", normal(*shape), weights={"s": normal(shape[1]), "b": normal(shape[1])}, num_groups=num_groups)
    hub.shape = shape
    return hub


REDUCTIONS = {
    f"{name}_{'_'.join(map(str, axes))}_{keeps}": single(name, normal(2, 3, 4, 5), weights={"axes": i64(*axes)}, keepdims=keeps)
    for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
    for axes, keeps in (((2, 3), 1), ((1,), 0), ((-1,), 0), ((2,), 0), ((0, 1), 1))
} | {
    "arg_max": Hub(
        [node("ArgMax", "x", "i", axis=1, keepdims=0), node("Cast", "i", "y", name="real", to=1)], {"x": normal(2, 3, 4, 5)}, {}
    ),
    "arg_max_kept": Hub([node("ArgMax", "x", "i", axis=-1), node("Cast", "i", "y", name="real", to=1)], {"x": normal(2, 3, 4, 5)}, {}),
    "all_axes": single("ReduceMean", normal(2, 3, 4), keepdims=0),
    "no_axes": single("ReduceSum", normal(2, 3, 4), noop_with_empty_axes=1),
    "any": Hub(
        [node("Greater", "x one", "b"), node("ReduceMax", "b axes", "m"), node("Cast", "m", to=1)],
        {"x": normal(2, 3, 4, 5)},
        {"one": np.float32(1), "axes": i64(2, 3)},
    ),
    "all": Hub(
        [node("Greater", "x one", "b"), node("ReduceMin", "b axes", "m", keepdims=0), node("Cast", "m", to=1)],
        {"x": normal(2, 3, 4, 5)},
        {"one": np.float32(-1), "axes": i64(1, -1)},
    ),
    "prod": single("ReduceProd", normal(2, 3, 4), weights={"axes": i64(1)}),
    "l2": single("ReduceL2", normal(1, 3, 4, 5), weights={"axes": i64(1)}),
    "layer_norm": single("LayerNormalization", normal(2, 3, 8), weights={"s": normal(8), "b": normal(8)}),
    "layer_norm_two_axes": single("LayerNormalization", normal(2, 3, 8), weights={"s": normal(3, 8)}, axis=1, epsilon=1e-3),
    "instance_norm": single("InstanceNormalization", normal(2, 3, 4, 5), weights={"s": normal(3), "b": normal(3)}),
    "group_norm": group_norm(2, 6, 4, 5, num_groups=3),
    "group_norm_1d": group_norm(2, 6, 7, num_groups=2),
    "batch_norm": single(
        "BatchNormalization",
        normal(2, 3, 4, 5),
        weights={"s": normal(3), "b": normal(3), "m": normal(3), "v": np.abs(normal(3)) + 0.1},
    ),
}

SHAPES = {
    "concat_channels": single("Concat", normal(1, 3, 4, 5), normal(1, 2, 4, 5), axis=1),
    "concat_width": single("Concat", normal(1, 3, 4, 5), normal(1, 3, 4, 2), axis=-1),
    "concat_constant": single("Concat", normal(1, 3, 4, 5), weights={"c": normal(1, 1, 4, 5)}, axis=1),
    "slice": single("Slice", normal(1, 6, 7, 8), weights={"s": i64(1, -6), "e": i64(4, 2**62), "a": i64(1, 3)}),
    "slice_steps": single("Slice", normal(1, 6, 7, 8), weights={"s": i64(0, 1), "e": i64(6, 7), "a": i64(1, 2), "st": i64(2, 3)}),
    "slice_reversed": single("Slice", normal(2, 6, 7), weights={"s": i64(-1), "e": i64(-(2**62)), "a": i64(1), "st": i64(-1)}),
    "slice_reversed_part": single("Slice", normal(2, 6, 7), weights={"s": i64(4), "e": i64(0), "a": i64(2), "st": i64(-2)}),
    "pad": single("Pad", normal(1, 3, 4, 5), weights={"p": i64(0, 1, 2, 0, 0, 0, 1, 3)}),
    "pad_value": single("Pad", normal(1, 3, 4, 5), weights={"p": i64(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(-1.5)}),
    "pad_axes": single("Pad", normal(1, 3, 4, 5), weights={"p": i64(1, 2), "v": None, "a": i64(-1)}),
    "pad_reflect": single("Pad", normal(1, 3, 4, 5), weights={"p": i64(0, 0, 1, 2, 0, 0, 2, 1)}, mode="reflect"),
    "pad_edge": single("Pad", normal(1, 3, 4, 5), weights={"p": i64(0, 1, 2, 0, 0, 0, 1, 3)}, mode="edge"),
    "pad_wrap": single("Pad", normal(1, 3, 4, 5), weights={"p": i64(0, 0, 2, 1, 0, 0, 1, 3)}, mode="wrap"),
    "pad_reflect_far": single("Pad", normal(2, 3, 6, 7), weights={"p": i64(0, 0, 5, 4, 0, 0, 4, 3)}, mode="reflect"),
    "space_to_depth": single("SpaceToDepth", normal(1, 2, 6, 4), blocksize=2),
    "space_to_depth_one_channel": single("SpaceToDepth", normal(2, 1, 6, 9), blocksize=3),
    **{
        f"top_k_{axis}_{largest}": Hub(
            [
                node("TopK", "x k", "v i", axis=axis, largest=largest),
                node("Cast", "i", "r", "real", to=1),
                node("Concat", "v r", axis=axis),
            ],
            {"x": np.round(normal(2, 6, 3, 5) * 2)},
            {"k": i64(3)},
        )
        for axis in (1, -1)
        for largest in (0, 1)
    },
    "top_k_of_integers": Hub(
        [node("TopK", "x k", "v i", largest=0), node("Cast", "v", "y", "real", to=1)],
        {"x": np.asarray([[5, -(2**31), 2**31 - 1, 0, 5]], np.int32)},
        {"k": i64(3)},
    ),
    "reshape": single("Reshape", normal(1, 4, 3, 5), weights={"s": i64(1, 2, 6, 5)}),
    "reshape_joins_space": single("Reshape", normal(2, 4, 3, 5), weights={"s": i64(2, 4, 15)}),
    "flatten": single("Flatten", normal(2, 4, 3, 5)),
    "squeeze": single("Squeeze", normal(2, 4, 1, 5), weights={"a": i64(2)}),
    "unsqueeze": single("Unsqueeze", normal(2, 4, 5), weights={"a": i64(1, -1)}),
    "transpose": single("Transpose", normal(2, 3, 4, 5), perm=[0, 3, 1, 2]),
    "transpose_default": single("Transpose", normal(2, 3, 4)),
    "transpose_rank_5": single("Transpose", normal(2, 3, 4, 2, 3), perm=[4, 0, 2, 1, 3]),
    "expand": single("Expand", normal(1, 3, 1, 5), weights={"s": i64(2, 3, 4, 5)}),
    "tile": single("Tile", normal(1, 3, 2, 5), weights={"r": i64(2, 1, 3, 1)}),
    "gather": single("Gather", normal(1, 6, 4, 5), weights={"i": i64(3, -1, 0)}, axis=1),
    "gather_one": single("Gather", normal(1, 6, 4, 5), weights={"i": np.int64(-2)}, axis=1),
    "gather_matrix": single("Gather", normal(6, 4), weights={"i": i64(3, 1, 0, 5).reshape(2, 2)}),
    "gather_run_time": Hub([node("Gather", "table ids")], {"ids": i64(3, -1, 0)}, {"table": normal(5, 4)}),
    "depth_to_space": single("DepthToSpace", normal(1, 8, 3, 2), blocksize=2),
    "pixel_shuffle": single("DepthToSpace", normal(1, 8, 3, 2), blocksize=2, mode="CRD"),
    "where": Hub(
        [node("Greater", "x zero", "mask"), node("Where", "mask x z")],
        {"x": normal(1, 3, 4, 5), "z": normal(3, 1, 1)},
        {"zero": np.float32(0)},
    ),
    "cast": Hub([node("Cast", "x", "i", to=7), node("Cast", "i", "y", name="back", to=1)], {"x": normal(2, 3) * 5}, {}),
}


def resized(shape: tuple[int, ...], sizes: tuple[int, ...], **attributes: Any) -> Hub:
    return single("Resize", normal(*shape), weights={"roi": None, "scales": None, "sizes": i64(*sizes)}, **attributes)


RESIZES = {
    "nearest_asymmetric": resized(
        (1, 2, 3, 4), (1, 2, 6, 8), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "nearest_half_pixel": resized((1, 2, 3, 4), (1, 2, 6, 12)),
    "nearest_down": resized((1, 2, 8, 9), (1, 2, 4, 3)),
    "nearest_odd": resized((1, 2, 5, 7), (1, 2, 8, 4), coordinate_transformation_mode="asymmetric", nearest_mode="ceil"),
    "linear_half_pixel": resized((1, 2, 3, 4), (1, 2, 6, 9), mode="linear"),
    "linear_down": resized((1, 2, 9, 8), (1, 2, 4, 5), mode="linear"),
    "linear_corners": resized((1, 2, 3, 4), (1, 2, 6, 9), mode="linear", coordinate_transformation_mode="align_corners"),
    "linear_asymmetric": resized((1, 2, 3, 4), (1, 2, 6, 8), mode="linear", coordinate_transformation_mode="asymmetric"),
    "linear_torch": resized((1, 2, 3, 4), (1, 2, 5, 8), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    **{
        f"{mode}_{antialias}_{coordinates}": resized(
            (2, 2, 7, 6), (2, 2, 5, 9), mode=mode, coordinate_transformation_mode=coordinates, antialias=antialias
        )
        for mode, antialias, coordinates in (
            ("cubic", 0, "half_pixel"),
            ("cubic", 0, "align_corners"),
            ("cubic", 1, "half_pixel"),
            ("linear", 1, "half_pixel"),
            ("linear", 0, "half_pixel_symmetric"),
        )
    },
    "cubic_excluding": resized((1, 2, 7, 6), (1, 2, 5, 9), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    "linear_of_a_row": resized((1, 2, 7), (1, 2, 12), mode="linear"),
    "nearest_3d": resized((1, 2, 3, 4, 3), (1, 2, 6, 8, 5)),
    "linear_channels": resized((1, 2, 3, 4), (1, 5, 6, 4), mode="linear"),
    "crop": single(
        "Resize",
        normal(1, 2, 6, 5),
        weights={"roi": f32(0, 0, 0.2, -0.1, 1, 1, 1.1, 0.8), "s": None, "z": i64(1, 2, 4, 8)},
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.0,
    ),
    "scales": single("Resize", normal(1, 2, 3, 4), weights={"roi": None, "s": f32(1, 1, 2, 2)}, mode="linear"),
}

ALL = {
    f"{family}-{name}": hub
    for family, hubs in {
        "conv": CONVOLUTIONS,
        "pool": POOLS,
        "elementwise": ELEMENTWISE,
        "matmul": MATMULS,
        "reduce": REDUCTIONS,
        "shape": SHAPES,
        "resize": RESIZES,
    }.items()
    for name, hub in hubs.items()
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("images", [True, False], ids=["nhwc_ends", "nchw_ends"])
def test_operator_equals_onnxruntime(name: str, images: bool, tmp_path: Path) -> None:
    ours, reference = both(ALL[name], tmp_path, images=images)
    assert ours["y"].shape == reference["y"].shape
    np.testing.assert_allclose(ours["y"], reference["y"], **TOLERANCE)


@pytest.mark.parametrize("order", [0, 1])
def test_indices_of_a_max_pool_are_onnxruntimes_first_of_equals(order: int, tmp_path: Path) -> None:
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "storage_order": order}
    pool = node("MaxPool", "x", "y where", **attributes)
    hub = Hub([pool], {"x": np.round(normal(2, 3, 7, 5) * 2)}, {}, {"y": np.float32, "where": np.int64})
    ours, reference = both(hub, tmp_path)
    for name in reference:
        np.testing.assert_array_equal(ours[name], reference[name])


def boxes_and_scores(rng: np.random.Generator, centred: int, grid: bool) -> dict[str, Any]:
    """Two images, three classes, 20 boxes; on a grid boxes without area and equal scores abound."""
    centre, side, scores = rng.random((2, 20, 2)) * 4, rng.random((2, 20, 2)) * 2, rng.random((2, 3, 20))
    if grid:
        centre, side, scores = np.round(centre * 2) / 2, np.round(side * 2) / 2, np.round(scores * 4) / 4
    pair = (centre, side) if centred else (centre - side / 2, centre + side / 2)
    return {"boxes": np.concatenate(pair, -1).astype(np.float32), "scores": scores.astype(np.float32)}


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("lowest", [None, 0.5, 2.0], ids=["all", "half", "none"])
def test_suppression_selects_onnxruntimes_boxes_however_many_they_are(
    grid: bool, centred: int, lowest: float | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(11)
    weights = {"keep": i64(7), "overlap": f32(0.25)} | ({} if lowest is None else {"lowest": f32(lowest)})
    feed = boxes_and_scores(rng, centred, grid)
    suppression = node("NonMaxSuppression", " ".join([*feed, *weights]), center_point_box=centred)
    description = convert(Hub([suppression], feed, weights, {"y": np.int64}), tmp_path)
    for _ in range(5):
        feed = boxes_and_scores(rng, centred, grid)
        np.testing.assert_array_equal(run_litert(description, tmp_path, feed)["y"], run_ort(tmp_path, feed)["y"])


def test_who_reads_a_number_of_boxes_is_refused_by_name(tmp_path: Path) -> None:
    feed = boxes_and_scores(RNG, 0, False)
    nodes = [node("NonMaxSuppression", "boxes scores keep overlap", "s"), node("Cast", "s", "y", "reader", to=1)]
    model = Hub(nodes, feed, {"keep": i64(7), "overlap": f32(0.25)}, {"s": np.int64, "y": np.float32}, (42, 3)).save(tmp_path / "hub.onnx")
    (found,) = obstacles(model)
    assert found.node == "reader" and "only a run tells" in found.cause
    with pytest.raises(BackendError, match="reader"):
        write(model, tmp_path, WriteOptions("fp32"))
