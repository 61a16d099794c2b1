"""Constraints: what every selected target demands of the encodings, resolved before a single code exists.

Hub activations are uint8. Tensors that a runtime moves without rescaling share one encoding; Sigmoid, Softmax and Tanh outputs have the
encoding their kernels prescribe; scales that Core ML computes in fp16 are rounded to fp16 first. The pack records the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.calibration.observe import Ranges
from edgepack.errors import InputError
from edgepack.hub.graph import constant
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.placement import (
    FIXED_OUTPUT,
    FUNCTIONS,
    LINEAR,
    SAME_ENCODING,
    activation_inputs,
    codes_arrive,
    ends_as_output,
    fuses,
)

if TYPE_CHECKING:
    import onnx_ir as ir

# Below 2^-14 an fp16 number is subnormal; hardware may flush it to zero, and a scale of zero erases its channel.
SMALLEST_FP16_NORMAL = 2.0**-14
# Half of what int32 holds: the other half is room for bias correction and for the rounding of scales.
_LARGEST_BIAS_CODE = 2**30
# What joining tensors may cost the narrowest of them at the edge of the graph, where real numbers cost nothing: two of its eight bits. A
# detector that joins coordinates in pixels with scores of a few units would otherwise read zero for every score.
_WIDEST_JOIN = 2.0**2
# TFLite: logistic.cc and tanh prepare demand 1/256 with int8 zero point -128, and 1/128 with 0; as uint8 codes these are 0 and 128.
PRESCRIBED = {"Sigmoid": (1 / 256, 0), "Tanh": (1 / 128, 128)}


class QuantizeError(InputError):
    """A model or its ranges that a scheme cannot hold."""


class Demands(msgspec.Struct, frozen=True):
    """What the selected targets need of every scale.

    Attributes:
        scale_dtype: "float16" when any target computes scales in fp16, else "float32".
        method: "minmax" or "mse", how activation ranges become encodings.
        targets: the targets that compute scales in fp16, to be named in reasons.
    """

    scale_dtype: str = "float32"
    method: str = "minmax"
    targets: tuple[str, ...] = ()


class ActivationEncoding(msgspec.Struct, frozen=True):
    """The resolved encoding of one activation: uint8, real = scale * (code - zero_point)."""

    scale: float
    zero_point: int

    def encoding(self) -> Encoding:
        """As arrays."""
        return Encoding(np.asarray(self.scale, np.float32), np.asarray(self.zero_point, np.uint8), "uint8")


class Constraints(msgspec.Struct, frozen=True):
    """The resolved encodings of a scheme.

    Attributes:
        activations: by hub value name.
        groups: sets of values that share one encoding, and which node makes them.
        real: nodes that stay real although an integer kernel exists, with the reason.
        adopted: whether the encodings are the student's own, from its training.
    """

    demands: Demands
    activations: dict[str, ActivationEncoding]
    groups: tuple[tuple[str, ...], ...]
    real: dict[str, str]
    adopted: bool = False


@dataclass(frozen=True)
class _Group:
    values: tuple[str, ...]
    prescribed: tuple[float, int] | None


def resolve(nodes: Iterable[ir.Node], ranges: Ranges, demands: Demands) -> tuple[Constraints, list[ir.Node]]:
    """Encodings for every tensor that the integer nodes read or write.

    Args:
        nodes: what placement chose, in graph order.

    Returns:
        The constraints, and the nodes that remain integer: a node whose tensors no encoding holds together, or whose scales fp16 cannot
        hold, is left real.

    Raises:
        QuantizeError: a tensor has no observed range.
    """
    real: dict[str, str] = {}
    kept, groups = _tied(nodes, ranges, demands, real)
    while lost := _underflows(kept, groups, ranges, demands):
        real.update(lost)
        kept, groups = _tied((node for node in kept if node.name not in lost), ranges, demands, real)
    _refuse_overflow(groups, ranges, demands)
    activations = {name: _encode(group, ranges, demands) for group in groups for name in group.values}
    shared = tuple(group.values for group in groups if len(group.values) > 1)
    return Constraints(demands, activations, shared, real), kept


def _tied(nodes: Iterable[ir.Node], ranges: Ranges, demands: Demands, real: dict[str, str]) -> tuple[list[ir.Node], list[_Group]]:
    """The nodes that can be tied and the groups they tie; why a node cannot goes into ``real``."""
    ties = _Ties(lambda name: _bounds(name, ranges, demands.method))
    kept: list[ir.Node] = []
    held: set[int] = set()
    for node in nodes:
        clash = _is_unfed(node, held) or _is_drowned(node, ranges, demands) or ties.add(node)
        if clash:
            real[node.name or ""] = clash
        else:
            kept.append(node)
            held.add(id(node))
    return kept, ties.groups(value for node in kept for value in touched_values(node))


def _is_unfed(node: ir.Node, held: set[int]) -> str:
    """Why a node that only moves or reads codes has none to take since the one before it stayed real, or ""."""
    if node.op_type not in SAME_ENCODING | FUNCTIONS or codes_arrive(node, held):
        return ""
    return "what it reads stays real"


def _is_drowned(node: ir.Node, ranges: Ranges, demands: Demands) -> str:
    """Why a Concat on its way out of the graph would lose one of its tensors in the range of another, or ""."""
    if node.op_type != "Concat" or not ends_as_output(node):
        return ""
    spans = {value.name or "": _span(*_bounds(value.name or "", ranges, demands.method)) for value in activation_inputs(node)}
    narrow, wide = min(spans, key=lambda name: spans[name]), max(spans, key=lambda name: spans[name])
    if spans[narrow] == 0 or spans[wide] <= _WIDEST_JOIN * spans[narrow]:
        return ""
    return f"the range of '{wide}' is {spans[wide] / spans[narrow]:.0f} times that of '{narrow}', whose codes it would leave too few of"


def _span(low: float, high: float) -> float:
    """The width of the range that codes cover: zero is always in it."""
    return max(high, 0.0) - min(low, 0.0)


def _underflows(kept: list[ir.Node], groups: list[_Group], ranges: Ranges, demands: Demands) -> dict[str, str]:
    """Nodes that lose their numbers because fp16 holds no scale as small as theirs, with the reason."""
    if demands.scale_dtype != "float16":
        return {}
    short = {name for group in groups if _is_short(group, ranges, demands) for name in group.values}
    found: dict[str, str] = {}
    for node in kept:
        name = next((name for name in touched_values(node) if name in short), "")
        if name:
            found[node.name or ""] = f"'{name}' has a range so small that its scale is no fp16 number"
        elif node.op_type in LINEAR and _weights_underflow(node, ranges):
            found[node.name or ""] = "its weights are so small that their scales are no fp16 numbers"
    return found


def _refuse_overflow(groups: list[_Group], ranges: Ranges, demands: Demands) -> None:
    """QuantizeError for a tensor that reaches beyond the numbers a target computes in."""
    limit = float(np.finfo(demands.scale_dtype).max)
    for name in (name for group in groups for name in group.values):
        reach = max(map(abs, _bounds(name, ranges, demands.method)))
        if reach > limit:
            targets = ", ".join(demands.targets) or "a target"
            raise QuantizeError(
                f"tensor '{name}' reaches {reach:.3g}, beyond {demands.scale_dtype}, in which one of {targets} computes w8a8",
                "scale the student's numbers down, or build that target with scheme fp32",
            )


def _is_short(group: _Group, ranges: Ranges, demands: Demands) -> bool:
    """Whether a range that is not empty needs a scale below the smallest normal fp16 number."""
    if group.prescribed is not None:
        return False
    low, high = _joint_bounds(group, ranges, demands)
    return 0 < _span(low, high) < 255 * SMALLEST_FP16_NORMAL


def _weights_underflow(node: ir.Node, ranges: Ranges) -> bool:
    """Whether fp16's smallest scale costs an output channel more than one code of the output.

    A weight held at scale s is off by s / sqrt(12), a sum of K of them by sqrt(K) times that; a channel whose weights all round to zero
    loses no more than their whole sum. Channels that training or a folded BatchNormalization has silenced lose nothing that counts.
    """
    source, weight = node.inputs[0], constants_of(node)["weight"].astype(np.float64)
    assert source is not None
    magnitudes = np.abs(np.moveaxis(weight, channel_axis(node), 0).reshape(weight.shape[channel_axis(node)], -1))
    floored = magnitudes[(magnitudes.max(axis=1) > 0) & (magnitudes.max(axis=1) < 127 * SMALLEST_FP16_NORMAL)]
    rounding = SMALLEST_FP16_NORMAL * np.sqrt(magnitudes.shape[1] / 12)
    reach = max(map(abs, _bounds(source.name or "", ranges, "minmax")))
    step = affine(*_bounds(_written(node), ranges, "minmax")).scale
    return bool((np.minimum(rounding, floored.sum(axis=1)) * reach > step).any())


def _written(node: ir.Node) -> str:
    """Name of the tensor a node leaves as codes: its output, or that of the activation folded into it."""
    value = node.outputs[0]
    return (next(iter(value.uses())).node.outputs[0] if _is_inside_fusion(value) else value).name or ""


def channel_axis(node: ir.Node) -> int:
    """The axis of a linear node's weight that counts its output channels: (K, N) of MatMul, (C_in, C_out, ...) of ConvTranspose."""
    return 1 if node.op_type in ("MatMul", "ConvTranspose") else 0


def touched_values(node: ir.Node) -> list[str]:
    """Names of the activations a node holds as codes: its inputs and outputs, but nothing between it and a fused activation."""
    inputs = [value for value in activation_inputs(node) if not _is_inside_fusion(value)]
    outputs = [value for value in node.outputs if not _is_inside_fusion(value)]
    return [value.name or "" for value in (*inputs, *outputs)]


def _is_inside_fusion(value: ir.Value) -> bool:
    producer, uses = value.producer(), list(value.uses())
    return producer is not None and len(uses) == 1 and fuses(producer, uses[0].node)


class _Ties:
    """Union-find over value names, each set with at most one prescribed encoding."""

    def __init__(self, bounds: Callable[[str], tuple[float, float]]) -> None:
        self._bounds = bounds
        self._parent: dict[str, str] = {}
        self._prescribed: dict[str, tuple[float, int]] = {}

    def add(self, node: ir.Node) -> str | None:
        """Tie what the node ties; answer why it cannot, having changed nothing."""
        if node.op_type in FIXED_OUTPUT:
            return self._prescribe(node.outputs[0].name or "", PRESCRIBED[node.op_type])
        if node.op_type in SAME_ENCODING:
            return self._tie(touched_values(node))
        return None

    def _prescribe(self, name: str, encoding: tuple[float, int]) -> str | None:
        held = self._prescribed.setdefault(self._find(name), encoding)
        return None if held == encoding else f"'{name}' would need two encodings"

    def _tie(self, names: list[str]) -> str | None:
        roots = {self._find(name) for name in names}
        encodings = {self._prescribed[root] for root in roots if root in self._prescribed}
        if len(encodings) > 1:
            return f"it joins tensors whose kernels prescribe different encodings ({', '.join(names)})"
        clipped = next((name for encoding in encodings for name in self._members(roots) if not _holds(encoding, self._bounds(name))), "")
        if clipped:
            return f"it joins '{clipped}' with a tensor whose kernel prescribes a range too narrow for it"
        first, *others = sorted(roots)
        for other in others:
            self._parent[other] = first
        if encodings:
            self._prescribed[first] = encodings.pop()
        return None

    def _members(self, roots: set[str]) -> list[str]:
        return [name for name in list(self._parent) if self._find(name) in roots]

    def _find(self, name: str) -> str:
        while (parent := self._parent.setdefault(name, name)) != name:
            name = parent
        return name

    def groups(self, names: Iterable[str]) -> list[_Group]:
        members: dict[str, dict[str, None]] = {}
        for name in names:
            members.setdefault(self._find(name), {})[name] = None
        return [_Group(tuple(values), self._prescribed.get(root)) for root, values in members.items()]


def _encode(group: _Group, ranges: Ranges, demands: Demands) -> ActivationEncoding:
    if group.prescribed is not None:
        return ActivationEncoding(*group.prescribed)
    return affine(*_joint_bounds(group, ranges, demands), demands.scale_dtype)


def _joint_bounds(group: _Group, ranges: Ranges, demands: Demands) -> tuple[float, float]:
    """The range that covers every value of a group."""
    bounds = [_bounds(name, ranges, demands.method) for name in group.values]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _holds(encoding: tuple[float, int], bounds: tuple[float, float]) -> bool:
    """Whether uint8 codes of a prescribed encoding reach both bounds, to within one step (a Sigmoid's 1 is held as 255/256)."""
    scale, zero_point = encoding
    return -scale * (zero_point + 1) <= bounds[0] and bounds[1] <= scale * (256 - zero_point)


def _bounds(name: str, ranges: Ranges, method: str) -> tuple[float, float]:
    held = ranges.tensors.get(name)
    if held is None:
        raise QuantizeError(f"tensor '{name}' has no calibrated range", "calibrate the hub that is being quantized")
    return held.bounds(method)


def affine(low: float, high: float, scale_dtype: str = "float32") -> ActivationEncoding:
    """The uint8 encoding of a range: zero is always a code, so that padding is exact (Jacob et al. 2018, eq. 1 and section 3).

    With a scale rounded to fp16 the range may end half a step short; scales are rounded up to the next fp16 number to avoid that.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(round_scales(np.asarray((high - low) / 255 or 1.0), scale_dtype))
    return ActivationEncoding(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def round_scales(scales: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Scales as float32 numbers that ``dtype`` holds exactly, rounded up and never below the smallest normal number."""
    if dtype == "float32":
        plain: NDArray[np.float32] = np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)
        return plain
    rounded = np.maximum(scales, SMALLEST_FP16_NORMAL).astype(np.float16)
    short = rounded.astype(np.float64) < scales
    result: NDArray[np.float32] = np.where(short, np.nextafter(rounded, np.float16(np.inf)), rounded).astype(np.float32)
    return result


def weight_encoding(weight: NDArray[Any], axis: int, bias: NDArray[Any] | None, input_scale: float, demands: Demands) -> Encoding:
    """Symmetric int8 codes in [-127, 127], a scale for each channel along ``axis``.

    A channel's scale is also kept large enough that its int32 bias, held at input_scale * scale, cannot overflow. A channel of zeros
    takes the largest scale of the others: any would do for its weights, but its bias is held in steps of input_scale * scale.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float64)
    scales = np.where(largest > 0, largest, largest.max() or 1.0) / 127
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (input_scale * _LARGEST_BIAS_CODE))
    rounded = round_scales(scales, demands.scale_dtype)
    return Encoding(rounded, np.zeros(rounded.shape, np.int8), "int8", axis)


# A weight that fp16's smallest scale makes twice as wrong (6 dB, a whole bit) stays real.
_ALLOWED_FP16_LOSS = 2.0**2


def erased(weight: NDArray[Any], encoding: Encoding, demands: Demands) -> bool:
    """Whether scales raised to fp16's smallest normal number cost a weight without bias too much.

    A weight held at scale s is off by s / sqrt(12): the error powers of the scales held and of those wished for are compared over all
    channels, so that channels training has silenced count for as little as they matter.
    """
    if demands.scale_dtype != "float16" or encoding.axis is None:
        return False
    wished = weight_encoding(weight, encoding.axis, None, 1.0, Demands()).scale.astype(np.float64)
    floored = np.maximum(wished, SMALLEST_FP16_NORMAL)
    return bool(np.square(floored).sum() > _ALLOWED_FP16_LOSS * np.square(wished).sum())


def constants_of(node: ir.Node) -> Mapping[str, NDArray[Any]]:
    """Weight and bias of a linear node, by role."""
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    found = {"weight": weight, "bias": bias}
    return {role: array for role, array in found.items() if array is not None}
