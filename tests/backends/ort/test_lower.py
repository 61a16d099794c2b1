"""Quantized hubs in onnxruntime's spelling: the same numbers, and the kernels that were meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.ort.write import lint, write
from edgepack.backends.table import BackendError
from edgepack.calibration.observe import feed_of
from edgepack.calibration.readers import Samples
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.weights import quantize_weights, simulate_dynamic
from tests.backends.ort import models
from tests.quantize.graphs import convolution, decoder, hub, pyramid, ranges_of, run_all, samples, squeeze_excite

BLOCKS = [convolution, decoder, pyramid, squeeze_excite]


def _written(model: ir.Model, scheme: str, folder: Path) -> Path:
    onnx.save(ir.to_proto(model), folder / "hub.onnx")
    return folder / write(folder / "hub.onnx", folder, WriteOptions(scheme)).file


def _run(artifact: Path, data: Samples) -> tuple[np.ndarray, Counter[str]]:
    """What onnxruntime answers with every optimization, and the operators it ran."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.optimized_model_filepath = str(artifact.with_name("optimized.onnx"))
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    rows = np.stack([session.run(None, feed_of(data, index))[0] for index in range(data.count)])
    return rows, Counter(node.op_type for node in onnx.load(artifact.with_name("optimized.onnx")).graph.node)


def _db(truth: np.ndarray, found: np.ndarray) -> float:
    error = np.square(truth - found, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(truth).sum(dtype=np.float64) / error)) if error else float("inf")


@pytest.mark.parametrize("build", BLOCKS)
def test_weights_only_is_the_hub_to_fp32_and_onnxruntime_folds_every_weight(build: Callable[[], ir.Model], tmp_path: Path) -> None:
    quantized, _ = quantize_weights(build(), Demands())
    data = samples(4, seed=7)
    found, ran = _run(_written(quantized, "w8", tmp_path), data)
    assert _db(run_all(quantized, data), found) > 110
    assert not {"DequantizeLinear", "Cast", "MatMulNBits"} & set(ran)


def test_a_weights_only_file_is_a_quarter_of_the_real_one(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4096)).astype(np.float32)
    model = hub([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})
    artifact = _written(quantize_weights(model, Demands())[0], "w8", tmp_path)
    assert artifact.stat().st_size < 0.45 * weight.nbytes  # 0.25 for the codes; 4096 scales for 8 rows are 0.125


def test_dynamic_products_run_as_one_operator_each_and_convolutions_in_float(tmp_path: Path) -> None:
    quantized, _ = quantize_weights(convolution(), Demands(), dynamic=True)
    data = samples(8, seed=7)
    found, ran = _run(_written(quantized, "w8d8", tmp_path), data)
    assert ran["DynamicQuantizeMatMul"] == 1 and ran["Conv"] + ran["FusedConv"] == 2
    assert not {"Gemm", "DequantizeLinear", "MatMulInteger"} & set(ran)
    truth = run_all(convolution(), data)
    assert _db(truth, found) > _db(truth, run_all(simulate_dynamic(quantized), data)) - 0.5


def test_a_dynamic_product_with_and_without_bias_matches_its_simulation(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    weights = {
        "w": random.standard_normal((8, 16)).astype(np.float32),
        "v": random.standard_normal((5, 128 * 3)).astype(np.float32) / 20,
        "b": random.standard_normal(5).astype(np.float32),
        "flat": np.asarray([1, -1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], transB=1),
    ]
    quantized, report = quantize_weights(hub(nodes, weights), Demands(), dynamic=True)
    assert len(report.dynamic) == 2
    data = samples(8, seed=8)
    found, ran = _run(_written(quantized, "w8d8", tmp_path), data)
    assert ran["DynamicQuantizeMatMul"] == 2
    # The same activations rounded by the same range: what differs is fp32, and a code that falls the other way.
    assert _db(run_all(simulate_dynamic(quantized), data), found) > 50


@pytest.mark.parametrize("build", BLOCKS)
def test_a_static_artifact_computes_every_convolution_on_codes_whatever_its_relus_zero_point(
    build: Callable[[], ir.Model], tmp_path: Path
) -> None:
    model = build()
    quantized, _ = quantize_static(model, ranges_of(model), Demands())
    data = samples(8, seed=9)
    artifact = _written(quantized, "w8a8", tmp_path)
    found, ran = _run(artifact, data)
    assert not {"Conv", "FusedConv", "Gemm"} & set(ran)
    truth = run_all(model, data)
    assert _db(truth, found) > _db(truth, run_all(quantized, data)) - 0.3  # FACTS: whole networks
    assert {finding.message for finding in lint(artifact)} <= {"onnxruntime runs this ConvTranspose in float"}


@pytest.mark.parametrize("zero_point", [0, 10])
def test_clipping_codes_gives_the_codes_of_clipped_reals(zero_point: int, tmp_path: Path) -> None:
    source = models.quantized_conv(tmp_path / "hub.onnx", zero_point)
    artifact = tmp_path / write(source, tmp_path, WriteOptions("w8a8")).file
    data = samples(8, seed=10)
    np.testing.assert_array_equal(run_all(ir.load(artifact), data), run_all(ir.load(source), data))
    assert lint(artifact) == []


@pytest.mark.parametrize(("scheme", "cause"), [("fp16", "slower than fp32"), ("w4b32", "not written")])
def test_schemes_without_a_good_kernel_are_refused(scheme: str, cause: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=cause):
        write(models.real_conv(tmp_path / "hub.onnx"), tmp_path, WriteOptions(scheme))
