"""Sequential bias correction: channel means return to the float model's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgepack.calibration.observe import feed_of, with_outputs
from edgepack.hub.canonical import plain_session
from edgepack.quantize.apply import linear_nodes, quantize_static
from edgepack.quantize.bias_correction import correct_biases
from edgepack.quantize.constraints import Demands
from tests.quantize.graphs import convolution, decoder, ranges_of, run_all, samples


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
