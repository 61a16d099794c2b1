"""Resize as matrices: against onnx's node cases, its reference evaluator, and onnxruntime."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from onnx.reference import ReferenceEvaluator

from edgepack.hub.graph import HubError
from edgepack.hub.resize import AxisResize, Sampling, axis_matrix, resize_as_matmul
from tests.hub.graphs import FLOAT, model, onnxruntime_run

MODES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
# The cases' outputs are float32 numbers up to 16 of sums of at most 8 x 8 products: 16 * 64 * 2^-24 = 6e-5.
CASE = 6e-5
# Float64 on both sides; coordinates divide by a scale, so a few ulps of 1e2 times weights of slope up to 3.
FLOAT64 = 1e-11
# The evaluator holds cubic_coeff_a, hence the coefficients, in float32: 8 of them, 4 roundings each, of values up to 4: 128 * 2^-24. With
# exclude_outside they are divided by the sum of those inside, along both axes: half of them midway between the edge and outside.
CUBIC = 8e-6
CUBIC_EXCLUDING = CUBIC / 0.5**2
# onnxruntime computes coordinates in float32: 20 pixels * 2^-24 * a slope of 3 an axis, values up to 4, and the sum's own rounding.
FLOAT32 = 1e-4


def applied(products: Sequence[AxisResize], x: np.ndarray) -> np.ndarray:
    """What the matrices say, in float64."""
    for held in products:
        x = np.moveaxis(np.moveaxis(x, held.axis, -1) @ held.matrix.T + held.offset, -1, held.axis)
    return x


@functools.cache
def node_cases() -> dict[str, Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node") if case.name.startswith("test_resize")}


def test_every_resize_case_of_onnx_is_a_product_of_matrices() -> None:
    assert len(node_cases()) == 39
    for name, case in node_cases().items():
        (node,) = case.model.graph.node
        (inputs, (wanted,)) = case.data_sets[0]
        named = dict(zip([value.name for value in case.model.graph.input], inputs, strict=True))
        x, roi, scales, sizes = [named.get(held) for held in [*node.input, "", ""][:4]]
        options = {held.name: onnx.helper.get_attribute_value(held) for held in node.attribute}
        options = {key: value.decode() if isinstance(value, bytes) else value for key, value in options.items()}
        assert x is not None
        products = resize_as_matmul(options, x.shape, wanted.shape, roi, scales, sizes)
        np.testing.assert_allclose(applied(products, x), wanted, rtol=CASE, atol=CASE, err_msg=name)
        if "nearest" in name:
            assert all(held.copies is not None for held in products)


def resize(options: dict[str, Any], x: np.ndarray, second: str, given_second: np.ndarray, roi: np.ndarray | None = None) -> Any:
    """A Resize over rank-4 images with its second input ("scales" or "sizes") and region as constants."""
    held = {second: given_second} | ({} if roi is None else {"roi": roi})
    names = ["x", "" if roi is None else "roi", *(["scales"] if second == "scales" else ["", "sizes"])]
    return model([onnx.helper.make_node("Resize", names, ["y"], **options)], {"x": x.shape}, {"y": None}, held)


def doubled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Float64 in and out; the scales stay float32, as the operator has them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type in (FLOAT, 0):
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return copy


def evaluated(proto: onnx.ModelProto, x: np.ndarray) -> list[Any]:
    """onnx's own answer."""
    return list(ReferenceEvaluator(proto).run(None, {"x": x}))


size = st.integers(1, 9)


@settings(max_examples=100, deadline=None)
@given(
    mode=st.sampled_from(["linear", "cubic"]),
    coordinates=st.sampled_from(MODES),
    a=st.sampled_from([-0.75, -0.5]),
    exclude=st.booleans(),
    antialias=st.booleans(),
    shape=st.tuples(size, size),
    target=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
@example("cubic", "half_pixel", -0.75, False, False, (7, 7), (17, 4))
@example("linear", "half_pixel", -0.75, False, False, (1, 7), (1, 17))
@example("cubic", "asymmetric", -0.75, True, True, (5, 2), (19, 18))
def test_interpolation_to_given_sizes_equals_the_reference_evaluator(
    mode: str, coordinates: str, a: float, exclude: bool, antialias: bool, shape: tuple[int, int], target: tuple[int, int]
) -> None:
    options = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "cubic_coeff_a": a,
        "exclude_outside": int(exclude),
        "antialias": int(antialias),
    }
    x = np.random.default_rng(0).uniform(-4, 4, (1, 2, *shape))
    sizes = np.asarray((1, 2, *target), np.int64)
    (wanted,) = evaluated(doubled(resize(options, x, "sizes", sizes)), x)
    found = applied(resize_as_matmul(options, x.shape, wanted.shape, sizes=sizes), x)
    tolerance = (CUBIC_EXCLUDING if exclude else CUBIC) if mode == "cubic" else FLOAT64
    if np.abs(found - wanted).max() > FLOAT32:
        # The evaluator takes the wrong pixels where a coordinate is whole but for rounding (7 to 17, half_pixel, pixel 8: 3.0).
        single = x.astype(np.float32)
        wanted, tolerance = onnxruntime_run(resize(options, single, "sizes", sizes), {"x": single})["y"], FLOAT32
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["linear", "cubic"]),
    coordinates=st.sampled_from(MODES),
    shape=st.tuples(size, size),
    target=st.tuples(st.integers(2, 20), st.integers(2, 20)),
)
def test_interpolation_to_given_sizes_equals_onnxruntime(
    mode: str, coordinates: str, shape: tuple[int, int], target: tuple[int, int]
) -> None:
    options = {"mode": mode, "coordinate_transformation_mode": coordinates}
    x = np.random.default_rng(0).uniform(-4, 4, (1, 2, *shape)).astype(np.float32)
    sizes = np.asarray((1, 2, *target), np.int64)
    wanted = onnxruntime_run(resize(options, x, "sizes", sizes), {"x": x})["y"]
    found = applied(resize_as_matmul(options, x.shape, wanted.shape, sizes=sizes), x)
    np.testing.assert_allclose(found, wanted, rtol=FLOAT32, atol=FLOAT32)


@settings(max_examples=60, deadline=None)
@given(
    coordinates=st.sampled_from(MODES),
    rounding=st.sampled_from(ROUNDINGS),
    before=st.integers(2, 20),
    after=st.integers(2, 40),
)
def test_nearest_copies_what_onnxruntime_copies_except_at_ties_that_float32_breaks(
    coordinates: str, rounding: str, before: int, after: int
) -> None:
    options = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    x, sizes = np.arange(before, dtype=np.float32)[None, None, None], np.asarray((1, 1, 1, after), np.int64)
    wanted = onnxruntime_run(resize(options, x, "sizes", sizes), {"x": x})["y"].ravel()
    found = applied(resize_as_matmul(options, x.shape, (1, 1, 1, after), sizes=sizes), x).ravel()
    places, _ = axis_matrix(Sampling("linear", coordinates), before, after, after / before)
    doubled_places = 2 * (places @ np.arange(before))
    tied = np.abs(doubled_places - np.round(doubled_places)) < FLOAT32
    np.testing.assert_array_equal(found[~tied], wanted[~tied])
    assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "half_pixel_symmetric"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scale", [0.6, 1 / 3, 1.7, 2.0])
def test_a_scale_that_leaves_a_fraction_is_used_as_given(coordinates: str, mode: str, scale: float) -> None:
    x = np.random.default_rng(0).uniform(-4, 4, (1, 2, 7, 9)).astype(np.float32)
    scales = np.asarray([1, 1, scale, 2 * scale], np.float32)
    options = {"mode": mode, "coordinate_transformation_mode": coordinates}
    proto = resize(options, x, "scales", scales)
    wanted = onnxruntime_run(proto, {"x": x})["y"]
    found = applied(resize_as_matmul(options, x.shape, wanted.shape, scales=scales), x)
    np.testing.assert_allclose(found, wanted, rtol=FLOAT32, atol=FLOAT32)
    (reference,) = evaluated(proto, x)
    np.testing.assert_allclose(found, reference, rtol=FLOAT32, atol=FLOAT32)


def test_a_crop_with_two_regions_extrapolates_each_corner_as_onnxruntime_does() -> None:
    x = np.random.default_rng(0).uniform(-4, 4, (1, 2, 7, 9)).astype(np.float32)
    options = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    roi, sizes = np.asarray([0, 0, -0.3, 0.2, 1, 1, 0.8, 1.4], np.float32), np.asarray([1, 2, 5, 6], np.int64)
    wanted = onnxruntime_run(resize(options, x, "sizes", sizes, roi), {"x": x})["y"]
    assert (wanted == 7.0).any()
    found = applied(resize_as_matmul(options, x.shape, wanted.shape, roi, sizes=sizes), x)
    np.testing.assert_allclose(found, wanted, rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_sizes_that_keep_the_aspect_ratio_share_one_scale(policy: str) -> None:
    x = np.random.default_rng(0).uniform(-4, 4, (1, 2, 7, 9)).astype(np.float32)
    options = {"mode": "linear", "keep_aspect_ratio_policy": policy, "axes": [2, 3]}
    sizes = np.asarray([12, 20], np.int64)
    (wanted,) = evaluated(resize(options, x, "sizes", sizes), x)
    found = applied(resize_as_matmul(options, x.shape, wanted.shape, sizes=sizes), x)
    np.testing.assert_allclose(found, wanted, rtol=FLOAT32, atol=FLOAT32)


def test_only_axes_that_change_are_told_and_copies_are_known() -> None:
    (rows,) = resize_as_matmul({}, (1, 3, 4, 5), (1, 3, 8, 5))
    assert rows.axis == 2 and rows.copies is not None and rows.copies.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    (halved,) = resize_as_matmul({"coordinate_transformation_mode": "align_corners"}, (2,), (1,))
    assert halved.copies is not None and halved.copies.tolist() == [0]
    (smooth,) = resize_as_matmul({"mode": "linear"}, (1, 4), (1, 8))
    assert smooth.copies is None


@pytest.mark.parametrize(
    ("sampling", "roi", "scales", "why"),
    [
        ({"mode": "lanczos"}, None, None, "mode 'lanczos'"),
        ({"coordinate_transformation_mode": "other"}, None, None, "coordinate mode 'other'"),
        ({"antialias": 1}, None, None, "nearest with antialias"),
        ({"nearest_mode": "ceil", "coordinate_transformation_mode": "half_pixel", "exclude_outside": 1}, None, None, "reads outside"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, None, None, "without one constant region"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, [0.2, 0.8], [2.0], "leaves open"),
    ],
)
def test_a_form_without_a_certain_meaning_is_refused(sampling: Any, roi: Any, scales: Any, why: str) -> None:
    with pytest.raises(HubError, match=why):
        resize_as_matmul(sampling, (4,), (8,), None if roi is None else np.asarray(roi), None if scales is None else np.asarray(scales))


def test_rows_of_weights_sum_to_one_or_are_extrapolated() -> None:
    matrix, offset = axis_matrix(Sampling("cubic", "tf_crop_and_resize", extrapolation_value=3.0), 6, 9, 1.5, (-0.2, 1.1))
    np.testing.assert_allclose(matrix.sum(axis=1), np.where(offset == 3.0, 0.0, 1.0), atol=FLOAT64)
    assert 0 < (offset == 3.0).sum() < 9
