"""What a graph should give, and how far from it a correct run may be.

The truth is the float64 run of the model as drawn. How much fp32 rounding moves each number is measured: the run is repeated with every
real number that a node writes, and every real input, moved up or down at random by a little of its tensor's largest, which is what a
kernel's own rounding does, whatever the kernel; differences that cancel or are divided by come out as large as they are. Where such a
move flips a discontinuous operator (a comparison, an index, a rounding near its tie), the number moves by a whole step and is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgepack.quantize.placement import MOVES

Array = NDArray[Any]
Arrays = dict[str, Array]

# Half an ulp of a number in [1, 2) in fp32 and in fp16.
HALF_ULP = {"float32": 2.0**-24, "float16": 2.0**-11}
# A kernel sums its terms in any order and approximates functions to an ulp or two: two half ulps of the tensor's largest for each node.
_MOVES_BY = 2.0
_REPEATS = 8
# Two numbers that nearly tie change places in half of the patterns; of whole outputs (ArgMax, TopK, comparisons) 16 patterns miss one
# tie of 65,000, 4 patterns one of 16.
_MORE_WHERE_IT_DECIDES = 4
# A few random signs rarely add up to the worst a graph can do: as far again, four times; and as much for storing the result.
_MARGIN = 4.0
# A run that is right stays within the tolerance of another that is: onnxruntime must, or the two oracles disagree and nothing is judged.
_SAFETY = 4.0
# How far codes of two correct runs of one int8 operator may be apart, in steps (FACTS: 1): moving by half of one flips half of them.
_CODE_MOVES_BY = 0.5


@dataclass(frozen=True)
class Expected:
    """Outputs by name with how far from each number a result may be; infinity where nothing is asked."""

    outputs: Arrays = field(repr=False)
    tolerance: Arrays = field(repr=False)

    def judged(self) -> tuple[int, int]:
        """(numbers judged to a thousandth of the largest or better, numbers)."""
        pairs = [(self.tolerance[name] <= 1e-3 * _largest(array), array.size) for name, array in self.outputs.items()]
        return sum(int(np.sum(sharp)) for sharp, _ in pairs), sum(size for _, size in pairs)


class DisagreementError(Exception):
    """onnxruntime and the float64 run differ by more than rounding explains."""


def _largest(array: Array) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0)) or 1.0


def expected(model: onnx.ModelProto, feed: Arrays) -> Expected:
    """The float64 truth of a model and the tolerance of an fp32 run.

    Raises:
        DisagreementError: onnxruntime does not compute that.
        HubError: it cannot be evaluated in float64.
    """
    from edgepack.hub.reference import Float64Run

    known = all_values(model, feed)
    truth = Float64Run(model)(feed)
    moves = _moves(model, known, HALF_ULP["float32"])
    deviation = _deviation(Float64Run, model, feed, moves, known, truth)
    floors = {name: _MOVES_BY * HALF_ULP["float32"] * _largest(array) for name, array in truth.items()}
    held = {name: _MARGIN * (deviation[name] + floors[name]) * _SAFETY for name in truth}
    held = {name: np.where(deviation[name] > 0, np.inf, 0.0) if _is_whole(truth[name]) else held[name] for name in truth}
    wanted = Expected(truth, held)
    reason = next((f"{name}: {why}" for name in truth if (why := difference(known[name], truth[name], held[name]))), "")
    if reason:
        raise DisagreementError(reason)
    return wanted


# What is computed through numbers near 1 (exp(x) - 1, log(1 + x), 1 + erf(x)) is rounded as those are, however small it is itself.
_THROUGH_ONE = frozenset(
    {"Elu", "Softplus", "Mish", "Gelu", "Log", "LogSoftmax", "ReduceLogSum", "ReduceLogSumExp", "Sigmoid", "Tanh", "Erf"}
)


def _moves(model: onnx.ModelProto, known: Arrays, unit: float) -> dict[str, float]:
    """How far rounding moves each real number, by tensor: two units of what it is made of, the largest of the tensor at least."""
    found = {name: _largest(array) for name, array in known.items() if array.dtype == np.float32}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _THROUGH_ONE:
            found[node.output[0]] = max(1.0, found[node.output[0]])
        if node.op_type in ("InstanceNormalization", "LayerNormalization"):
            found[node.output[0]] = max(found[node.output[0]], _normalized(node, {**constants, **known}))
    return {name: _MOVES_BY * unit * size for name, size in found.items()}


def _normalized(node: onnx.NodeProto, known: Arrays) -> float:
    """The largest term of x * scale / deviation - mean * scale / deviation, as some kernels compute it."""
    held = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    x, scale = known[node.input[0]].astype(np.float64), known[node.input[1]]
    first = 2 if node.op_type == "InstanceNormalization" else held.get("axis", -1) % x.ndim
    deviation = np.sqrt(x.var(axis=tuple(range(first, x.ndim))).min() + held.get("epsilon", 1e-5))
    return float(np.abs(x).max() * np.abs(scale).max() / deviation)


def expected_codes(model: onnx.ModelProto, feed: Arrays, arithmetic: str) -> Expected:
    """What a quantized hub gives node by node in float arithmetic, and how far int8 kernels may be from it.

    Every tensor that a node computes (and does not only move) is moved by half a step before it becomes codes: each code may be one
    off. Where ``arithmetic`` is float16, every real number is moved by its rounding too.
    """
    from edgepack.hub.canonical import plain_session

    known = all_values(model, feed)
    truth = plain_session(model)(feed)
    unit = HALF_ULP[arithmetic]
    moves = _moves(model, known, unit)
    steps = _steps(model)
    written = {name: node.op_type for node in model.graph.node for name in node.output}
    for name, step in steps.items():
        if written.get(name, "input") not in (*MOVES, "input", "DequantizeLinear"):
            moves[name] = max(moves[name], _CODE_MOVES_BY * step)
    # What codes give is exact, and so is what only moves.
    moves = {name: held for name, held in moves.items() if written.get(name) not in (*MOVES, "DequantizeLinear")}
    deviation = _deviation(plain_session, model, feed, moves, known, truth)
    ends = _end_steps(model)
    held = {
        name: np.full(
            array.shape, 1.5 * deviation[name].max(initial=0) + _MARGIN**2 * unit * _largest(array) + _end(ends, name, deviation[name])
        )
        for name, array in truth.items()
    }
    return Expected(truth, held)


def _end(ends: Mapping[str, float], name: str, deviation: Array) -> float:
    """One step of an output's own codes, where anything before them rounds."""
    return 1.01 * ends.get(name, 0.0) if deviation.any() else 0.0


def _steps(model: onnx.ModelProto) -> dict[str, float]:
    """Scale by the tensor that a QuantizeLinear reads."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.input[0]: float(numpy_helper.to_array(held[node.input[1]]).max())
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def _end_steps(model: onnx.ModelProto) -> dict[str, float]:
    """Scale by the tensor that a DequantizeLinear writes."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    ends = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    return {node.output[0]: float(numpy_helper.to_array(held[node.input[1]]).max()) for node in ends}


def all_values(model: onnx.ModelProto, feed: Arrays) -> Arrays:
    """Every input and every node's result in onnxruntime."""
    from tests.fuzz.builder import run_model

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del extended.graph.output[:]
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return {**feed, **dict(zip(names, run_model(extended, feed), strict=True))}


def _deviation(
    load: Callable[[onnx.ModelProto], Callable[..., Mapping[str, Array]]],
    model: onnx.ModelProto,
    feed: Arrays,
    moves: Mapping[str, float],
    known: Arrays,
    truth: Arrays,
) -> Arrays:
    """The furthest each output number went from the truth over the repeats."""
    random = np.random.default_rng(0)
    furthest = {name: np.zeros(array.shape) for name, array in truth.items()}
    decides = any(_is_whole(array) for array in truth.values())
    for repeat in range(_REPEATS * (_MORE_WHERE_IT_DECIDES if decides else 1)):
        # Every move and then its opposite: of two numbers that tie, either the one or the other becomes the larger.
        if repeat % 2 == 0:
            noise = {
                name: size * random.choice([-1.0, 1.0], known[name].shape) * random.uniform(0.5, 1, known[name].shape)
                for name, size in moves.items()
            }
        moved, fed = _moved(model, feed, noise if repeat % 2 == 0 else {name: -array for name, array in noise.items()})
        results = load(moved)(fed)
        for name, held in furthest.items():
            apart = np.abs(results[name].astype(np.float64) - truth[name].astype(np.float64))
            np.maximum(held, np.where(np.isfinite(apart), apart, np.inf), out=held)
    return furthest


def _moved(model: onnx.ModelProto, feed: Arrays, noise: Mapping[str, Array]) -> tuple[onnx.ModelProto, Arrays]:
    """The model with an Add after each node's real result, its own name kept by what was moved, and the moved inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        added = [index for index, name in enumerate(node.output) if name in noise]
        for index in added:
            name = node.output[index]
            node.output[index] = f"{name}/unmoved"
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(noise[name], np.float32), f"{name}/noise"))
        copy.graph.node.append(node)
        for index in added:
            held = node.output[index]
            name = held.removesuffix("/unmoved")
            copy.graph.node.append(helper.make_node("Add", [held, f"{name}/noise"], [name], f"{name}/move"))
    return copy, {name: array + np.asarray(noise[name], array.dtype) if name in noise else array for name, array in feed.items()}


def _is_whole(array: Array) -> bool:
    return array.dtype.kind != "f"


def difference(given: Array, wanted: Array, tolerance: Array) -> str:
    """How a result is further from the wanted one than allowed, "" when it is not.

    Runtimes whose kernels flush subnormal numbers (TensorFlow Lite's, both releases) take what is below the smallest normal float32 for 0.
    """
    if given.shape != wanted.shape:
        return f"shape {given.shape}, not {wanted.shape}"
    apart = np.abs(given.astype(np.float64) - wanted.astype(np.float64))
    outside = ~(apart <= tolerance + np.finfo(np.float32).tiny)
    if not outside.any():
        return ""
    at = int(np.argmax(np.where(np.isnan(apart), np.inf, apart - np.where(np.isinf(tolerance), apart, tolerance))))
    told = f"{given.ravel()[at]!s} for {wanted.ravel()[at]!s}, at most {tolerance.ravel()[at]:.2g} apart"
    return f"{int(outside.sum())} of {wanted.size} differ, the worst at {at}: {told}"
