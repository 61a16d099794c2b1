"""Tables in codes in every format: rows are the hub's own to the last bit, and a table is in the file once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.registry import backend
from edgepack.calibration.readers import Samples
from edgepack.hub.graph import constant
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.weights import quantize_weights, simulate_dynamic
from edgepack.verify.metrics import sqnr_db
from tests.quantize.graphs import EMBEDDING_IDS, embedding, hub, ranges_of, run_all, samples

RUNTIMES = {"ort": "ort", "tflite": "litert", "coreml": "mil"}
# Core ML computes w8 in fp16.
DEMANDS = {"ort": Demands(), "tflite": Demands(), "coreml": Demands("float16")}
IDS = Samples({"ids": EMBEDDING_IDS[None]})


def written(model: ir.Model, format_name: str, scheme: str, folder: Path) -> tuple[Path, int]:
    """The artifact and its size in bytes."""
    onnx.save(ir.to_proto(model), folder / "hub.onnx")
    artifact = folder / backend(format_name).write(folder / "hub.onnx", folder, WriteOptions(scheme)).file
    files = [artifact] if artifact.is_file() else [path for path in artifact.rglob("*") if path.is_file()]
    return artifact, sum(path.stat().st_size for path in files)


def answer(artifact: Path, format_name: str, feed: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """The one output; ids are int32 but in onnxruntime."""
    session = import_module(f"edgepack.runner.{RUNTIMES[format_name]}").RUNTIME.load(str(artifact), 1)
    ids = EMBEDDING_IDS if format_name == "ort" else EMBEDDING_IDS.astype(np.int32)
    session.set_inputs(feed or {"ids": ids})
    session.invoke()
    return np.asarray(next(iter(session.outputs().values())))


def optimized(artifact: Path) -> onnx.GraphProto:
    """The graph that onnxruntime makes of an artifact when it loads it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(artifact.with_name("optimized.onnx"))
    onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    return onnx.load(artifact.with_name("optimized.onnx")).graph


@pytest.mark.parametrize("format_name", RUNTIMES)
def test_rows_are_the_hubs_own_to_the_last_bit_and_negative_ids_count_from_the_end(format_name: str, tmp_path: Path) -> None:
    quantized, _ = quantize_weights(embedding(), DEMANDS[format_name])
    found = answer(written(quantized, format_name, "w8", tmp_path)[0], format_name)
    codes, scale = (constant(quantized.graph.initializers[f"table/axis0/{part}"]) for part in ("codes", "scale"))
    assert codes is not None and scale is not None
    number = np.float16 if format_name == "coreml" else np.float32
    rows = codes[EMBEDDING_IDS].astype(number) * scale[EMBEDDING_IDS][..., None].astype(number)
    np.testing.assert_array_equal(found, np.maximum(rows, 0).astype(np.float32))


@pytest.mark.parametrize("tied", ["transposed", "biased", "gemm"])
@pytest.mark.parametrize(
    ("format_name", "scheme"), [("ort", "w8"), ("ort", "w8d8"), ("tflite", "w8"), ("tflite", "w8d8"), ("coreml", "w8")]
)
def test_a_table_that_is_the_last_layer_too_is_in_the_file_once_and_computes_what_the_hub_does(
    tied: str, format_name: str, scheme: str, tmp_path: Path
) -> None:
    model = embedding(tied, rows=640, width=96)
    quantized, _ = quantize_weights(model, DEMANDS[format_name], dynamic=scheme == "w8d8")
    artifact, size = written(quantized, format_name, scheme, tmp_path)
    # Codes of the table and of the layer between, scales and zero points of 16 bytes a row at most, and 10 kB for the graph.
    assert size < 640 * 96 + 96 * 96 + 16 * (640 + 96) + 4 * 640 + 10_000
    found = answer(artifact, format_name)
    if scheme == "w8d8":
        # The floor of a build: as good as the hub's own simulation. LiteRT, which ranges every row for itself, is better.
        truth = run_all(model, IDS)[0]
        assert sqnr_db(truth, found) > sqnr_db(truth, run_all(simulate_dynamic(quantized), IDS)[0]) - 0.5
    else:
        # fp32 sums of 96 products err by some 120 dB, fp16 ones by 60.
        assert sqnr_db(run_all(quantized, IDS)[0], found) > (50 if format_name == "coreml" else 100)


def test_onnxruntime_never_expands_a_table(tmp_path: Path) -> None:
    artifact, _ = written(quantize_weights(embedding(), Demands())[0], "ort", "w8", tmp_path)
    held = {tuple(each.dims): each.data_type for each in optimized(artifact).initializer}
    assert held[192, 48] == onnx.TensorProto.INT8


@pytest.mark.parametrize("tied", ["", "transposed"])
def test_tflite_holds_a_table_in_halves_under_fp16_once(tied: str, tmp_path: Path) -> None:
    model = embedding(tied, rows=640, width=96)
    artifact, size = written(model, "tflite", "fp16", tmp_path)
    assert size < 2 * (640 * 96 + 96 * 96) + 10_000
    # 11 bits of every number: 2^-11 of it at most, 74 dB on average; sums leave as much.
    assert sqnr_db(run_all(model, IDS)[0], answer(artifact, "tflite")) > 60


def test_onnxruntime_multiplies_by_a_tied_table_of_codes_in_one_operator(tmp_path: Path) -> None:
    """The file holds the table as rows are taken from it; it is transposed when the model is loaded."""
    quantized, _ = quantize_weights(embedding("transposed"), Demands(), dynamic=True)
    written(quantized, "ort", "w8d8", tmp_path)
    ran = [node.op_type for node in optimized(tmp_path / "model.onnx").node]
    assert ran.count("DynamicQuantizeMatMul") == 2 and not {"Transpose", "MatMulInteger"} & set(ran)


STATIC = {"w": (8, 64), "table": (64, 128), "v": (128, 16)}


def static() -> tuple[ir.Model, Samples]:
    """ids from the largest of 64 scores, rows of a table, a layer: what is around the table is on codes."""
    random, node = np.random.default_rng(1), onnx.helper.make_node
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in STATIC.items()}
    nodes = [
        node("MatMul", ["x", "w"], ["scores"]),
        node("ArgMax", ["scores"], ["ids"], axis=-1, keepdims=0),
        node("Gather", ["table", "ids"], ["rows"]),
        node("MatMul", ["rows", "v"], ["y"]),
    ]
    return hub(nodes, weights), samples(8, seed=3)


@pytest.mark.parametrize("format_name", RUNTIMES)
def test_a_table_amid_static_codes_stays_in_codes_of_its_own(format_name: str, tmp_path: Path) -> None:
    model, data = static()
    quantized, constraints = quantize_static(model, ranges_of(model, data), DEMANDS[format_name])
    assert not constraints.real
    artifact, _ = written(quantized, format_name, "w8a8", tmp_path)
    found = np.stack([answer(artifact, format_name, {"x": row}) for row in data.arrays["x"]])
    truth, expected = run_all(model, data), run_all(quantized, data)
    # The floor of a build. The scores' largest is the same one: no two of 64 are within a code of each other, or both would differ.
    assert sqnr_db(truth, found) > sqnr_db(truth, expected) - 0.5
