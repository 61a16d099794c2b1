"""Outputs beyond what calibration saw keep their order; everything else keeps its range."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edgepack.calibration.observe import Range, Ranges
from edgepack.calibration.readers import Samples
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.headroom import HEADROOM, with_headroom
from tests.quantize.graphs import convolution, hub, ranges_of, run_all, samples

FLAT = {"flat": np.asarray([1, -1], np.int64)}


def scores(activation: str = "") -> object:
    """Ten scores that are ten of the 192 inputs, halved; followed by an activation when one is named."""
    weight = np.zeros((10, 192), np.float32)
    weight[np.arange(10), np.arange(10)] = 0.5
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["s" if activation else "y"], transB=1),
    ]
    return hub([*nodes, *([helper.make_node(activation, ["s"], ["y"])] if activation else [])], {**FLAT, "w": weight})


def widened(model: object, **ranges: tuple[float, float]) -> Range:
    held = Ranges(1, {name: Range(low, high, low, high) for name, (low, high) in ranges.items()})
    return with_headroom(held, model.graph).tensors["y"]  # type: ignore[attr-defined]


def test_scores_beyond_the_calibration_sets_keep_their_order() -> None:
    """Inputs reach 1 in calibration too, but only singly: the output's own range is what the largest score of the set gives."""
    model = scores()
    inputs = samples(16).arrays["x"] * np.float32(0.7)
    inputs[:, 0, 2, 7, 7] = 1  # a pixel that no score reads holds the input's range open
    quantized, _ = quantize_static(model, ranges_of(model, Samples({"x": inputs})), Demands())  # type: ignore[arg-type]
    beyond = np.zeros((1, 1, 3, 8, 8), np.float32)
    beyond.reshape(-1)[:3] = 0.90, 0.95, 0.99
    answer = run_all(quantized, Samples({"x": beyond}))[0, 0]
    assert answer[0] < answer[1] < answer[2]
    np.testing.assert_allclose(answer[:3], [0.45, 0.475, 0.495], atol=0.7 * HEADROOM / 255)


def test_only_the_graphs_outputs_are_widened() -> None:
    model = convolution()
    before = ranges_of(model)
    after = with_headroom(before, model.graph)
    assert after.samples == before.samples
    assert [name for name in before.tensors if after.tensors[name] != before.tensors[name]] == ["y"]
    assert after.tensors["y"].maximum == HEADROOM * before.tensors["y"].maximum
    assert after.tensors["y"].mse_minimum == HEADROOM * before.tensors["y"].mse_minimum


@pytest.mark.parametrize(
    ("activation", "seen", "expected"),
    [
        ("Relu", (0.0, 4.0), (0.0, 6.0)),
        ("Sigmoid", (0.1, 0.5), (0.1, 0.75)),
        ("Sigmoid", (0.1, 0.9), (0.1, 1.0)),
        ("Tanh", (-0.9, 0.9), (-1.0, 1.0)),
        ("", (-2.0, 4.0), (-3.0, 6.0)),
        ("", (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_no_output_is_widened_beyond_what_its_operator_gives(
    activation: str, seen: tuple[float, float], expected: tuple[float, float]
) -> None:
    found = widened(scores(activation), y=seen)
    assert (found.minimum, found.maximum) == pytest.approx(expected)


def test_headroom_never_makes_a_range_that_fp16_cannot_hold() -> None:
    assert widened(scores(), y=(-60000.0, 1.0)).minimum == -65504.0
    assert widened(scores(), y=(-70000.0, 1.0)).minimum == -70000.0
