"""Which nodes compute on codes: connected to weighted ones, and nowhere near a pole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import helper

from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.placement import integer_nodes
from tests.quantize.graphs import hub, ranges_of, run_all, samples

node = helper.make_node


def _chosen(model: ir.Model) -> set[str]:
    return {output.name or "" for held in integer_nodes(model.graph) for output in held.outputs}


def _normalization(epsilon: float = 1e-5) -> ir.Model:
    """Conv - x / sqrt(mean(x^2) + epsilon) - Conv, spelled out as exporters do."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((4, channels, 1, 1)).astype(np.float32) for name, channels in (("w", 3), ("v", 4))}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Mul", ["c", "small"], ["s"]),
        node("Pow", ["s", "two"], ["p"]),
        node("ReduceMean", ["p", "axes"], ["m"]),
        node("Add", ["m", "epsilon"], ["e"]),
        node("Sqrt", ["e"], ["r"]),
        node("Div", ["s", "r"], ["d"]),
        node("Conv", ["d", "v"], ["y"]),
    ]
    small = {"small": np.asarray([[[[0.01]]]], np.float32), "two": np.float32(2), "epsilon": np.float32(epsilon), "axes": np.asarray([1])}
    return hub(nodes, {**weights, **small})


def test_the_variance_and_epsilon_of_a_spelled_out_normalization_stay_real() -> None:
    chosen = _chosen(_normalization())
    assert {"c", "y"} <= chosen
    assert chosen.isdisjoint({"p", "m", "e", "r", "d"})


def test_a_spelled_out_normalization_keeps_its_accuracy_in_int8() -> None:
    model, data = _normalization(), samples()
    quantized, _ = quantize_static(model, ranges_of(model), Demands())
    real, found = run_all(model, data), run_all(quantized, data)
    assert 10 * np.log10(np.square(real).sum() / np.square(real - found).sum()) > 25


def test_a_divisor_stays_real_even_beside_integer_nodes() -> None:
    weights = {"w": np.ones((2, 3, 1, 1), np.float32), "one": np.float32(1), "v": np.ones((2, 2, 1, 1), np.float32)}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Add", ["c", "one"], ["a"]),
        node("Div", ["c", "a"], ["d"]),
        node("Conv", ["d", "v"], ["y"]),
    ]
    assert _chosen(hub(nodes, weights)) == {"c", "y"}


def test_arithmetic_straight_on_an_input_is_quantized_without_any_weight() -> None:
    assert _chosen(hub([node("Mul", ["x", "k"], ["m"]), node("Relu", ["m"], ["y"])], {"k": np.float32(3)})) == {"m", "y"}
