"""Programs that were lowered at single sizes, compared operation by operation, and how their numbers follow from the sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from edgepack.backends.coreml.emitter import Var
from edgepack.backends.coreml.frontend import Built
from edgepack.backends.table import BackendError

HINT = "give the size a fixed value (leave it out of the student's sizes)"
# Two values fix a line; a third shows that it is one.
_LEAST_VALUES = 3

# Where a value comes from: an input of the program by its place (-1, place), or an output of an operation (operation, output).
Place = tuple[int, int]
# Open dimension's name -> its size.
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Probe:
    """A program lowered at single sizes."""

    sizes: Sizes
    built: Built


@dataclass(frozen=True)
class Node:
    """An operation of a program: coremltools' own, the places that its parameters read, and which of them take several values."""

    held: Any
    reads: Mapping[str, tuple[Place, ...]]
    variadic: frozenset[str]

    @property
    def type(self) -> str:
        """MIL's name of it."""
        return str(self.held.op_type)

    def refusal(self, cause: str) -> BackendError:
        """The error to raise when it cannot be the same operation at every size."""
        return BackendError(f"coreml: {self.type} '{self.held.name}' {cause}", HINT)


@dataclass(frozen=True)
class Nodes:
    """A program as places: its operations in order, and where its outputs come from."""

    operations: tuple[Node, ...]
    outputs: tuple[Place, ...]


@dataclass(frozen=True)
class Observation:
    """What one probe has that may differ from another's.

    Attributes:
        sizes: of the open dimensions.
        shapes: of every value.
        constants: by place, those that are not the widest probe's.
    """

    sizes: Sizes
    shapes: Mapping[Place, tuple[int, ...]]
    constants: Mapping[Place, Any]


def nodes_of(built: Built) -> Nodes:
    """A program as places.

    Raises:
        BackendError: an operation has others inside.
    """
    function = built.program.functions["main"]
    places = {id(variable): (-1, at) for at, variable in enumerate(function.inputs.values())}
    operations = []
    for index, operation in enumerate(function.operations):
        given = {name: held for name, held in operation.inputs.items() if held is not None}
        variadic = frozenset(name for name, held in given.items() if isinstance(held, list | tuple))
        reads = {name: tuple(places[id(value)] for value in (held if name in variadic else (held,))) for name, held in given.items()}
        operations.append(Node(operation, reads, variadic))
        if operation.blocks:
            raise operations[-1].refusal("has operations inside, which are not compared between sizes")
        places.update({id(variable): (index, at) for at, variable in enumerate(operation.outputs)})
    return Nodes(tuple(operations), tuple(places[id(variable)] for variable in function.outputs))


def observe(probe: Probe, widest: Nodes) -> Observation:
    """Compare a probe with the widest one.

    Raises:
        BackendError: it has other operations, or other values lead to them.
    """
    found = nodes_of(probe.built)
    _demand_same(found, widest, probe.sizes)
    shapes = {(-1, at): _shape(variable) for at, variable in enumerate(probe.built.program.functions["main"].inputs.values())}
    constants: dict[Place, Any] = {}
    for index, (node, other) in enumerate(zip(found.operations, widest.operations, strict=True)):
        shapes.update({(index, at): _shape(variable) for at, variable in enumerate(node.held.outputs)})
        if node.type == "const" and not _equal(node.held.outputs[0].val, other.held.outputs[0].val):
            constants[index, 0] = node.held.outputs[0].val
    return Observation(probe.sizes, shapes, constants)


def _demand_same(found: Nodes, widest: Nodes, sizes: Sizes) -> None:
    at = "at " + told(sizes)
    for ours, theirs in zip(found.operations, widest.operations, strict=False):
        if ours.type != theirs.type:
            raise theirs.refusal(f"is a {ours.type} {at}")
        if ours.reads != theirs.reads or len(ours.held.outputs) != len(theirs.held.outputs):
            raise theirs.refusal(f"reads other values {at}")
    if len(found.operations) != len(widest.operations) or found.outputs != widest.outputs:
        raise BackendError(f"coreml: the program has {len(found.operations)} operations {at}, and {len(widest.operations)} at others", HINT)


def told(sizes: Sizes) -> str:
    """Sizes for a message: "batch 2, sequence 7"."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _shape(variable: Var) -> tuple[int, ...]:
    return tuple(int(size) for size in variable.shape)


def _equal(found: Any, want: Any) -> bool:
    """The same type, shape and bits."""
    ours, theirs = np.asarray(found), np.asarray(want)
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


@dataclass(frozen=True)
class Measure:
    """A number known when the model runs, and what it is in every probe: the product of the open ``symbols``, or without them the size of
    the value at ``place`` along ``axis``.
    """

    values: tuple[int, ...]
    symbols: tuple[str, ...] = ()
    place: Place = (-1, 0)
    axis: int = 0


@dataclass(frozen=True)
class Line:
    """``factor * measure + offset``."""

    measure: Measure
    factor: int
    offset: int

    def at(self, sizes: Sizes) -> int:
        """What it is where the open sizes, which it must be a line of, are these."""
        return self.factor * prod(sizes[symbol] for symbol in self.measure.symbols) + self.offset


def line_through(values: Sequence[int], measures: Iterable[Measure]) -> Line | None:
    """The values as a line of the first of ``measures`` that they are one of, with whole factor and offset; None when there is none."""
    for measure in measures:
        pairs = sorted(set(zip(measure.values, values, strict=True)))
        if len(set(measure.values)) < _LEAST_VALUES or pairs[0][0] == pairs[-1][0]:
            continue
        (low, first), (high, last) = pairs[0], pairs[-1]
        factor, rest = divmod(last - first, high - low)
        offset = first - factor * low
        if not rest and all(value == factor * size + offset for size, value in pairs):
            return Line(measure, factor, offset)
    return None


def symbol_measures(observations: Sequence[Observation]) -> list[Measure]:
    """Every product of different open sizes, single ones first."""
    names = list(observations[0].sizes)
    groups = [group for count in range(1, len(names) + 1) for group in combinations(names, count)]
    return [Measure(tuple(prod(seen.sizes[name] for name in group) for seen in observations), group) for group in groups]


def axis_measures(places: Iterable[Place], observations: Sequence[Observation]) -> list[Measure]:
    """The sizes of these values along their axes, where they differ between probes."""
    found = [
        Measure(tuple(seen.shapes[place][axis] for seen in observations), (), place, axis)
        for place in places
        for axis in range(len(observations[0].shapes[place]))
    ]
    return [measure for measure in found if len(set(measure.values)) > 1]
