"""Single operators on codes: built in float, quantized by the product's own room, and what their codes mean in float64."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepack.calibration.observe import Range, Ranges, with_outputs
from edgepack.hub.canonical import canonicalize, plain_session
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.placement import PLACEMENT
from tests.backends.tflite.blocks import Chain

Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Bar:
    """One row of FACTS' table "int8 parity, measured per operator".

    Attributes:
        equal: least fraction of codes equal, over all settings. setting: the same of each setting, where the table names one.
        delta: max |code - exact unrounded position| - 0.5, in steps. step: largest difference of codes.
        ties: whether exact positions fall on .5, where either code is right: codes further than 1e-3 from there must all be equal.
    """

    equal: float
    delta: float
    step: int = 1
    setting: float = 0.0
    ties: bool = False


# Positions are float64 quotients of float32 scales: 1e-6 of a step is their own rounding.
MOVED = Bar(1.0, 1e-6, step=0)
PRODUCT = Bar(0.9999, 1e-4)
BOUNDED = Bar(0.9999, 1e-3)
GENERIC = Bar(0.9995, 1e-3)
SOFTMAX = Bar(0.999, 0.01)
ODD_POOL = Bar(0.999, 1e-3)
TIES = Bar(0.0, 1e-3, ties=True)
HARD_SWISH = Bar(0.995, 0.03, setting=0.985)
RESIZED = Bar(0.96, 0.15)


@dataclass(frozen=True)
class Case:
    """One operator.

    Attributes:
        shapes: of its activations.
        build: writes the float hub, its result being "y".
        roundings: how many fp16 roundings an element passes in Core ML's lowering (``fp16_bounds``).
        slope: of a function of one number, its largest; None where the operator is linear in each operand.
        spread: of its inputs.
    """

    shapes: tuple[tuple[int, ...], ...]
    build: Callable[[Chain], Any]
    bar: Bar
    roundings: int = 3
    slope: float | None = None
    spread: float = 1.0


def conv(shape: tuple[int, ...], weight: tuple[int, ...], activation: str = "", operator: str = "Conv", **attributes: Any) -> Case:
    def build(chain: Chain) -> None:
        _finish(chain, chain.conv("x", *weight, operator=operator, **attributes), activation)

    return Case((shape,), build, PRODUCT)


def _finish(chain: Chain, name: str, activation: str) -> None:
    bounds = " ".join(chain.constant(np.float32(bound)) for bound in (0, 6)) if activation == "Relu6" else ""
    if activation:
        name = chain.add("Clip" if bounds else activation, f"{name} {bounds}".strip())
    chain.hub.nodes[-1].output[0] = "y"


def product(operator: str, shape: tuple[int, ...], weight: tuple[int, ...], activation: str = "", **attributes: Any) -> Case:
    def build(chain: Chain) -> None:
        reach = np.float32(np.sqrt(shape[-1]))
        bias = f" {chain.constant(chain.normal(weight[0 if attributes.get('transB') else 1]))}" if operator == "Gemm" else ""
        _finish(chain, chain.add(operator, f"x {chain.constant(chain.normal(*weight) / reach)}{bias}", **attributes), activation)

    return Case((shape,), build, PRODUCT)


def one(operator: str, *shapes: tuple[int, ...], bar: Bar, constants: tuple[Any, ...] = (), read: bool = False, **rest: Any) -> Case:
    """An operator over activations and then constants (None for one left out); ``read``: followed by a Flatten, which wants its codes."""
    limits = {name: rest.pop(name) for name in ("roundings", "slope", "spread") if name in rest}
    activation = rest.pop("activation", "")

    def build(chain: Chain) -> None:
        held = ["-" if value is None else chain.constant(value) for value in constants]
        name = chain.add(operator, " ".join([*_names(shapes), *held]), **rest)
        _finish(chain, chain.add("Flatten", name) if read else name, activation)

    return Case(shapes, build, bar, **limits)


def split(chain: Chain) -> None:
    chain.add("Split", f"x {chain.constant(np.asarray([3, 5], np.int64))}", "first second", axis=1)
    chain.add("Concat", "second first", "y", axis=1)


def _names(shapes: tuple[tuple[int, ...], ...]) -> list[str]:
    return ["x", "x1"][: len(shapes)]


IMAGE = (1, 16, 20, 18)
_TWICE = (None, np.asarray([1, 1, 2, 2], np.float32))
_SIZES = (None, None, np.asarray([1, 16, 33, 31], np.int64))
_UP: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _integers(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def _padded(*pads: int, mode: str = "constant") -> Case:
    return one("Pad", IMAGE, bar=MOVED, constants=(_integers(*pads),), mode=mode)


CASES: dict[str, Case] = {
    "conv": conv(IMAGE, (24, 16, 3, 3), pads=[1, 1, 1, 1]),
    "conv_relu": conv(IMAGE, (24, 16, 3, 3), "Relu", pads=[1, 1, 1, 1]),
    "conv_relu6": conv(IMAGE, (24, 16, 3, 3), "Relu6", pads=[1, 1, 1, 1]),
    "conv_strided": conv((1, 16, 41, 37), (24, 16, 3, 3), strides=[2, 2], pads=[1, 1, 0, 1]),
    "conv_dilated": conv(IMAGE, (24, 16, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
    "conv_pointwise": conv(IMAGE, (24, 16, 1, 1)),
    "conv_one_dimensional": conv((1, 16, 301), (24, 16, 5), pads=[2, 1]),
    "conv_grouped": conv(IMAGE, (24, 4, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "depthwise": conv(IMAGE, (16, 1, 3, 3), group=16, pads=[1, 1, 1, 1]),
    "depthwise_multiplier": conv(IMAGE, (32, 1, 5, 5), "Relu6", group=16, pads=[2, 2, 2, 2]),
    "conv_transpose": conv(IMAGE, (16, 8, 4, 4), operator="ConvTranspose", strides=[2, 2], pads=[1, 1, 1, 1]),
    "conv_transpose_cut": conv(IMAGE, (16, 8, 3, 3), operator="ConvTranspose", strides=[2, 2], pads=[1, 0, 0, 1]),
    "gemm": product("Gemm", (80, 64), (64, 90)),
    "gemm_relu": product("Gemm", (80, 64), (90, 64), "Relu", transB=1),
    "matmul_weight": product("MatMul", (2, 40, 64), (64, 90)),
    "max_pool": one("MaxPool", IMAGE, bar=MOVED, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "global_max_pool": one("GlobalMaxPool", (1, 600, 7, 5), bar=MOVED),
    "average_pool_odd": one("AveragePool", IMAGE, bar=ODD_POOL, kernel_shape=[3, 3], roundings=5),
    "average_pool_counting": one("AveragePool", IMAGE, bar=ODD_POOL, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1, roundings=5),
    "average_pool_even": one("AveragePool", IMAGE, bar=TIES, kernel_shape=[2, 2], strides=[2, 2], roundings=5),
    "average_pool_edges": one("AveragePool", IMAGE, bar=TIES, kernel_shape=[3, 3], pads=[1] * 4, roundings=5),
    "global_average_pool": one("GlobalAveragePool", (1, 900, 7, 7), bar=GENERIC, roundings=5),
    "reduce_mean": one("ReduceMean", (1, 900, 7, 5), bar=GENERIC, constants=(_integers(2, 3),), keepdims=0, roundings=5),
    "reshape": one("Reshape", IMAGE, bar=MOVED, constants=(_integers(1, 8, 40, 18),)),
    "flatten": one("Flatten", IMAGE, bar=MOVED),
    "transpose": one("Transpose", IMAGE, bar=MOVED, perm=[0, 2, 3, 1]),
    "slice": one("Slice", IMAGE, bar=MOVED, constants=(_integers(1, 2), _integers(9, 17), _integers(1, 3))),
    "split": Case(((1, 8, 20, 18),), split, MOVED),
    "pad": _padded(0, 0, 1, 2, 0, 0, 2, 1),
    "pad_edge": _padded(0, 0, 1, 1, 0, 0, 1, 1, mode="edge"),
    "gather": one("Gather", IMAGE, bar=MOVED, constants=(_integers(3, 4, 5, 1, -2),), axis=1),
    "tile": one("Tile", (1, 4, 20, 18), bar=MOVED, constants=(_integers(1, 2, 1, 2),)),
    "depth_to_space": one("DepthToSpace", IMAGE, bar=MOVED, blocksize=2),
    "space_to_depth": one("SpaceToDepth", IMAGE, bar=MOVED, blocksize=2),
    "concat": one("Concat", IMAGE, (1, 5, 20, 18), bar=MOVED, axis=1),
    "maximum": one("Max", IMAGE, IMAGE, bar=MOVED),
    "add": one("Add", IMAGE, IMAGE, bar=GENERIC),
    "add_relu": one("Add", IMAGE, IMAGE, bar=GENERIC, activation="Relu"),
    "add_channel": one("Add", IMAGE, (1, 16, 1, 1), bar=GENERIC),
    "sub": one("Sub", IMAGE, IMAGE, bar=GENERIC),
    "mul": one("Mul", IMAGE, IMAGE, bar=GENERIC),
    "mul_channel": one("Mul", IMAGE, (1, 16, 1, 1), bar=GENERIC),
    "relu": one("Relu", IMAGE, bar=GENERIC, slope=1),
    "relu6": one("Clip", IMAGE, bar=GENERIC, constants=(np.float32(0), np.float32(6)), slope=1, spread=4),
    "clip": one("Clip", IMAGE, bar=GENERIC, constants=(np.float32(-1.3), np.float32(1.7)), slope=1),
    "leaky_relu": one("LeakyRelu", IMAGE, bar=GENERIC, alpha=0.1, slope=1),
    "prelu": one("PRelu", IMAGE, bar=GENERIC, constants=(np.full((16, 1, 1), 0.2, np.float32),), read=True, slope=1),
    "sigmoid": one("Sigmoid", IMAGE, bar=BOUNDED, slope=1 / 4, spread=3),
    "tanh": one("Tanh", IMAGE, bar=BOUNDED, slope=1, spread=2),
    "hard_sigmoid": one("HardSigmoid", IMAGE, bar=GENERIC, read=True, alpha=1 / 6, slope=1 / 6, spread=3, roundings=5),
    "hard_swish": one("HardSwish", IMAGE, bar=HARD_SWISH, read=True, slope=1.5, spread=3, roundings=5),
    "elu": one("Elu", IMAGE, bar=GENERIC, read=True, slope=1, spread=2, roundings=5),
    "gelu": one("Gelu", IMAGE, bar=GENERIC, read=True, slope=1.13, spread=2, roundings=5),
    "mish": one("Mish", IMAGE, bar=GENERIC, read=True, slope=1.09, spread=2, roundings=8),
    "softplus": one("Softplus", IMAGE, bar=GENERIC, read=True, slope=1, spread=2, roundings=5),
    "resize_nearest_twice": one("Resize", IMAGE, bar=MOVED, constants=_TWICE, **_UP),
    "resize_nearest": one("Resize", IMAGE, bar=MOVED, constants=_SIZES, mode="nearest"),
    "resize_linear": one("Resize", IMAGE, bar=RESIZED, constants=_SIZES, mode="linear", roundings=6),
    "resize_linear_aligned": one(
        "Resize", IMAGE, bar=RESIZED, constants=_SIZES, mode="linear", coordinate_transformation_mode="align_corners", roundings=6
    ),
}


@dataclass
class Quantized:
    """A quantized hub of one operator.

    Attributes:
        feed: samples that are exactly what codes stand for: how a runtime rounds its input is not the operator's doing.
        scale, zero_point: of the uint8 codes of "y".
    """

    model: onnx.ModelProto
    samples: list[Arrays]
    scale: float
    zero_point: int
    _constants: Arrays = field(default_factory=dict)

    def codes(self, y: Array) -> Array:
        """The codes an artifact's real output stands for; less than a quarter from each, whatever float type it came through."""
        position = np.asarray(y, np.float64) / self.scale + self.zero_point
        assert np.abs(position - np.rint(position)).max() < 0.25
        codes: Array = np.rint(position)
        return codes

    def exact(self, feed: Arrays) -> Array:
        """Unrounded positions of the codes of "y", cut to 0..255: dequantized, computed in float64, divided by the scale."""
        positions: Array = np.clip(self.steps(feed) + self.zero_point, 0, 255)
        return positions

    def steps(self, feed: Arrays, power: int = 0) -> Array:
        """The result in steps; with ``power`` the root of the same sums over the terms' magnitudes to that power.

        What relative errors of single terms add up to at most (1), and their root sum of squares (2).
        """
        real = self._evaluated(feed, power)
        steps: Array = (real ** (1 / power) if power else real) / self.scale
        return steps

    def _evaluated(self, feed: Arrays, power: int) -> Array:
        """The real numbers the operator's own QuantizeLinear reads, in the shape of "y"."""
        held: Arrays = dict(self._initial())
        held |= {name: _power(array.astype(np.float64), power) for name, array in feed.items()}
        for node in self.model.graph.node:
            if node.op_type == "QuantizeLinear":
                held[node.output[0]] = held[node.input[0]]
            elif node.op_type == "DequantizeLinear":
                held[node.output[0]] = self._dequantized(node, held, power)
            else:
                results = _run(node, [held[name] for name in node.input if name], bool(power))
                held |= dict(zip(node.output, results, strict=True))
        return np.asarray(held[self.model.graph.output[0].name])

    def _dequantized(self, node: onnx.NodeProto, held: Arrays, power: int) -> Array:
        """Of a constant, its codes in float64; of an activation, the real number itself: only the output is rounded, at the end."""
        codes = held[node.input[0]]
        if codes.dtype == np.float64:
            return codes
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        shape = [-1 if index == axis else 1 for index in range(codes.ndim)] if held[node.input[1]].ndim else []
        scale, zero = (held[name].reshape(shape) if shape else held[name] for name in node.input[1:])
        return _power((codes.astype(np.float64) - zero.astype(np.float64)) * scale, power)

    def _initial(self) -> Arrays:
        if not self._constants:
            for held in self.model.graph.initializer:
                array = numpy_helper.to_array(held)
                self._constants[held.name] = array.astype(np.float64) if array.dtype == np.float32 else array
        return self._constants


def _power(array: Array, power: int) -> Array:
    raised: Array = np.abs(array) ** power if power else array
    return raised


# Under magnitudes a difference adds, and what clamps or bends leaves its argument as it is (its slope is the case's own).
_BENDS = {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu", "Mish", "Softplus"}


def _run(node: onnx.NodeProto, arrays: list[Array], magnitudes: bool) -> list[Array]:
    if magnitudes and node.op_type in _BENDS:
        return [arrays[0]]
    if magnitudes and node.op_type == "Sub":
        return [arrays[0] + arrays[1]]
    kinds = tuple(helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays)
    evaluator = _evaluator(node.SerializeToString(), kinds)
    names = [name for name in node.input if name]
    return [np.asarray(result) for result in evaluator.run(None, dict(zip(names, arrays, strict=True)))]


@cache
def _evaluator(serialized: bytes, kinds: tuple[int, ...]) -> ReferenceEvaluator:
    node = onnx.NodeProto.FromString(serialized)
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip([n for n in node.input if n], kinds, strict=True)]
    outputs = [helper.make_tensor_value_info(name, kinds[0], None) for name in node.output]
    graph = helper.make_graph([node], "node", inputs, outputs)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


class Settings:
    """One case's float hub in canonical form, quantized anew for every setting of ranges."""

    def __init__(self, case: Case) -> None:
        self.case = case
        chain = Chain(*case.shapes[0])
        chain.hub.feed |= {name: chain.normal(*shape) for name, shape in zip(_names(case.shapes), case.shapes, strict=True)}
        case.build(chain)
        self._folderless = chain.hub
        self.float_hub: ir.Model | None = None

    def open(self, folder: Path) -> None:
        """Bring the hub to canonical form by way of a file in ``folder``."""
        given = onnx.load(self._folderless.save(folder / "given.onnx"))
        self.float_hub = canonicalize(given, self._folderless.feed).model
        proto = ir.to_proto(self.float_hub)
        self._names = [value.name for value in (*proto.graph.value_info, *proto.graph.output) if value.type.tensor_type.elem_type == 1]
        self._run = plain_session(with_outputs(proto, self._names))

    def quantized(self, seed: int, scale_dtype: str, samples: int) -> Quantized:
        """Ranges of no round numbers; inputs reach each of their codes, outputs sometimes more than theirs."""
        assert self.float_hub is not None
        rng = np.random.default_rng(seed)
        spans = {name: self.case.spread * rng.uniform([-3, 0.3], [-0.2, 3]) for name in self._folderless.feed}
        feeds = [{name: _uniform(rng, spans[name], array.shape) for name, array in self._folderless.feed.items()} for _ in range(samples)]
        seen = self._run(feeds[0])
        ranges = {name: (float(low), float(high)) for name, (low, high) in spans.items()}
        output = next(iter(self.float_hub.graph.outputs)).name
        for name in self._names:
            # An output's range is widened by half afterwards (quantize/headroom).
            reach = rng.uniform(0.5, 0.75, 2) if name == output else rng.uniform(0.75, 1.1, 2)
            ranges.setdefault(name, (float(seen[name].min() * reach[0]), float(seen[name].max() * reach[1])))
        held = Ranges(1, {name: Range(low, high, low, high) for name, (low, high) in ranges.items()})
        hub, constraints = quantize_static(self.float_hub, held, Demands(scale_dtype=scale_dtype))
        assert not constraints.real and not any(PLACEMENT in node.metadata_props for node in hub.graph)
        encodings = constraints.activations
        snapped = [{name: _snapped(array, encodings[name]) for name, array in feed.items()} for feed in feeds]
        return Quantized(ir.to_proto(hub), snapped, encodings[str(output)].scale, encodings[str(output)].zero_point)


def _uniform(rng: np.random.Generator, span: Array, shape: tuple[int, ...]) -> Array:
    return rng.uniform(span[0], span[1], shape).astype(np.float32)


def _snapped(array: Array, held: Any) -> Array:
    encoding = held.encoding()
    real: Array = encoding.dequantize(encoding.quantize(array))
    return real


# fp16 has 11 significant bits: one rounding is off by 2^-11 of the number at most.
_HALF_ROUNDING = 2.0**-11
# What no sum of independent roundings exceeds in a million of them.
_SIGMAS = 6


def fp16_bounds(case: Case, quantized: Quantized, feed: Arrays) -> tuple[Array, Array]:
    """How far, in steps, an artifact that computes in fp16 is from the exact position before it rounds: at most, and as a root mean square.

    The result is rounded once, which in an unlucky binade is 2^-11 of it for every element. Before that every term passes
    ``case.roundings`` - 1 roundings of its operands, each uniform within 2^-11 of its magnitude and so with a variance of a third of that
    squared; a function hands on the rounding of its argument by its slope. Core ML divides by the scale in float32.
    """
    slope, count = case.slope or 1, case.roundings - 1
    result = np.abs(quantized.steps(feed))
    most, sigma = count * slope * quantized.steps(feed, 1), np.sqrt(count / 3) * slope * quantized.steps(feed, 2)
    return _HALF_ROUNDING * (result + np.minimum(most, _SIGMAS * sigma)), _HALF_ROUNDING * (result + sigma)


def settings(count: int, scale_dtype: str, case: Case, folder: Path, samples: int) -> Iterator[Quantized]:
    """``count`` settings of one case, each with so many samples."""
    held = Settings(case)
    held.open(folder)
    for seed in range(count):
        yield held.quantized(seed, scale_dtype, samples)
