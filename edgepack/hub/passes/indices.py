"""Elements taken and put by index, said with Gather over rows: for formats that have no operator of the same meaning.

Indices of several dimensions become the one number of a row: what they are multiplied by is known, as every shape is. Negative ones count
from the end, as ONNX has it. onnxruntime runs the operators as they are, so these spellings are made by the backends that need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

# A reduction by rows computed at run time compares every update with every row: 16 M comparisons are some ten milliseconds.
_MOST_COMPARED = 2**24
# TensorProto's numbers for element types.
_INT32, _INT64, _BOOL = 6, 7, 9


def gather_elements(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX GatherElements-13: the place along ``axis`` is the index, that along every other axis the index's own."""
    x, indices = node.inputs[:2]
    shape, taken = known_shape(x), known_shape(indices)
    if x is None or indices is None or shape is None or taken is None or 0 in (*shape, *taken):
        return None
    places = _along(indices, shape, taken, attribute(node, "axis", 0) % len(shape), spell)
    found = spell("Gather", spell("Reshape", x, spell.integers(-1)), places, axis=0)
    return [spell("Reshape", found, spell.integers(*taken))]


def gather_nd(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX GatherND-13: the last axis of the indices is a place in the data after its first ``batch_dims`` axes, which go together."""
    x, indices = node.inputs[:2]
    shape, taken, batch = known_shape(x), known_shape(indices), attribute(node, "batch_dims", 0)
    if x is None or indices is None or shape is None or taken is None or 0 in (*shape, *taken):
        return None
    sizes, rest = shape[batch : batch + taken[-1]], shape[batch + taken[-1] :]
    count, images = prod(taken[:-1]), prod(shape[:batch])
    begins = np.repeat(np.arange(images) * prod(sizes), count // images)
    places = _rows(indices, sizes, begins, spell)
    found = spell("Gather", spell("Reshape", x, spell.integers(images * prod(sizes), *_row(rest))), places, axis=0)
    return [spell("Reshape", found, spell.integers(*taken[:-1], *rest))]


def scatter_elements(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX ScatterElements-18 as ScatterND over the flat tensor."""
    x, indices, updates = node.inputs[:3]
    shape, taken = known_shape(x), known_shape(indices)
    if x is None or indices is None or shape is None or taken is None or 0 in (*shape, *taken):
        return None
    places = _along(indices, shape, taken, attribute(node, "axis", 0) % len(shape), spell)
    flat = [spell("Reshape", value, spell.integers(-1)) for value in (x, updates)]
    rows = _fixed(places, (prod(taken), 1), spell)
    scattered = spell("ScatterND", flat[0], rows, flat[1], reduction=attribute(node, "reduction", "none"))
    return [spell("Reshape", scattered, spell.integers(*shape))]


def scatter_nd(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX ScatterND-18 by a Gather where the indices are known, else by the one scatter that a format has: sums over zeros.

    Of known indices that are equal the last counts; of those computed at run time ONNX wants no two equal unless there is a reduction.
    """
    data, indices, updates = node.inputs[:3]
    shape, taken = known_shape(data), known_shape(indices)
    if data is None or indices is None or updates is None or shape is None or taken is None or 0 in (*shape, *taken):
        return None
    rows, count, row = prod(shape[: taken[-1]]), prod(taken[:-1]), _row(shape[taken[-1] :])
    places = _rows(indices, shape[: taken[-1]], np.zeros(count, np.int64), spell)
    held = spell("Reshape", data, spell.integers(rows, *row))
    fresh = spell("Reshape", updates, spell.integers(count, *row))
    scatter = _Scatter(spell, (rows, *row), count, dtype_name(data), attribute(node, "reduction", "none"))
    known = constant(places)
    scattered = scatter.known(held, fresh, known) if known is not None else scatter.computed(held, fresh, places)
    return None if scattered is None else [spell("Reshape", scattered, spell.integers(*shape))]


# How two numbers are joined, and many.
_JOINS = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
_REDUCTIONS = {"mul": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}


@dataclass(frozen=True)
class _Scatter:
    """Updates (count, *row) put into rows ``shape`` of type ``dtype``."""

    spell: Spelling
    shape: tuple[int, ...]
    count: int
    dtype: str
    reduction: str

    def known(self, held: ir.Value, fresh: ir.Value, places: NDArray[np.int64]) -> ir.Value:
        """One choice among old and new rows, or a round for each time that a place is joined with another update."""
        spell, rows = self.spell, self.shape[0]
        if self.reduction == "none":
            chosen = np.arange(rows)
            chosen[places] = rows + np.arange(self.count)
            return spell("Gather", spell("Concat", held, fresh, axis=0), spell.integers(*chosen), axis=0)
        spare = spell.constant(np.full((1, *self.shape[1:]), self._neutral), self.dtype)
        options = spell("Concat", fresh, spare, axis=0)
        for chosen in _rounds(places, rows):
            held = spell(_JOINS[self.reduction], held, spell("Gather", options, spell.integers(*chosen), axis=0))
        return held

    def computed(self, held: ir.Value, fresh: ir.Value, places: ir.Value) -> ir.Value | None:
        """The same for places of run time; None where that would take too long."""
        if self.dtype == "bool":
            whole = replace(self, dtype="int32")
            old, new = (self.spell("Cast", value, to=_INT32) for value in (held, fresh))
            result = whole.computed(old, new, places)
            return None if result is None else self.spell("Cast", result, to=_BOOL)
        if self.reduction == "none":
            return self._overwritten(held, fresh, places)
        if self.reduction == "add":
            return self.spell("Add", held, self._summed(fresh, places, self.shape, self.dtype))
        return self._joined(held, fresh, places)

    @property
    def _neutral(self) -> float | int:
        """What a number joined with it stays."""
        if self.reduction in ("add", "mul"):
            return int(self.reduction == "mul")
        limits = (-np.inf, np.inf) if np.dtype(self.dtype).kind == "f" else (np.iinfo(np.int32).min, np.iinfo(np.int32).max)
        return limits[self.reduction == "min"]

    def _summed(self, fresh: ir.Value, places: ir.Value, shape: tuple[int, ...], dtype: str) -> ir.Value:
        """Updates added up in rows of zeros."""
        column = self.spell("Unsqueeze", places, self.spell.integers(1))
        return self.spell("ScatterND", self.spell.constant(np.zeros(shape), dtype), column, fresh, reduction="add")

    def _overwritten(self, held: ir.Value, fresh: ir.Value, places: ir.Value) -> ir.Value:
        spell, rows = self.spell, self.shape[0]
        counts = self._summed(spell.constant(np.ones(self.count), np.int32), places, (rows,), "int32")
        hits = spell("Greater", spell("Reshape", counts, spell.integers(rows, *[1] * (len(self.shape) - 1))), spell.constant(0, np.int32))
        return spell("Where", hits, self._summed(fresh, places, self.shape, self.dtype), held)

    def _joined(self, held: ir.Value, fresh: ir.Value, places: ir.Value) -> ir.Value | None:
        """Every update against every row: those that are for the row are joined, the others are neutral."""
        spell, ones = self.spell, [1] * (len(self.shape) - 1)
        if self.count * prod(self.shape) > _MOST_COMPARED:
            return None
        column = spell("Reshape", places, spell.integers(self.count, 1, *ones))
        meant = spell("Equal", column, spell.constant(np.arange(self.shape[0]).reshape(1, -1, *ones), np.int64))
        each = spell("Where", meant, spell("Unsqueeze", fresh, spell.integers(1)), spell.constant(self._neutral, self.dtype))
        best = spell(_REDUCTIONS[self.reduction], each, spell.integers(0), keepdims=0)
        return spell(_JOINS[self.reduction], held, best)


def _rounds(places: NDArray[np.int64], rows: int) -> list[NDArray[np.int64]]:
    """For each round the update that a row is joined with, ``len(places)`` for none; every update is in one round."""
    rounds: list[NDArray[np.int64]] = []
    for update, place in enumerate(places.tolist()):
        free = next((held for held in rounds if held[place] == len(places)), None)
        if free is None:
            rounds.append(free := np.full(rows, len(places), np.int64))
        free[place] = update
    return rounds


def scatter_leading_rows(node: ir.Node, spell: Spelling) -> Values | None:
    """A ScatterND that joins update i to row i, for all i up to some number, is elementwise.

    onnxscript's optimizer (0.7.2) takes one of all rows for a plain copy of the updates, whatever its reduction.
    """
    data, updates, places = node.inputs[0], node.inputs[2], constant(node.inputs[1])
    join, shape = _JOINS.get(attribute(node, "reduction", "none")), known_shape(data)
    if join is None or places is None or not np.array_equal(places, np.arange(len(places))[:, None]):
        return None
    count = len(places)
    if shape is not None and shape[0] == count:
        return [spell(join, data, updates)]
    axis, last = spell.integers(0), spell.integers(np.iinfo(np.int64).max)
    head = spell(join, spell("Slice", data, spell.integers(0), spell.integers(count), axis), updates)
    return [spell("Concat", head, spell("Slice", data, spell.integers(count), last, axis), axis=0)]


def one_hot(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX OneHot-11: indices compared with every class; one outside [-depth, depth - 1] is no class. Real indices lose their fraction."""
    indices, _, values = node.inputs[:3]
    shape, depth = known_shape(indices), constant(node.inputs[1])
    if indices is None or shape is None or depth is None or values is None:
        return None
    axis, size = attribute(node, "axis", -1) % (len(shape) + 1), int(depth.item())
    places = spell("Unsqueeze", _counted(_wide(indices, spell), size, spell), spell.integers(axis))
    classes = np.arange(size).reshape(-1, *[1] * (len(shape) - axis))
    off, on = (_element(values, place, spell) for place in (0, 1))
    return [spell("Where", spell("Equal", places, spell.constant(classes, np.int64)), on, off)]


def _element(values: ir.Value, place: int, spell: Spelling) -> ir.Value:
    held = constant(values)
    return spell("Gather", values, spell.constant(place, np.int64), axis=0) if held is None else spell.constant(held[place], held.dtype)


def _counted(indices: ir.Value, size: int, spell: Spelling) -> ir.Value:
    """Negative indices counted from the end, the others as they are."""
    later = spell("Add", indices, spell.constant(size, np.int64))
    return spell("Where", spell("Less", indices, spell.constant(0, np.int64)), later, indices)


def _row(rest: Sequence[int]) -> tuple[int, ...]:
    """How a row of the elements ``rest`` is held: flat, or no axis for a single element."""
    return (prod(rest),) if prod(rest) > 1 else ()


def _fixed(value: ir.Value, shape: tuple[int, ...], spell: Spelling) -> ir.Value:
    held = constant(value)
    return spell("Reshape", value, spell.integers(*shape)) if held is None else spell.constant(held.reshape(shape), held.dtype)


def _along(indices: ir.Value, shape: Sequence[int], taken: Sequence[int], axis: int, spell: Spelling) -> ir.Value:
    """(elements of ``taken``,) the place in the flat tensor of ``shape`` that each index along ``axis`` means."""
    strides = [prod(shape[place + 1 :]) for place in range(len(shape))]
    grid = np.indices(taken, np.int64)
    begins = sum(grid[place] * stride for place, stride in enumerate(strides) if place != axis) + np.zeros(taken, np.int64)
    held = constant(indices)
    if held is not None:
        return spell.constant((begins + held.astype(np.int64) % shape[axis] * strides[axis]).ravel(), np.int64)
    flat = spell("Reshape", _wide(indices, spell), spell.integers(-1))
    return _placed(flat, shape[axis], strides[axis], begins.ravel(), spell)


def _rows(indices: ir.Value, sizes: Sequence[int], begins: NDArray[np.int64], spell: Spelling) -> ir.Value:
    """(rows of indices,) the row that each vector of indices means, plus where its part begins."""
    strides = np.asarray([prod(sizes[place + 1 :]) for place in range(len(sizes))])
    held = constant(indices)
    if held is not None:
        vectors = held.astype(np.int64).reshape(-1, len(sizes)) % np.asarray(sizes)
        return spell.constant(begins + vectors @ strides, np.int64)
    given = _wide(indices, spell)
    if len(sizes) == 1:
        return _placed(spell("Reshape", given, spell.integers(-1)), sizes[0], 1, begins, spell)
    wrapped = spell("Mod", spell("Reshape", given, spell.integers(-1, len(sizes))), spell.constant([sizes], np.int64))
    places = spell("ReduceSum", spell("Mul", wrapped, spell.constant([strides], np.int64)), spell.integers(1), keepdims=0)
    return spell("Add", places, spell.constant(begins, np.int64)) if begins.any() else places


def _wide(indices: ir.Value, spell: Spelling) -> ir.Value:
    """Indices in int64, which ScatterND takes alone."""
    return indices if dtype_name(indices) == "int64" else spell("Cast", indices, to=_INT64)


def _placed(indices: ir.Value, size: int, stride: int, begins: NDArray[np.int64], spell: Spelling) -> ir.Value:
    places = spell("Mod", indices, spell.integers(size))
    places = spell("Mul", places, spell.integers(stride)) if stride != 1 else places
    return spell("Add", places, spell.constant(begins, np.int64)) if begins.any() else places


LEADING: dict[str, Speller] = {"ScatterND": scatter_leading_rows}
CLASSES: dict[str, Speller] = {"OneHot": one_hot}
ELEMENTS: dict[str, Speller] = {"GatherElements": gather_elements, "ScatterElements": scatter_elements}
ROWS: dict[str, Speller] = {"GatherND": gather_nd, "ScatterND": scatter_nd}
