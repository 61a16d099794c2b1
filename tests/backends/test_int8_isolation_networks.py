"""Small whole networks on codes, quantized by the product's own room: FACTS' bars for networks, since equality of codes is none there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgepack.backends import coreml, tflite
from edgepack.backends.artifact import WriteOptions
from edgepack.calibration.observe import observe
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import canonicalize
from edgepack.mil.program import Program
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.runner import litert
from tests.backends.tflite.blocks import Chain
from tests.backends.tflite.models import run_litert, run_ort

Array = NDArray[Any]
_SAMPLES = 12


@dataclass(frozen=True)
class Bar:
    """FACTS, int8 parity, whole networks, in dB.

    Attributes:
        gap: how far SQNR to float may lie below ONNX Runtime's. parity: least SQNR of one's outputs to the other's.
    """

    gap: float
    parity: float


WITHOUT_TIES, WITH_TIES = Bar(0.3, 36), Bar(1.5, 32)
# Core ML computes in fp16 between codes, of which the table of measured operators does not speak.
COREML_GAP = 1.0


def mobilenet_v2(chain: Chain) -> str:
    """relu6, three inverted residuals with two shortcuts, a head over 7x7."""
    x = chain.relu6(chain.conv("x", 16, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    for stride in (2, 1, 1):
        wide = chain.relu6(chain.conv(x, 64, 16, 1, 1))
        deep = chain.relu6(chain.conv(wide, 64, 1, 3, 3, group=64, strides=[stride] * 2, pads=[1, 1, 1, 1]))
        narrow = chain.conv(deep, 16, 64, 1, 1)
        x = narrow if stride == 2 else chain.add("Add", f"{narrow} {x}")
    return _head(chain, chain.relu6(chain.conv(x, 96, 16, 1, 1)), 96)


def squeezing(chain: Chain) -> str:
    """hard-swish, squeeze and excite by hard-sigmoid, twice, a head over 7x7."""
    x = chain.add("HardSwish", chain.conv("x", 24, 3, 5, 5, strides=[4, 4], pads=[2, 2, 2, 2]))
    for _ in range(2):
        deep = chain.add("HardSwish", chain.conv(x, 24, 1, 5, 5, group=24, pads=[2, 2, 2, 2]))
        squeezed = chain.add("Relu", chain.conv(chain.add("GlobalAveragePool", deep), 8, 24, 1, 1))
        gate = chain.add("HardSigmoid", chain.conv(squeezed, 24, 8, 1, 1), alpha=1 / 6, beta=0.5)
        x = chain.add("Add", f"{chain.conv(chain.add('Mul', f'{deep} {gate}'), 24, 24, 1, 1)} {x}")
    return _head(chain, chain.add("HardSwish", chain.conv(x, 96, 24, 1, 1)), 96)


def _head(chain: Chain, x: str, channels: int) -> str:
    flat = chain.add("Flatten", chain.add("GlobalAveragePool", x))
    weight, bias = chain.constant(chain.normal(100, channels) / 4), chain.constant(chain.normal(100))
    return chain.add("Gemm", f"{flat} {weight} {bias}", transB=1)


def unet(mode: str) -> Callable[[Chain], str]:
    """Two levels down by maximum, two up by Resize, skips joined by Concat."""

    def build(chain: Chain) -> str:
        first = chain.add("Relu", chain.conv("x", 8, 3, 3, 3, pads=[1, 1, 1, 1]))
        second = chain.add("Relu", chain.conv(_halved(chain, first), 16, 8, 3, 3, pads=[1, 1, 1, 1]))
        deep = chain.add("Relu", chain.conv(_halved(chain, second), 24, 16, 3, 3, pads=[1, 1, 1, 1]))
        joined = chain.add("Concat", f"{_doubled(chain, deep, mode)} {second}", axis=1)
        middle = chain.add("Relu", chain.conv(joined, 16, 40, 3, 3, pads=[1, 1, 1, 1]))
        joined = chain.add("Concat", f"{_doubled(chain, middle, mode)} {first}", axis=1)
        return chain.conv(chain.add("Relu", chain.conv(joined, 8, 24, 3, 3, pads=[1, 1, 1, 1])), 5, 8, 1, 1)

    return build


def _halved(chain: Chain, x: str) -> str:
    return chain.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


def _doubled(chain: Chain, x: str, mode: str) -> str:
    scales = chain.constant(np.asarray([1, 1, 2, 2], np.float32))
    rest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    return chain.add("Resize", f"{x} - {scales}", mode=mode, **rest)


def averaging(chain: Chain) -> str:
    """ResNet-like: 2x2 average pools in the shortcuts, which tie."""
    x = chain.add("Relu", chain.conv("x", 16, 3, 3, 3, pads=[1, 1, 1, 1]))
    for _ in range(2):
        inner = chain.add("Relu", chain.conv(x, 16, 16, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
        beside = chain.conv(chain.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 16, 16, 1, 1)
        x = chain.add("Relu", chain.add("Add", f"{chain.conv(inner, 16, 16, 3, 3, pads=[1, 1, 1, 1])} {beside}"))
    return _head(chain, x, 16)


NETWORKS: dict[str, tuple[Callable[[Chain], str], Bar]] = {
    "mobilenet_v2": (mobilenet_v2, WITHOUT_TIES),
    "squeezing": (squeezing, WITHOUT_TIES),
    "unet_nearest": (unet("nearest"), WITHOUT_TIES),
    "unet_linear": (unet("linear"), WITH_TIES),
    "averaging": (averaging, WITH_TIES),
}


@dataclass(frozen=True)
class Outcome:
    """Outputs over the same samples: of the float hub, of ONNX Runtime on the codes, of the artifact; and what LiteRT says of it."""

    exact: Array
    reference: Array
    ours: Array
    told: dict[str, Any]

    @property
    def gap(self) -> float:
        """dB by which the artifact is further from the float hub than ONNX Runtime."""
        return sqnr(self.reference, self.exact) - sqnr(self.ours, self.exact)

    @property
    def parity(self) -> float:
        """dB of the artifact to ONNX Runtime."""
        return sqnr(self.ours, self.reference)


def sqnr(given: Array, wanted: Array) -> float:
    """Signal power over error power in dB."""
    wide = wanted.astype(np.float64)
    return float(10 * np.log10(np.square(wide).sum() / max(np.square(given - wide).sum(), 1e-300)))


def outcome(name: str, seed: int, target: str, folder: Path) -> Outcome:
    """A network with weights of ``seed``, calibrated on normal samples, run on others."""
    chain = Chain(1, 3, 28, 28, seed=seed)
    NETWORKS[name][0](chain)
    chain.hub.nodes[-1].output[0] = "y"
    float_hub = canonicalize(onnx.load(chain.hub.save(folder / "given.onnx")), chain.hub.feed).model
    samples = np.random.default_rng(seed).standard_normal((2 * _SAMPLES, *chain.hub.feed["x"].shape)).astype(np.float32)
    held, feeds = Samples({"x": samples[:_SAMPLES]}), [{"x": sample} for sample in samples[_SAMPLES:]]
    onnx.save(ir.to_proto(float_hub), folder / "hub.onnx")
    exact = np.stack([run_ort(folder, feed)["y"] for feed in feeds])
    ranges = observe(ir.to_proto(float_hub), held, lambda done, total: None)
    quantized, _ = quantize_static(float_hub, ranges, Demands(scale_dtype="float16" if target == "coreml" else "float32"))
    onnx.save(ir.to_proto(quantized), folder / "hub.onnx")
    reference = np.stack([run_ort(folder, feed)["y"] for feed in feeds])
    ours, told = (_coreml if target == "coreml" else _tflite)(folder, feeds)
    return Outcome(exact, reference, ours, told)


def _tflite(folder: Path, feeds: list[dict[str, Array]]) -> tuple[Array, dict[str, Any]]:
    is_image = len(onnx.load(folder / "hub.onnx").graph.output[0].type.tensor_type.shape.dim) == 4
    options = WriteOptions("w8a8", {"x": "NCHW"}, {"y": "NCHW"} if is_image else {})
    description = tflite.write(folder / "hub.onnx", folder, options)
    told = litert.RUNTIME.load(str(folder / description.file), 1).describe()
    return np.stack([run_litert(description, folder, feed)["y"] for feed in feeds]), told


def _coreml(folder: Path, feeds: list[dict[str, Array]]) -> tuple[Array, dict[str, Any]]:
    program = Program.load(folder / coreml.write(folder / "hub.onnx", folder, WriteOptions("w8a8")).file)
    return np.stack([np.asarray(program.run(feed)["y"], np.float64) for feed in feeds]), {}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_tflite_is_as_good_as_onnxruntimes(name: str, seed: int, tmp_path: Path) -> None:
    found, bar = outcome(name, seed, "tflite", tmp_path), NETWORKS[name][1]
    assert found.gap <= bar.gap
    assert found.parity >= bar.parity
    assert (found.told["partitions"], found.told["outside"]) == (1, {})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_coreml_is_as_good_as_onnxruntimes(name: str, tmp_path: Path) -> None:
    assert outcome(name, 0, "coreml", tmp_path).gap <= COREML_GAP


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
@pytest.mark.parametrize("name", NETWORKS)
def test_twenty_more_networks_in_tflite(name: str, seed: int, tmp_path: Path) -> None:
    test_a_network_in_tflite_is_as_good_as_onnxruntimes(name, seed, tmp_path)
