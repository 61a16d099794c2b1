"""Codes a student brings itself, in forms our quantizer leaves real or never writes (its own are in tests/backends/test_int8_isolation).

Held to float64 within a fraction of a step, and to ONNX Runtime code for code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.runner import litert
from tests.backends.tflite.models import both, convert
from tests.backends.tflite.qdq_models import SOFTMAX, Codes, Quantized


@dataclass(frozen=True)
class Bar:
    """From shared measurements over about 1 M codes and 30 scale settings an operator (FACTS, int8 parity).

    Attributes:
        equal: least fraction of codes equal to ONNX Runtime's. delta: max |code - exact unrounded position| - 0.5, in steps.
    """

    equal: float
    delta: float


EXACT = Bar(1.0, 1e-6)
# Means of four or six codes fall on .5 exactly, where any rounding is right.
TIES = Bar(0.75, 1e-3)
PRODUCT = Bar(0.9999, 1e-3)
GENERIC = Bar(0.9995, 1e-3)

Make = Callable[[np.random.Generator], Quantized]


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def span(rng: np.random.Generator, low: float, high: float) -> Codes:
    """A range of no round numbers, so that ties are rare."""
    return Codes.of(low * (1 + 0.3 * rng.random()), high * (1 + 0.3 * rng.random()))


def transposed(shape: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> Make:
    def make(rng: np.random.Generator) -> Quantized:
        reach = 1.5 * np.sqrt(weight[0] * np.prod(weight[2:]) / np.prod(attributes["strides"]))
        bias = normal(rng, weight[1] * attributes.get("group", 1))
        held = span(rng, -reach, reach)
        return Quantized("ConvTranspose", [normal(rng, *shape)], [span(rng, -3, 2)], held, attributes, normal(rng, *weight), bias, 1)

    return make


def gemm(rows: int, columns: int, transposed: bool = True, operator: str = "Gemm", leading: tuple[int, ...] = (5,)) -> Make:
    def make(rng: np.random.Generator) -> Quantized:
        weight = normal(rng, columns, rows) if transposed else normal(rng, rows, columns)
        attributes = {"transB": int(transposed)} if operator == "Gemm" else {}
        bias = normal(rng, columns) if operator == "Gemm" else None
        reach = 1.5 * np.sqrt(rows)
        axis = 0 if transposed else 1
        source = normal(rng, *leading, rows)
        return Quantized(operator, [source], [span(rng, -2, 3)], span(rng, -reach, reach), attributes, weight, bias, axis)

    return make


def unary(operator: str, output: Codes | None = None, shape: tuple[int, ...] = (1, 8, 9, 7), same: bool = False, **attributes: Any) -> Make:
    def make(rng: np.random.Generator) -> Quantized:
        held = span(rng, -3, 4)
        reads = output or (held if same else span(rng, -1, 4))
        return Quantized(operator, [normal(rng, *shape) * 2], [held], reads, dict(attributes))

    return make


def reduced(operator: str, same: bool) -> Make:
    def make(rng: np.random.Generator) -> Quantized:
        held = span(rng, -3, 2)
        output = held if same else span(rng, -1, 1)
        axes = {"axes": np.asarray([2, 3], np.int64)}
        return Quantized(operator, [normal(rng, 1, 40, 7, 5)], [held], output, {"keepdims": 0}, parameters=axes)

    return make


def matmul(rng: np.random.Generator) -> Quantized:
    return Quantized("MatMul", [normal(rng, 2, 40, 11), normal(rng, 2, 11, 50)], [span(rng, -3, 2), span(rng, -2, 3)], span(rng, -8, 7))


CASES: dict[str, tuple[Make, Bar]] = {
    "transposed_dilated": (transposed((1, 8, 7, 6), (8, 12, 3, 2), strides=[1, 2], dilations=[2, 1]), PRODUCT),
    "gemm_untransposed": (gemm(64, 40, transposed=False), PRODUCT),
    "matmul_activations": (matmul, PRODUCT),
    "max_pool_dilated": (unary("MaxPool", same=True, kernel_shape=[3, 2], dilations=[2, 2], pads=[1, 1, 1, 1]), EXACT),
    "max_pool_ceil": (unary("MaxPool", same=True, shape=(1, 8, 8, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), EXACT),
    "average_pool_excluding": (unary("AveragePool", same=True, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]), TIES),
    "reduce_max": (reduced("ReduceMax", same=True), EXACT),
    "softmax": (unary("Softmax", SOFTMAX, shape=(40, 10), axis=-1), PRODUCT),
    "softmax_channels": (unary("Softmax", SOFTMAX, shape=(1, 10, 6, 5), axis=1), PRODUCT),
    "relu_same": (unary("Relu", same=True), EXACT),
    "relu_rescaled": (unary("Relu"), GENERIC),
    "exp_in_float": (unary("Exp", Codes.of(0, 30)), GENERIC),
}


IN_ONE_PARTITION = [name for name in CASES if name != "max_pool_dilated"]


@pytest.mark.parametrize("name", IN_ONE_PARTITION)
def test_the_delegate_takes_the_operator_whole(name: str, tmp_path: Path) -> None:
    make, _ = CASES[name]
    description = convert(make(np.random.default_rng(0)).hub(), tmp_path, "w8a8")
    assert litert.RUNTIME.load(str(tmp_path / description.file), 1).describe()["outside"] == {}


@pytest.mark.parametrize("name", CASES)
def test_kernel_agrees_with_float64_and_onnxruntime(name: str, tmp_path: Path) -> None:
    make, bar = CASES[name]
    differing = total = 0
    for seed in range(3):
        case = make(np.random.default_rng(seed))
        ours, reference = both(case.hub(), tmp_path, "w8a8")
        codes, expected = (codes_of(result["y"], case.output) for result in (ours, reference))
        exact = case.exact()
        assert np.abs(codes - exact).max() - 0.5 <= bar.delta, np.abs(codes - exact).max()
        assert np.abs(codes - expected).max() <= 1
        differing, total = differing + int((codes != expected).sum()), total + codes.size
    assert 1 - differing / total >= bar.equal, differing / total


def codes_of(real: Any, held: Codes) -> Any:
    codes = np.asarray(real, np.float64) / held.scale + held.zero_point
    assert np.abs(codes - np.rint(codes)).max() < 1e-3
    return np.rint(codes)
