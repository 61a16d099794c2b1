"""Which nodes compute on codes: connected to weighted ones, and nowhere near a pole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.placement import integer_nodes
from tests.quantize.graphs import decoder, hub, pyramid, ranges_of, run_all, samples, squeeze_excite

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


@pytest.mark.parametrize("build", [squeeze_excite, decoder, pyramid])
def test_blocks_of_classifiers_segmenters_and_detectors_compute_on_codes_from_end_to_end(build: Callable[[], ir.Model]) -> None:
    model, data = build(), samples(16, seed=9)
    assert len(integer_nodes(model.graph)) == len(list(model.graph))
    quantized, constraints = quantize_static(model, ranges_of(model), Demands())
    assert constraints.real == {}
    real, found = run_all(model, data), run_all(quantized, data)
    # 41 dB for uniform 8-bit codes [Widrow 1996], less 10 log10 of the ten to twenty roundings in a row.
    assert 10 * np.log10(np.square(real).sum() / np.square(real - found).sum()) > 28


def _weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


_INTS = {"two": np.asarray([1, 1, 2, 2]), "sizes": np.asarray([1, 1, 2, 2], np.float32), "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1])}


@pytest.mark.parametrize(
    "mover",
    [
        node("Tile", ["c", "two"], ["m"]),
        node("DepthToSpace", ["c"], ["m"], blocksize=2),
        node("SpaceToDepth", ["c"], ["m"], blocksize=2),
        node("Resize", ["c", "", "sizes"], ["m"], mode="nearest"),
        node("Resize", ["c", "", "sizes"], ["m"], mode="linear", coordinate_transformation_mode="align_corners"),
        node("Pad", ["c", "pads"], ["m"], mode="reflect"),
        node("Pad", ["c", "pads"], ["m"], mode="edge"),
        node("GlobalMaxPool", ["c"], ["m"]),
        node("AveragePool", ["c"], ["m"], kernel_shape=[3, 3]),
        node("Max", ["c", "d"], ["m"]),
        node("Min", ["c", "d"], ["m"]),
        node("Concat", ["c", "d"], ["m"], axis=1),
        node("ReduceMax", ["c", "axis"], ["m"]),
    ],
    ids=lambda given: given.op_type,
)
def test_what_moves_codes_reads_and_writes_one_encoding(mover: object) -> None:
    weights = _weights(w=(4, 3, 3, 3), v=(4, 3, 3, 3)) | _INTS | {"axis": np.asarray([2])}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [node("Conv", ["x", "w"], ["c"], **pads), node("Conv", ["x", "v"], ["d"], **pads), mover, node("Relu", ["m"], ["y"])]
    model = hub(nodes, weights, ("y",))  # type: ignore[arg-type]
    assert "m" in _chosen(model)
    _, constraints = quantize_static(model, ranges_of(model), Demands())
    read = [name for name in mover.input if name in ("c", "d")]  # type: ignore[attr-defined]
    assert all(constraints.activations[name] == constraints.activations["m"] for name in read)


def test_cubic_resize_softmax_and_products_of_activations_stay_real() -> None:
    weights = _weights(w=(4, 3, 3, 3)) | _INTS
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Resize", ["c", "", "sizes"], ["cubic"], mode="cubic"),
        node("Softmax", ["c"], ["soft"]),
        node("MatMul", ["c", "c"], ["product"]),
    ]
    assert _chosen(hub(nodes, weights, ("cubic", "soft", "product"))) == {"c"}


def test_a_function_of_one_number_takes_codes_amid_codes_and_reals_at_the_edge() -> None:
    weights = _weights(w=(4, 3, 3, 3), v=(2, 4, 1, 1))
    first = [node("Conv", ["x", "w"], ["c"]), node("HardSwish", ["c"], ["h"])]
    assert "h" in _chosen(hub([*first, node("Conv", ["h", "v"], ["y"])], weights))
    assert "h" not in _chosen(hub([*first, node("Exp", ["h"], ["y"])], weights))
    assert "h" not in _chosen(hub(first, weights, ("h",)))


def test_a_constant_that_joins_codes_is_held_in_their_encoding() -> None:
    weights = _weights(w=(4, 3, 1, 1)) | {"k": np.full((1, 1, 8, 8), 0.25, np.float32)}
    model = hub([node("Conv", ["x", "w"], ["c"]), node("Concat", ["c", "k"], ["m"], axis=1), node("Relu", ["m"], ["y"])], weights)
    quantized, constraints = quantize_static(model, ranges_of(model), Demands())
    (concat,) = [held for held in quantized.graph if held.op_type == "Concat"]
    readers = [value.producer() for value in concat.inputs]
    assert len({float(reader.inputs[1].const_value.numpy()) for reader in readers}) == 1
    assert constraints.activations["m"].scale == readers[1].inputs[1].const_value.numpy()
