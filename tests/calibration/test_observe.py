"""Observed ranges against numpy over every sample, and the clipping search against brute force."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.observe import Range, Ranges, best_shrink, observe
from edgepack.calibration.readers import Samples

WEIGHT = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
SHRINKS = 1 - 0.02 * np.arange(36)


def hub(*nodes: onnx.NodeProto, size: int = 4) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info("x", 1, [1, size])], [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    graph = helper.make_graph(list(nodes), "g", *ends, [numpy_helper.from_array(WEIGHT, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def ranges(model: onnx.ModelProto, x: np.ndarray) -> Ranges:
    return observe(model, Samples({"x": x}), lambda done, total: None)


def error_of(values: np.ndarray, low: float, high: float) -> float:
    """Squared error of 255 equal steps over low..high, in float64."""
    step = (high - low) / 255
    return float(np.square(values - (np.rint((np.clip(values, low, high) - low) / step) * step + low)).sum())


def test_minimum_and_maximum_are_numpys_over_all_samples() -> None:
    x = np.random.default_rng(0).standard_normal((50, 1, 4)).astype(np.float32)
    found = ranges(hub(helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])), x)
    product = x.astype(np.float64) @ WEIGHT.astype(np.float64)
    assert found.samples == 50 and sorted(found.tensors) == ["m", "x", "y"]
    assert (found.tensors["x"].minimum, found.tensors["x"].maximum) == (x.min(), x.max())
    # A sum of four products in fp32.
    assert (found.tensors["m"].minimum, found.tensors["m"].maximum) == pytest.approx((product.min(), product.max()), rel=1e-6)
    assert (found.tensors["y"].minimum, found.tensors["y"].maximum) == (0, found.tensors["m"].maximum)


def test_integers_and_booleans_have_no_range() -> None:
    nodes = (
        helper.make_node("Greater", ["x", "x"], ["b"]),
        helper.make_node("Cast", ["b"], ["i"], to=7),
        helper.make_node("Shape", ["i"], ["y"]),
    )
    assert sorted(ranges(hub(*nodes), np.ones((2, 1, 4), np.float32)).tensors) == ["x"]


def test_progress_runs_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    model = hub(helper.make_node("Relu", ["x"], ["y"]))
    observe(model, Samples({"x": np.ones((3, 1, 4), np.float32)}), lambda done, total: seen.append((done, total)))
    assert seen == [(count, 6) for count in range(1, 7)]


def test_a_tensor_that_overflows_is_named_with_its_sample() -> None:
    x = np.ones((4, 1, 4), np.float32)
    x[2] = 3e38
    with pytest.raises(CalibrationError, match="tensor 'y' is not finite on calibration sample 2"):
        ranges(hub(helper.make_node("Mul", ["x", "x"], ["y"])), x)


@pytest.mark.parametrize(
    "values",
    [[1.0, 1.0], [0.0, 0.0], [1.0, np.nextafter(np.float32(1), np.float32(2))], [0.0, 1e-45], [-3e38, 3e38], [5.0, 10.0], [-10.0, -5.0]],
)
def test_ranges_of_degenerate_tensors_are_still_observed(values: list[float]) -> None:
    x = np.asarray(values, np.float32).reshape(-1, 1, 1)
    held = ranges(hub(helper.make_node("Identity", ["x"], ["y"]), size=1), x).tensors["y"]
    assert (held.minimum, held.maximum) == (x.min(), x.max())
    assert held.minimum <= held.mse_minimum <= held.mse_maximum <= held.maximum or held.minimum > 0 or held.maximum < 0


def test_the_clipping_is_the_best_of_all_candidates_on_the_samples_themselves() -> None:
    random = np.random.default_rng(2)
    x = np.concatenate([random.standard_normal(20_000), [40.0, -12.0]]).astype(np.float32).reshape(-1, 1, 1, 1)[:, 0]
    x = x[: len(x) // 2 * 2].reshape(2, 1, -1)
    held = ranges(hub(helper.make_node("Identity", ["x"], ["y"]), size=x.shape[-1]), x).tensors["x"]
    low, high = float(x.min()), float(x.max())
    errors = [error_of(x.astype(np.float64), low * shrink, high * shrink) for shrink in SHRINKS]
    assert held.mse_maximum < high and held.mse_minimum > low
    chosen = error_of(x.astype(np.float64), held.mse_minimum, held.mse_maximum)
    # 2048 bins over the range: bin centres stand for samples within 2 % of the error (the comment at _BINS).
    assert chosen <= 1.02 * min(errors)


@settings(max_examples=60, deadline=None)
@given(
    counts=hnp.arrays(np.int64, 64, elements=st.integers(0, 1000)),
    low=st.floats(-100, 50),
    width=st.floats(1e-3, 200),
)
def test_the_shrink_is_the_minimiser_by_brute_force_over_the_histogram(counts: np.ndarray, low: float, width: float) -> None:
    high = low + width
    centres = low + (np.arange(64) + 0.5) * width / 64
    values = np.repeat(centres, counts)
    errors = np.asarray([error_of(values, min(low, 0) * shrink, max(high, 0) * shrink) for shrink in SHRINKS])
    found = best_shrink(counts, low, high)
    position = int(np.abs(SHRINKS - found).argmin())
    assert SHRINKS[position] == pytest.approx(found)
    # Equal up to the rounding of sums of up to 64,000 squares.
    assert errors[position] <= errors.min() * (1 + 1e-6) + 1e-18 * values.size


def test_a_constant_is_not_clipped() -> None:
    assert best_shrink(np.zeros(8, np.int64), 3.0, 3.0) == 1.0


def test_bounds_are_chosen_by_method() -> None:
    held = Range(-4.0, 8.0, -2.0, 4.0)
    assert (held.bounds("minmax"), held.bounds("mse")) == ((-4.0, 8.0), (-2.0, 4.0))
