"""Encodings before codes: groups, prescribed encodings, fp16 scales, bias that cannot overflow."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgepack.calibration.observe import Ranges
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Constraints, Demands, QuantizeError, affine, resolve, round_scales, weight_encoding
from edgepack.quantize.placement import integer_nodes
from edgepack.verify.metrics import sqnr_db
from tests.quantize.graphs import convolution, hub, ranges_of, run_all, samples


def _resolved(model: ir.Model, demands: Demands | None = None) -> Constraints:
    return resolve(integer_nodes(model.graph), ranges_of(model), demands or Demands())[0]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.sampled_from(["float32", "float16"]))
def test_zero_is_a_code_and_the_range_is_covered_within_half_a_step(a: float, b: float, dtype: str) -> None:
    low, high = min(a, b), max(a, b)
    held = affine(low, high, dtype)
    assert 0 <= held.zero_point <= 255
    assert np.float32(held.scale) == np.asarray(held.scale, dtype)
    reach = (held.scale * (0 - held.zero_point), held.scale * (255 - held.zero_point))
    slack = held.scale * (0.5 + 1e-4)
    assert reach[0] <= min(low, 0) + slack
    assert reach[1] >= max(high, 0) - slack


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-12, 1e4), min_size=1, max_size=8))
def test_fp16_scales_are_fp16_numbers_never_below_the_wish_and_never_subnormal(wishes: list[float]) -> None:
    rounded = round_scales(np.asarray(wishes), "float16")
    assert np.array_equal(rounded, rounded.astype(np.float16).astype(np.float32))
    assert (rounded >= np.asarray(wishes)).all()
    assert (rounded >= 2.0**-14).all()
    # One unit of fp16's 11-bit significand above at most, where the wish itself is a normal number.
    normal = np.asarray(wishes) >= 2.0**-14
    assert (rounded[normal] <= np.asarray(wishes)[normal] * (1 + 2.0**-10)).all()


def test_pools_and_reshapes_share_one_encoding_and_convolutions_do_not() -> None:
    model = convolution()
    constraints = _resolved(model)
    groups = [set(group) for group in constraints.groups]
    assert {"r1", "p1"} in groups
    assert constraints.activations["r1"] == constraints.activations["p1"]
    assert constraints.activations["x"] != constraints.activations["r1"]


def test_nothing_between_a_convolution_and_its_relu_is_encoded() -> None:
    constraints = _resolved(convolution())
    assert {"c1", "a"}.isdisjoint(constraints.activations)
    assert constraints.activations["r1"].zero_point == 0


def test_sigmoid_and_tanh_get_what_their_kernels_prescribe() -> None:
    model = hub([helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Tanh", ["s"], ["y"])], {})
    held = _resolved(model).activations
    assert (held["s"].scale, held["s"].zero_point) == (1 / 256, 0)
    assert (held["y"].scale, held["y"].zero_point) == (1 / 128, 128)


def test_a_concat_of_two_prescribed_encodings_stays_real_and_says_why() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Concat", ["s", "t"], ["y"], axis=1),
    ]
    model = hub(nodes, {})
    constraints, kept = resolve(integer_nodes(model.graph), ranges_of(model), Demands())
    assert [node.op_type for node in kept] == ["Sigmoid", "Tanh"]
    ((_, reason),) = constraints.real.items()
    assert "prescribe different encodings" in reason


def test_a_concat_shares_the_union_of_its_ranges() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "three"], ["m"]),
        helper.make_node("Concat", ["x", "m"], ["y"], axis=1),
    ]
    held = _resolved(hub(nodes, {"three": np.asarray(3, np.float32)})).activations
    assert held["x"] == held["m"] == held["y"]
    assert held["x"].scale * 255 == pytest.approx(6, rel=0.02)


def test_a_large_bias_on_tiny_weights_still_fits_int32() -> None:
    weight, bias = np.full((2, 4), 1e-9, np.float32), np.asarray([100.0, 1e-9], np.float32)
    encoding = weight_encoding(weight, 0, bias, input_scale=1e-3, demands=Demands())
    codes = np.rint(bias.astype(np.float64) / (1e-3 * encoding.scale.astype(np.float64)))
    assert (np.abs(codes) <= 2**31 - 1).all()


def test_weight_codes_stay_in_127_and_reach_it_in_every_channel() -> None:
    weight = np.random.default_rng(3).standard_normal((6, 5, 3, 3)).astype(np.float32)
    codes = weight_encoding(weight, 0, None, 0.1, Demands()).quantize(weight)
    assert np.abs(codes.astype(int)).reshape(6, -1).max(axis=1).tolist() == [127] * 6


def test_a_tensor_without_a_range_is_refused_by_name() -> None:
    with pytest.raises(QuantizeError, match="'x' has no calibrated range"):
        resolve(integer_nodes(convolution().graph), Ranges(1, {}), Demands())


# fp16 constraints, as a build with a Core ML target has them.
HALF = Demands(scale_dtype="float16", targets=("ios",))


def test_a_tensor_wider_than_a_prescribed_range_is_never_clipped_to_it() -> None:
    """Concat of a Sigmoid (0..1 by prescription) and numbers to 30: sharing 1/256 would clip the second."""
    model = hub(
        [
            helper.make_node("Sigmoid", ["x"], ["s"]),
            helper.make_node("Mul", ["x", "thirty"], ["m"]),
            helper.make_node("Concat", ["s", "m"], ["c"], axis=1),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        {"thirty": np.float32(30)},
    )
    constraints = _resolved(model)
    assert any("too narrow" in reason for reason in constraints.real.values())
    held = {name: encoding.scale * (255 - encoding.zero_point) for name, encoding in constraints.activations.items()}
    assert held["m"] > 29
    assert held["s"] == pytest.approx(255 / 256)


def test_what_fits_a_prescribed_range_still_shares_it() -> None:
    model = hub(
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("MaxPool", ["s"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], {}
    )
    constraints = _resolved(model)
    assert constraints.real == {}
    assert constraints.activations["y"] == constraints.activations["s"]


def test_a_range_that_fp16_scales_cannot_tell_from_zero_stays_real_and_says_so() -> None:
    constraints = _resolved(_first_conv(1e-6), HALF)
    assert any("so small that its scale is no fp16 number" in reason for reason in constraints.real.values())
    assert "t" not in constraints.activations
    assert _resolved(_first_conv(1e-6)).real == {}


def _first_conv(factor: float) -> ir.Model:
    """A Conv with tiny results before one that makes them large again."""
    random = np.random.default_rng(0)
    weights = {
        "w": (random.standard_normal((4, 3, 3, 3)) * factor).astype(np.float32),
        "v": (random.standard_normal((4, 4, 1, 1)) / factor).astype(np.float32),
        "u": random.standard_normal((4, 4, 1, 1)).astype(np.float32),
    }
    nodes = [helper.make_node("Conv", *pair) for pair in ((["x", "w"], ["t"]), (["t", "v"], ["l"]), (["l", "u"], ["y"]))]
    return hub(nodes, weights)


def test_tiny_weights_that_matter_stay_real_and_silenced_channels_do_not_hinder() -> None:
    random = np.random.default_rng(0)
    live = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    silenced = live.copy()
    silenced[2] *= np.float32(1e-9)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    assert _resolved(hub(nodes, {"w": silenced}), HALF).real == {}
    large = {"w": live * np.float32(1e-5), "k": np.float32(1e4)}
    constraints = _resolved(hub([helper.make_node("Mul", ["x", "k"], ["m"]), helper.make_node("Conv", ["m", "w"], ["y"])], large), HALF)
    assert any("its weights are so small" in reason for reason in constraints.real.values())


def test_a_tensor_beyond_fp16_is_refused_with_its_name_only_where_fp16_computes() -> None:
    model = hub(
        [helper.make_node("Mul", ["x", "k"], ["m"]), helper.make_node("Conv", ["m", "w"], ["y"])],
        {"k": np.float32(1e6), "w": np.full((2, 3, 1, 1), 1e-6, np.float32)},
    )
    with pytest.raises(QuantizeError, match=r"tensor .m. reaches 1e\+06, beyond float16") as refused:
        _resolved(model, HALF)
    assert "ios" in refused.value.cause
    assert "m" in _resolved(model).activations


def test_the_bias_of_a_channel_of_zeros_is_as_exact_as_the_others() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    weight[1] = 0
    bias = np.asarray([0.1, 0.37, -0.2], np.float32)
    held = weight_encoding(weight, 0, bias, 0.4, Demands())
    step = 0.4 * held.scale.astype(np.float64)
    assert np.abs(np.rint(bias / step) * step - bias).max() <= 0.4 * np.abs(weight).max() / 127 / 2 + 1e-9


def _detector(factor: float, *after: onnx.NodeProto) -> ir.Model:
    """Scores of a few tenths joined with coordinates ``factor`` times as large, then ``after``, which makes y."""
    random = np.random.default_rng(3)
    weight = (random.standard_normal((3, 3, 1, 1)) * 0.2).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "boxes"], ["b"]),
        helper.make_node("Conv", ["x", "scores"], ["s"]),
        helper.make_node("Concat", ["b", "s"], ["m"], axis=1),
        *after,
    ]
    return hub(
        nodes,
        {"boxes": weight * np.float32(factor), "scores": weight, "shape": np.asarray([1, 6, 64]), "mix": np.ones((1, 6, 1, 1), np.float32)},
    )


def _way_out() -> tuple[onnx.NodeProto, onnx.NodeProto]:
    return helper.make_node("Reshape", ["m", "shape"], ["r"]), helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1])


@pytest.mark.parametrize("factor", [20, 1000])
def test_scores_joined_with_coordinates_on_the_way_out_keep_codes_of_their_own(factor: float) -> None:
    """In one encoding a factor of 1000 leaves every score the same code. 30 dB: what a Conv of 8-bit operands keeps by itself."""
    model = _detector(factor, *_way_out())
    quantized, constraints = quantize_static(model, ranges_of(model), Demands())
    assert "the range of 'b'" in next(iter(constraints.real.values()))
    exact, coded = (run_all(each, samples(4))[..., 3:] for each in (model, quantized))
    assert sqnr_db(exact, coded) > 30


def test_a_join_stays_in_codes_where_its_tensors_reach_alike_or_a_weighted_node_reads_it() -> None:
    for model in (_detector(2, *_way_out()), _detector(1000, helper.make_node("Conv", ["m", "mix"], ["y"]))):
        assert _resolved(model).real == {}


def test_what_only_moves_codes_stays_real_after_a_join_that_does() -> None:
    """Codes of the joined tensor would undo what the join was left real for."""
    model = _detector(1000, *_way_out())
    _, kept = resolve(integer_nodes(model.graph), ranges_of(model), Demands())
    assert [node.op_type for node in kept] == ["Conv", "Conv"]
