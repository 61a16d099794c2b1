"""The waterfall on three runtimes: nothing departs in sound artifacts, and in a damaged one the damaged layer is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepack.arrays import load_arrays
from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.backends.registry import backend
from edgepack.calibration.readers import Samples
from edgepack.pack.manifest import ArtifactRecord, FileRecord, Parity
from edgepack.verify.judge import VerifyError
from edgepack.verify.waterfall import Layer, Waterfall, reference, simulate, trace
from tests.verify.hubs import float_hub, quantized_hub, weights

SAMPLES = 3
BACKENDS = ("ort", "tflite", "coreml")


def _silent(done: int, total: int) -> None:
    assert 0 < done <= total


@dataclass(frozen=True)
class Made:
    """Both hubs, their artifacts, the golden samples and the float64 run, on disk."""

    folder: Path
    written: dict[tuple[str, str], ArtifactDescription]

    def hub(self, scheme: str) -> Path:
        return self.folder / f"{scheme}.onnx"

    def artifact(self, name: str, scheme: str) -> Path:
        return self.folder / name / scheme / self.written[name, scheme].file

    def damaged(self, name: str, scheme: str, into: Path, damage: Callable[[Path], None]) -> Path:
        """A copy of an artifact with something changed."""
        source, copy = self.artifact(name, scheme), into / self.artifact(name, scheme).name
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
        damage(copy)
        return copy

    def trace(self, name: str, scheme: str, out: Path, artifact: Path | None = None) -> Waterfall:
        described = self.written[name, scheme]
        record = ArtifactRecord(
            name, "", scheme, described.runner, "", FileRecord("", 0, ""), described.inputs, described.outputs, Parity("host", 0, ()), None
        )
        trace(
            artifact or self.artifact(name, scheme),
            self.hub("fp32"),
            self.hub(scheme),
            self.folder / "golden.npz",
            self.folder / "0.npz",
            msgspec.to_builtins(record),
            SAMPLES,
            120,
            4 * 2**30,
            out,
            _silent,
            self.folder / "simulated.json" if scheme == "w8a8" else None,
        )
        return msgspec.json.decode((out / "waterfall.json").read_bytes(), type=Waterfall)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    written = {}
    for scheme, model in (("fp32", float_hub()), ("w8a8", quantized_hub())):
        onnx.save(model, folder / f"{scheme}.onnx")
        for name in BACKENDS:
            out = folder / name / scheme
            out.mkdir(parents=True)
            layouts = {"image": "NCHW"}
            written[name, scheme] = backend(name).write(folder / f"{scheme}.onnx", out, WriteOptions(scheme, layouts, {"y": "NCHW"}))
    golden = np.random.default_rng(3).uniform(-1, 1, (SAMPLES, 1, 3, 12, 12)).astype(np.float32)
    Samples({"image": golden}).save(folder / "golden.npz")
    reference(folder / "fp32.onnx", folder / "golden.npz", SAMPLES, folder, _silent)
    simulate(folder / "w8a8.onnx", folder / "golden.npz", folder / "0.npz", SAMPLES, folder, _silent)
    return Made(folder, written)


def _layer(found: Waterfall, value: str) -> Layer:
    return next(layer for layer in found.layers if layer.value == value)


def test_the_reference_is_what_plain_float64_arithmetic_gives(made: Made) -> None:
    image, first = Samples.open(made.folder / "golden.npz").arrays["image"], weights()["w1"]
    padded = np.pad(image[1, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.einsum("chwij,ocij->ohw", windows, first.astype(np.float64)) + np.float32(np.linspace(-0.1, 0.1, 8)).reshape(8, 1, 1)
    np.testing.assert_allclose(load_arrays(made.folder / "1.npz")["c1"][0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_a_sound_artifact_departs_nowhere_and_every_layer_is_compared(made: Made, name: str, scheme: str, tmp_path: Path) -> None:
    found = made.trace(name, scheme, tmp_path)
    assert found.first == ""
    assert found.compared == found.expected == (3 if scheme == "fp32" else 5)
    assert {layer.layer for layer in found.layers if layer.is_layer} >= {"block/r1", "r2", "y"}


@pytest.mark.parametrize("name", BACKENDS)
def test_codes_stay_within_half_a_step_of_exact_arithmetic_on_the_same_codes(made: Made, name: str, tmp_path: Path) -> None:
    steps = [layer.runtime for layer in made.trace(name, "w8a8", tmp_path).layers if layer.unit == "steps"]
    # Core ML computes in fp16 before it rounds to codes: FACTS.md, at most an eighth of a step more.
    assert len(steps) == 4
    assert max(step or 0.0 for step in steps) <= (0.625 if name == "coreml" else 0.501)


def test_what_quantization_costs_is_told_apart_from_the_runtime(made: Made, tmp_path: Path) -> None:
    layer = _layer(made.trace("tflite", "w8a8", tmp_path), "r2_quantized")
    assert layer.sqnr_db is not None and layer.hub_sqnr_db is not None and layer.own_db is not None
    assert abs(layer.sqnr_db - layer.hub_sqnr_db) < 0.1
    assert layer.own_db > layer.sqnr_db


# Elements of channels that the golden samples excite: what nothing reaches, no comparison of values can see.
def _flip_codes(weight: str, element: int) -> Callable[[Path], None]:
    """Bit 6 of one weight code, in the bytes of a .tflite file."""

    def damage(path: Path) -> None:
        held = next(each for each in quantized_hub().graph.initializer if each.name == f"{weight}/codes")
        codes = numpy_helper.to_array(held).transpose(0, 2, 3, 1).tobytes()
        content = bytearray(path.read_bytes())
        assert content.count(codes) == 1
        content[content.index(codes) + element] ^= 0x40
        path.write_bytes(content)

    return damage


def _change_initializer(name: str, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        model = onnx.load(path)
        held = next(each for each in model.graph.initializer if each.name == name)
        held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held).copy()), name))
        onnx.save(model, path)

    return damage


def _one_code(codes: NDArray[np.generic]) -> NDArray[np.generic]:
    codes.flat[43] = np.int8(codes.flat[43]) ^ np.int8(0x40)
    return codes


def _one_percent(weights: NDArray[np.generic]) -> NDArray[np.generic]:
    weights.flat[5] *= np.float32(1.01)
    return weights


def _scale_of_package(weight: str) -> Callable[[Path], None]:
    """Twice one channel's weight scale, in the protobuf of an .mlpackage."""

    def damage(path: Path) -> None:
        from edgepack.mil.environment import coremltools

        file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
        spec = coremltools().proto.Model_pb2.Model()
        spec.ParseFromString(file.read_bytes())
        function = spec.mlProgram.functions["main"]
        operations = function.block_specializations[function.opset].operations
        operation = next(each for each in operations if each.outputs[0].name.startswith(weight) and "constexpr" in each.type)
        tensor = operation.attributes["scale"].immediateValue.tensor
        scales = np.frombuffer(tensor.bytes.values, np.float16).copy()
        scales[2] *= 2
        tensor.bytes.values = scales.tobytes()
        file.write_bytes(spec.SerializeToString())

    return damage


@pytest.mark.parametrize(
    ("name", "scheme", "damage", "value"),
    [
        ("tflite", "w8a8", _flip_codes("w1", 30), "block/r1_quantized"),
        ("tflite", "w8a8", _flip_codes("w2", 43), "r2_quantized"),
        ("tflite", "w8a8", _flip_codes("w3", 100), "y_quantized"),
        ("ort", "w8a8", _change_initializer("w2/codes", _one_code), "r2_quantized"),
        ("ort", "fp32", _change_initializer("w1", _one_percent), "block/r1"),
        ("ort", "fp32", _change_initializer("w3", _one_percent), "y"),
        # Core ML has the value between a convolution and its activation too: it is named itself.
        ("coreml", "w8a8", _scale_of_package("w1"), "c1"),
        ("coreml", "w8a8", _scale_of_package("w3"), "y_real"),
    ],
)
def test_the_damaged_layer_is_the_first_that_departs_and_no_other_does(
    made: Made, name: str, scheme: str, damage: Callable[[Path], None], value: str, tmp_path: Path
) -> None:
    found = made.trace(name, scheme, tmp_path, made.damaged(name, scheme, tmp_path, damage))
    assert found.first == value
    assert [layer.value for layer in found.layers if layer.departs] == [value]


def test_an_artifact_that_does_not_say_how_its_tensors_lie_is_refused(made: Made, tmp_path: Path) -> None:
    def forget(path: Path) -> None:
        content = path.read_bytes()
        assert content.count(b'"layouts"') == 1
        path.write_bytes(content.replace(b'"layouts"', b'"forgets"'))

    broken = made.damaged("tflite", "fp32", tmp_path, forget)
    with pytest.raises(VerifyError, match="does not say how its tensors lie"):
        made.trace("tflite", "fp32", tmp_path, broken)


def test_a_cut_off_artifact_is_refused_in_one_line(made: Made, tmp_path: Path) -> None:
    broken = made.damaged("tflite", "fp32", tmp_path, lambda path: path.write_bytes(path.read_bytes()[:200]) and None)
    with pytest.raises(VerifyError, match=r"model\.tflite cannot be read"):
        made.trace("tflite", "fp32", tmp_path, broken)
