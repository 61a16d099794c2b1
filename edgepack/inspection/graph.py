"""One view of a graph for every format, and what is asked of it. Pure: no files, no frameworks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.inspection.facts import Quantization, Tensor, Weights

# How many constants are named.
_LARGEST = 5

# A weight that spans less than this part of its codes wastes a bit.
_HALF = 0.5

# A tensor with fewer codes says nothing about how well the codes are used.
_FEW = 16

# Lines about tensors of one kind before the rest is counted.
_LINES = 3


@dataclass(frozen=True)
class Scales:
    """How codes stand for reals: scales, the ``axis`` they run along (None for one scale), the ``block`` of elements that share one."""

    values: NDArray[np.float64]
    axis: int | None = None
    block: int = 0


@dataclass(frozen=True)
class Constant:
    """A stored tensor.

    Attributes:
        dtype: as stored ("int4", "lut4").
        codes: the integers, where they are codes and can be read; scales, zero_point: of codes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    codes: NDArray[Any] | None = None
    scales: Scales | None = None
    zero_point: NDArray[Any] | None = None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Call:
    """One operator: names of the computed tensors it reads, and of those it writes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str = "real"


@dataclass(frozen=True)
class Graph:
    """A file's computation.

    Attributes:
        calls: ``kind`` is "integer" for one that computes on codes, "conversion" between codes and reals, "real" for any other,
            "dynamic" for one that rounds its inputs to codes as it runs.
        constants: by name. activations: scales of computed tensors that hold codes, by name.
    """

    calls: tuple[Call, ...]
    constants: Mapping[str, Constant]
    activations: Mapping[str, Scales] = field(default_factory=dict)


# What runtimes fold into the integer operator before it, by its name in ONNX or in MIL.
_ACTIVATIONS = frozenset({"relu", "relu6", "clip", "leakyrelu", "leaky_relu", "sigmoid", "tanh", "hardswish"})


def fused(calls: Sequence[Call], quantizes: str, dequantizes: str) -> tuple[Call, ...]:
    """Calls of a graph that spells integer arithmetic as conversions around real operators, with those named "integer".

    That is what runtimes make of an operator whose computed inputs are all read from codes and whose results all go to codes, at once or
    through one activation.
    """
    producers = {name: call for call in calls for name in call.outputs}
    readers: dict[str, list[Call]] = {}
    for call in calls:
        for name in call.inputs:
            readers.setdefault(name, []).append(call)

    def after(call: Call) -> list[Call]:
        return [reader for name in call.outputs for reader in readers.get(name, ())]

    def goes_to_codes(call: Call) -> bool:
        return bool(after(call)) and all(reader.operator == quantizes for reader in after(call))

    found: list[Call] = []
    folded: set[str] = set()
    for call in calls:
        before = [producers[name].operator if name in producers else "" for name in call.inputs]
        activation = after(call)[0] if len(after(call)) == 1 else None
        is_fed = call.kind == "real" and bool(before) and all(name == dequantizes for name in before)
        folds = activation is not None and activation.operator.lower() in _ACTIVATIONS and goes_to_codes(activation)
        if is_fed and folds and activation is not None:
            folded.update(activation.outputs)
        is_integer = (is_fed and (goes_to_codes(call) or folds)) or any(name in folded for name in call.outputs)
        found.append(replace(call, kind="integer") if is_integer else call)
    return tuple(found)


def weights_by_dtype(constants: Iterable[Constant]) -> tuple[Weights, ...]:
    """The largest group first."""
    groups: dict[str, list[Constant]] = {}
    for held in constants:
        groups.setdefault(held.dtype, []).append(held)
    found = [Weights(dtype, len(held), sum(c.elements for c in held), sum(c.bytes for c in held)) for dtype, held in groups.items()]
    return tuple(sorted(found, key=lambda group: -group.bytes))


def largest(constants: Iterable[Constant]) -> tuple[Tensor, ...]:
    """The largest constants, in bytes."""
    chosen = sorted(constants, key=lambda held: -held.bytes)[:_LARGEST]
    return tuple(Tensor(held.name, held.dtype, held.shape, held.bytes) for held in chosen)


def quantization(graph: Graph) -> Quantization:
    """What can be told of a graph's codes."""
    coded = [held for held in graph.constants.values() if held.scales is not None and held.dtype != "int32"]
    integer = [call for call in graph.calls if call.kind == "integer"]
    return Quantization(
        scheme=_scheme(graph, coded),
        weights=len(coded),
        activations=len(graph.activations),
        per_tensor=sum(_sharing(held) == "tensor" for held in coded),
        per_channel=sum(_sharing(held) == "channel" for held in coded),
        blockwise=sum(_sharing(held) == "block" for held in coded),
        weight_scales=_span(held.scales for held in coded if held.scales is not None),
        activation_scales=_span(graph.activations.values()),
        islands=_islands(graph.calls) if integer else 0,
        real_between=_real_between(graph.calls) if integer else {},
        suspicious=(*_bad_scales(graph, coded), *_wasted_codes(coded)),
    )


def _sharing(held: Constant) -> str:
    """What shares a scale; "" where the scales are not known."""
    assert held.scales is not None
    if held.scales.block:
        return "block"
    if not held.scales.values.size:
        return ""
    return "tensor" if held.scales.axis is None or held.scales.values.size == 1 else "channel"


def _span(scales: Iterable[Scales]) -> tuple[float, float] | None:
    values = np.concatenate([np.zeros(0), *(held.values.ravel() for held in scales)])
    kept = values[np.isfinite(values)]
    return (float(kept.min()), float(kept.max())) if kept.size else None


# Below this many elements a half is a parameter, not a weight.
_SMALLEST_WEIGHT = 64
_WHOLE = {"int8": "8", "uint8": "8", "int4": "4", "uint4": "4", "int2": "2", "uint2": "2"}


def _scheme(graph: Graph, coded: Sequence[Constant]) -> str:
    """The name of edgepack's grammar for what a graph does, a phrase where it has none."""
    if any(held.dtype.startswith("lut") for held in graph.constants.values()):
        return "weights in a lookup table"
    bits = {_WHOLE.get(held.dtype, held.dtype) for held in coded if held.elements >= _FEW}
    kinds = {call.kind for call in graph.calls}
    if not bits:
        if "integer" in kinds:
            return "static codes without coded weights"
        real = [
            held for held in graph.constants.values() if held.elements >= _SMALLEST_WEIGHT and held.dtype.startswith(("float", "bfloat"))
        ]
        halves = sum(held.bytes for held in real if held.dtype == "float16")
        return "fp16" if halves > sum(held.bytes for held in real) / 2 else "fp32"
    if len(bits) > 1:
        return f"mixed: weights of {' and '.join(sorted(bits))} bits"
    blocks = {held.scales.block for held in coded if held.scales is not None and held.scales.block}
    activations = "a8" if "integer" in kinds else "d8" if "dynamic" in kinds else ""
    return f"w{bits.pop()}{activations}{f'b{blocks.pop()}' if len(blocks) == 1 else ''}"


def _islands(calls: Sequence[Call]) -> int:
    """Integer operators that codes connect, as groups; a conversion's two sides are one tensor."""
    owner: dict[str, str] = {}

    def root(name: str) -> str:
        while owner.get(name, name) != name:
            # Halving the path keeps long chains quick.
            owner[name] = owner.get(owner[name], owner[name])
            name = owner[name]
        return name

    for call in calls:
        if call.kind in ("conversion", "integer"):
            names = [*call.inputs[:1], *call.outputs] if call.kind == "conversion" else [*call.inputs, *call.outputs]
            for name in names[1:]:
                owner[root(name)] = root(names[0])
    return len({root(call.outputs[0]) for call in calls if call.kind == "integer" and call.outputs})


def _real_between(calls: Sequence[Call]) -> dict[str, int]:
    """Real operators that come after codes and before codes: each pair of conversions around them costs time and a rounding."""
    after = _reached(list(calls), forward=True)
    before = _reached(list(reversed(calls)), forward=False)
    found = Counter(call.operator for index, call in enumerate(calls) if call.kind == "real" and index in after and index in before)
    return dict(found.most_common())


def _reached(calls: Sequence[Call], forward: bool) -> set[int]:
    """Positions (in file order) of real operators that integer ones reach through real ones and conversions."""
    seen: set[str] = set()
    reached: set[int] = set()
    for position, call in enumerate(calls):
        entering, leaving = (call.inputs, call.outputs) if forward else (call.outputs, call.inputs)
        index = position if forward else len(calls) - 1 - position
        if call.kind == "integer":
            seen.update(leaving)
        elif any(name in seen for name in entering):
            reached.add(index)
            seen.update(leaving)
    return reached


def _bad_scales(graph: Graph, coded: Sequence[Constant]) -> list[str]:
    scales = [(held.name, held.scales) for held in coded if held.scales is not None] + list(graph.activations.items())
    bad = [name for name, held in scales if not (np.isfinite(held.values).all() and (held.values > 0).all())]
    return _few([f"a scale of '{name}' is zero, negative or not finite" for name in bad], "tensors with such scales")


def _wasted_codes(coded: Sequence[Constant]) -> list[str]:
    lines = []
    for held in coded:
        if held.codes is None or held.codes.size < _FEW or held.dtype not in _WHOLE:
            continue
        wasted, channels = _channels_below_half(held)
        if wasted and wasted == channels:
            low, high = int(held.codes.min()), int(held.codes.max())
            lines.append(f"'{held.name}' uses codes {low}..{high}, less than half of {held.dtype}")
        elif wasted > channels * _HALF:
            lines.append(f"'{held.name}': {wasted} of {channels} channels use less than half of their codes")
    return _few(lines, "weights that use less than half of their codes")


def _channels_below_half(held: Constant) -> tuple[int, int]:
    """(channels whose largest code, from the zero point, is below half of what is there; all channels)."""
    assert held.codes is not None and held.scales is not None
    axis = held.scales.axis if _sharing(held) == "channel" else None
    centre = 0 if held.zero_point is None or held.zero_point.size != 1 else int(held.zero_point.ravel()[0])
    codes = held.codes.astype(np.int64) - centre
    rows = codes.reshape(1, -1) if axis is None else np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
    bits = int(_WHOLE[held.dtype])
    extent = np.abs(rows).max(axis=1)
    # An all-zero channel has nothing to say in codes.
    return int(((extent < 2 ** (bits - 1) * _HALF) & (extent > 0)).sum()), len(rows)


def _few(lines: list[str], rest: str) -> list[str]:
    more = len(lines) - _LINES
    return lines if more <= 0 else [*lines[:_LINES], f"and {more} more {rest}"]
