"""w8a8: the package holds the hub's codes, scales and zero points, and computes what ONNX Runtime computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.backends.coreml.emitter import HeldEncoding
from edgepack.backends.coreml.package import check_encodings
from edgepack.backends.table import BackendError
from edgepack.mil.program import Program
from edgepack.quantize.encoding import Encoding

from .blobs import Decoded
from .models import make_model, run_onnxruntime, save, single
from .qdq_models import INPUT_ZERO, QdqGraph, small_network

OPTIONS = WriteOptions(scheme="w8a8", name="small", licence="MIT", labels=("a", "b", "ü", "d"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(small_network(), tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def package(hub: Path) -> Path:
    return hub.parent / write(hub, hub.parent, OPTIONS).file


def constants(hub: Path) -> dict[str, np.ndarray]:
    return {held.name: numpy_helper.to_array(held) for held in onnx.load(hub).graph.initializer}


@pytest.mark.parametrize(("weight", "swapped"), [("conv_weight", False), ("gemm_weight", True), ("head_weight", True)])
def test_decoded_weight_codes_and_scales_equal_the_hub(hub: Path, package: Path, weight: str, swapped: bool) -> None:
    held = constants(hub)
    kind, found = Decoded(package).operations[f"{weight}_transposed" if swapped else weight]
    codes = held[f"{weight}_codes"].T if swapped else held[f"{weight}_codes"]
    assert kind == "constexpr_affine_dequantize"
    assert found["quantized_data"].dtype == np.int8
    assert np.array_equal(found["quantized_data"], codes)
    assert found["scale"].dtype == np.float16
    assert np.array_equal(found["scale"].astype(np.float32), held[f"{weight}_scale"])
    assert np.array_equal(found["zero_point"], held[f"{weight}_zero"])
    assert found["axis"] == 0


@pytest.mark.parametrize("value", ["image", "relu", "pool", "flat", "gemm"])
def test_decoded_activation_scales_and_zero_points_equal_the_hub(hub: Path, package: Path, value: str) -> None:
    held, operations = constants(hub), Decoded(package).operations
    for name, expected in ((f"{value}_codes", "quantize"), (f"{value}_real", "dequantize")):
        kind, found = operations[name]
        assert kind == expected
        assert float(found["scale"]) == float(held[f"{value}_scale"])
        assert found["zero_point"].dtype == np.uint8
        assert int(found["zero_point"]) == int(held[f"{value}_zero"])


def test_every_quantizer_of_the_hub_is_in_the_package(hub: Path, package: Path) -> None:
    kinds = [kind for kind, _ in Decoded(package).operations.values()]
    nodes = [node.op_type for node in onnx.load(hub).graph.node]
    assert kinds.count("quantize") == nodes.count("QuantizeLinear")
    constant_codes = 5  # three weights become constexpr, two biases are folded
    assert kinds.count("dequantize") == nodes.count("DequantizeLinear") - constant_codes
    assert kinds.count("constexpr_affine_dequantize") == 3


def test_interpreter_is_within_one_step_of_onnxruntime(hub: Path, package: Path) -> None:
    step = float(constants(hub)["head_scale"])
    program, rng = Program.load(package), np.random.default_rng(3)
    samples = [rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32) for _ in range(40)]
    differences = [program.run({"image": sample})["head_real"] - run_onnxruntime(hub, {"image": sample})["head_real"] for sample in samples]
    steps = np.abs(np.concatenate(differences)) / step
    # fp16 results fall on the other side of a .5 boundary now and then; the last layer sums 16 such codes.
    assert steps.max() < 1.5
    assert (steps < 0.5).mean() > 0.8


def test_metadata_carries_name_licence_and_labels(package: Path) -> None:
    metadata = Decoded(package).description.metadata
    assert (metadata.shortDescription, metadata.license) == ("small", "MIT")
    assert metadata.userDefined["labels"] == '["a", "b", "ü", "d"]'


def test_lint_finds_nothing_in_a_written_package(package: Path) -> None:
    assert lint(package) == []


def test_ios18_package_holds_the_same_codes_in_its_own_form(hub: Path, tmp_path: Path) -> None:
    write(hub, tmp_path, WriteOptions(scheme="w8a8", minimum_os="iOS18"))
    kind, found = Decoded(tmp_path / "model.mlpackage").operations["conv_weight"]
    assert kind == "constexpr_blockwise_shift_scale"
    assert np.array_equal(found["data"], constants(hub)["conv_weight_codes"])
    assert lint(tmp_path / "model.mlpackage") == []


WRITE = """
import sys
from pathlib import Path
from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import write
write(Path(sys.argv[1]), Path(sys.argv[2]), WriteOptions(scheme="w8a8", labels=("a", "b")))
"""


def test_two_processes_write_the_same_bytes(hub: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        command = [sys.executable, "-c", WRITE, str(hub), str(tmp_path / seed)]
        subprocess.run(command, check=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": seed})
    files = [path.relative_to(tmp_path / "1") for path in sorted((tmp_path / "1").rglob("*")) if path.is_file()]
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_package_with_another_code_is_refused(hub: Path, package: Path) -> None:
    held = constants(hub)
    codes = held["conv_weight_codes"].copy()
    codes[0, 0, 0, 0] ^= 1
    encoding = Encoding(held["conv_weight_scale"], held["conv_weight_zero"], "int8", 0)
    check_encodings(package, [HeldEncoding("conv_weight", encoding, held["conv_weight_codes"])])
    with pytest.raises(BackendError, match="conv_weight"):
        check_encodings(package, [HeldEncoding("conv_weight", encoding, codes)])


def test_a_scale_that_fp16_would_change_is_refused(tmp_path: Path) -> None:
    model = small_network()
    scale = next(held for held in model.graph.initializer if held.name == "relu_scale")
    scale.CopyFrom(numpy_helper.from_array(np.array(0.0235, np.float32), "relu_scale"))
    with pytest.raises(BackendError, match=r"relu_codes.*float16"):
        write(save(model, tmp_path), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("system", ["iOS15", "iOS16"])
def test_activation_codes_need_ios17(hub: Path, tmp_path: Path, system: str) -> None:
    with pytest.raises(BackendError, match="needs iOS 17"):
        write(hub, tmp_path / "out", WriteOptions(scheme="w8a8", minimum_os=system))
    assert not (tmp_path / "out").exists()


def test_a_dequantized_weight_alone_is_kept_as_codes_from_ios16_on(tmp_path: Path) -> None:
    graph = QdqGraph()
    weight, _ = graph.weight("w", np.random.default_rng(0).normal(0, 1, (6, 5)), 1)
    graph.node("MatMul", ["image", weight], "y")
    path = save(make_model(graph.nodes, {"image": (2, 6)}, ["y"], graph.constants), tmp_path)
    with pytest.raises(BackendError, match="needs iOS 16"):
        write(path, tmp_path / "old", WriteOptions(scheme="w8", minimum_os="iOS15"))
    write(path, tmp_path, WriteOptions(scheme="w8", minimum_os="iOS16"))
    feed = {"image": np.random.default_rng(1).normal(0, 1, (2, 6)).astype(np.float32)}
    found = Program.load(tmp_path / "model.mlpackage").run(feed)["y"]
    np.testing.assert_allclose(found, run_onnxruntime(path, feed)["y"], atol=4e-3 * 6)


def test_quantize_rounds_half_to_even_and_saturates(tmp_path: Path) -> None:
    graph = QdqGraph()
    graph.constant("s", np.array(0.5, np.float32))
    graph.constant("z", np.array(INPUT_ZERO, np.uint8))
    graph.nodes.append(helper.make_node("QuantizeLinear", ["image", "s", "z"], ["codes"], name="q"))
    graph.nodes.append(helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["y"], name="dq"))
    path = save(make_model(graph.nodes, {"image": (1, 6)}, ["y"], graph.constants), tmp_path)
    write(path, tmp_path, OPTIONS)
    feed = {"image": np.array([[0.25, 0.75, -0.25, 1.25, 1000, -1000]], np.float32)}
    found = Program.load(tmp_path / "model.mlpackage").run(feed)["y"]
    assert found.tolist() == [[0, 1, 0, 1, 63.5, -64]]
    assert np.array_equal(found, run_onnxruntime(path, feed)["y"])


def weights_only(seed: int = 0) -> onnx.ModelProto:
    """Scheme w8: int8 weights for each channel, real activations; a Conv, a depthwise one, a ConvTranspose, a Gemm, three MatMuls."""
    rng = np.random.default_rng(seed)
    graph = QdqGraph()
    weight, _ = graph.weight("conv_weight", rng.normal(0, 0.3, (6, 3, 3, 3)), 0)
    graph.node("Conv", ["image", weight, graph.constant("conv_bias", rng.normal(0, 0.2, 6).astype(np.float32))], "conv", pads=[1, 1, 1, 1])
    weight, _ = graph.weight("depth_weight", rng.normal(0, 0.3, (6, 1, 3, 3)), 0)
    graph.node("Conv", ["conv", weight], "depth", group=6, strides=[2, 2])
    weight, _ = graph.weight("up_weight", rng.normal(0, 0.3, (6, 2, 2, 2)), 1)
    graph.node("ConvTranspose", ["depth", weight], "up", strides=[2, 2], group=2)
    graph.node("Flatten", ["up"], "flat", axis=1)
    weight, _ = graph.weight("gemm_weight", rng.normal(0, 0.1, (144, 16)), 1)
    graph.node("Gemm", ["flat", weight, graph.constant("gemm_bias", rng.normal(0, 0.2, 16).astype(np.float32))], "gemm")
    weight, _ = graph.weight("head_weight", rng.normal(0, 0.3, (16, 8)), 1)
    graph.node("MatMul", ["gemm", weight], "head")
    graph.node("Reshape", ["head", graph.constant("shape", np.array([1, 2, 1, 4]))], "stack")
    weight, _ = graph.weight("flat_weight", rng.normal(0, 0.3, (4, 4)), -1)
    graph.node("MatMul", ["stack", weight], "row")
    weight, _ = graph.weight("batch_weight", rng.normal(0, 0.3, (2, 4, 5)), 2)
    graph.node("MatMul", ["row", weight], "y")
    return make_model(graph.nodes, {"image": (1, 3, 8, 8)}, ["y"], graph.constants)


WEIGHTS = {"conv": False, "depth": False, "up": False, "gemm": True, "head": True, "flat": False, "batch": False}


@pytest.fixture(scope="module")
def light_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(weights_only(), tmp_path_factory.mktemp("light"))


@pytest.mark.parametrize("system", ["iOS16", "iOS17", "iOS18"])
def test_weight_only_package_holds_the_codes_and_computes_what_onnxruntime_does(light_hub: Path, system: str, tmp_path: Path) -> None:
    written = write(light_hub, tmp_path, WriteOptions(scheme="w8", minimum_os=system))
    package, held = tmp_path / written.file, constants(light_hub)
    operations = Decoded(package).operations
    for name, swapped in WEIGHTS.items():
        kind, found = operations[f"{name}_weight_transposed" if swapped else f"{name}_weight"]
        codes = held[f"{name}_weight_codes"]
        assert kind.startswith("constexpr_")
        assert np.array_equal(found["data" if system == "iOS18" else "quantized_data"], codes.T if swapped else codes)
        assert np.array_equal(found["scale"].astype(np.float32).ravel(), held[f"{name}_weight_scale"])
    assert lint(package) == []
    feed = {"image": np.random.default_rng(4).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)}
    found, wanted = Program.load(package).run(feed)["y"], run_onnxruntime(light_hub, feed)["y"]
    # Seven layers, each rounding inputs and results to fp16 (2^-11 of the largest): at most 7 * 2 * 2^-11 if all went the same way.
    np.testing.assert_allclose(found, wanted, atol=7e-3 * np.abs(wanted).max())


def test_weight_only_package_is_a_quarter_of_fp32(tmp_path: Path) -> None:
    rng, graph = np.random.default_rng(0), QdqGraph()
    weight, _ = graph.weight("w", rng.normal(0, 1, (256, 512)), 1)
    graph.node("MatMul", ["image", weight], "y")
    light = save(make_model(graph.nodes, {"image": (2, 256)}, ["y"], graph.constants), tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    full = save(single("MatMul", (2, 256), [rng.normal(0, 1, (256, 512)).astype(np.float32)]), plain)

    def size(scheme: str, hub: Path) -> int:
        package = hub.parent / scheme / write(hub, hub.parent / scheme, WriteOptions(scheme=scheme)).file
        return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())

    whole = size("fp32", full)
    # 4, 2 and 1 byte a weight; the rest of a package is 5 kB beside 512 kB of weights.
    assert size("fp16", full) < 0.52 * whole
    assert size("w8", light) < 0.27 * whole


LEAVES = """
import os, sys
from pathlib import Path
from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import write
write(Path(sys.argv[1]), Path(sys.argv[2]), WriteOptions(scheme="w8a8"))
os._exit(0)
"""


def test_a_process_that_ends_hard_after_writing_leaves_nothing_in_the_temporary_folder(hub: Path, tmp_path: Path) -> None:
    """coremltools removes what it made there only when Python ends in good order."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", LEAVES, str(hub), str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "TMPDIR": str(temporary)})
    assert list(temporary.iterdir()) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.mlpackage"]
