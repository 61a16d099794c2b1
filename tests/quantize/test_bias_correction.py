"""Sequential bias correction: channel means return to the float model's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.calibration.observe import feed_of, with_outputs
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import plain_session
from edgepack.quantize.apply import linear_nodes, quantize_static
from edgepack.quantize.bias_correction import correct_biases, correct_real_biases, lay_out_biases
from edgepack.quantize.constraints import Demands
from edgepack.quantize.weights import quantize_weights
from tests.quantize.graphs import convolution, decoder, embedding, hub, ranges_of, run_all, samples


def _means(model: ir.Model, name: str) -> np.ndarray:
    run, data = plain_session(with_outputs(ir.to_proto(model), [name])), samples()
    arrays = [run(feed_of(data, index), [name])[name].astype(np.float64) for index in range(data.count)]
    return np.mean([array.mean(axis=tuple(axis for axis in range(array.ndim) if axis != 1)) for array in arrays], axis=0)


@pytest.mark.parametrize(("build", "layers"), [(convolution, 3), (decoder, 5)])
def test_means_of_every_layer_equal_the_float_models_to_half_a_bias_step(build: Callable[[], ir.Model], layers: int) -> None:
    """After the correction a mean is off by at most the rounding of its own int32 bias, half of s_in * s_w, plus float32 noise."""
    model = build()
    quantized, _ = quantize_static(model, ranges_of(model), Demands())
    shifts = correct_biases(model, quantized, samples(), lambda done, total: None)
    assert len(shifts) == layers
    for node in linear_nodes(quantized):
        name = node.outputs[0].name or ""
        step = node.inputs[2].producer().inputs[1].const_value.numpy()
        error = np.abs(_means(quantized, name) - _means(model, name.removesuffix("_real")))
        assert (error <= step / 2 + 1e-6).all(), name


def test_correction_brings_the_output_closer_on_data_it_has_not_seen() -> None:
    model, data = convolution(seed=4), samples(64, seed=9)
    truth = run_all(model, data)
    quantized, _ = quantize_static(model, ranges_of(model), Demands())
    plain = ((run_all(quantized, data) - truth) ** 2).mean()
    correct_biases(model, quantized, samples(), lambda done, total: None)
    assert ((run_all(quantized, data) - truth) ** 2).mean() < plain


def _corrected(model: ir.Model) -> tuple[ir.Model, dict[str, float]]:
    quantized, _ = quantize_weights(model, Demands())
    lay_out_biases(quantized)
    return quantized, correct_real_biases(model, quantized, samples(), lambda done, total: None)


@pytest.mark.parametrize(("build", "layers"), [(convolution, 3), (decoder, 5)])
def test_means_of_every_layer_with_int8_weights_equal_the_float_models(build: Callable[[], ir.Model], layers: int) -> None:
    """Biases are real: what is left is float32 noise of sums of up to 96 products of order 1, 96 * 2^-24 < 1e-5."""
    model = build()
    quantized, shifts = _corrected(model)
    plain, _ = quantize_weights(model, Demands())
    names = [node.outputs[0].name or "" for node in quantized.graph if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert len(shifts) == len(names) == layers
    for name in names:
        assert np.abs(_means(quantized, name) - _means(model, name)).max() < 1e-5, name
        assert np.abs(_means(plain, name) - _means(model, name)).max() > 1e-5, name


def test_a_bias_that_layers_share_is_corrected_for_each_and_stays_as_it_was_for_other_readers() -> None:
    random, node = np.random.default_rng(0), onnx.helper.make_node
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    held = {"w1": normal(3, 3, 1, 1), "w2": normal(3, 3, 1, 1), "b": normal(3)}
    nodes = [
        node("Conv", ["x", "w1", "b"], ["y"], name="first"),
        node("Conv", ["y", "w2", "b"], ["z"], name="second"),
        node("InstanceNormalization", ["z", "b", "b"], ["n"], name="norm"),
    ]
    model = hub(nodes, held, ("y", "n"))
    quantized, shifts = _corrected(model)
    biases = {inner.name: inner.inputs[2] for inner in quantized.graph if inner.op_type == "Conv"}
    assert len(shifts) == len({value.name for value in biases.values() if value is not None}) == 2
    for name in ("y", "z"):
        assert np.abs(_means(quantized, name) - _means(model, name)).max() < 1e-5
    norm = next(inner for inner in quantized.graph if inner.op_type == "InstanceNormalization")
    assert np.array_equal(norm.inputs[1].const_value.numpy(), held["b"])


def test_a_table_that_is_the_last_layers_weight_too_is_corrected_where_it_is_a_layer() -> None:
    model = embedding(tied="gemm")
    quantized, _ = quantize_weights(model, Demands())
    lay_out_biases(quantized)
    ids = Samples({"ids": np.random.default_rng(1).integers(0, 192, (4, 1, 7))})
    assert list(correct_real_biases(model, quantized, ids, lambda done, total: None)) == ["last"]
