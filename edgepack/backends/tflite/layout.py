"""How a hub tensor lies in an artifact tensor: NCHW on the hub is NHWC in TFLite, and nothing is moved before a kernel demands it.

A layout is decided for each tensor by the operator that writes it. Convolutions and pools write channels last; elementwise operators keep
what they read; Transpose only renames; Reshape renames where the data order allows. An operator that knows one order alone asks for it
(``Emitter.ordered``), and only then is a TRANSPOSE written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


def channels_last(rank: int) -> Shape:
    """The order (0, 2, ..., rank - 1, 1): NCHW -> NHWC, NCW -> NWC."""
    return (0, *range(2, rank), 1)


@dataclass(frozen=True)
class Layout:
    """``artifact = hub.reshape(view).transpose(order)``, and when ``merged`` all axes but the first become one.

    Attributes:
        view: the hub tensor's shape; only where ``merged`` is it another shape with the same elements.
        order: the hub axis each artifact axis holds.
        merged: a flattened image whose features are still in channels-last order; a fully connected layer absorbs it in its weights.
    """

    view: Shape
    order: Shape
    merged: bool = False

    @classmethod
    def plain(cls, shape: Shape) -> Layout:
        """As on the hub."""
        return cls(tuple(shape), tuple(range(len(shape))))

    @property
    def stored(self) -> Shape:
        """The artifact tensor's shape."""
        permuted = tuple(self.view[axis] for axis in self.order)
        return (permuted[0], math.prod(permuted[1:])) if self.merged else permuted

    @property
    def shape(self) -> Shape:
        """The hub tensor's shape; a merged image is a matrix there too."""
        return self.stored if self.merged else self.view

    @property
    def rank(self) -> int:
        """Dimensions of ``view``."""
        return len(self.view)

    @property
    def data_order(self) -> Shape:
        """The hub axes larger than 1 in artifact order: two layouts of one shape with equal data orders hold equal bytes."""
        return tuple(axis for axis in self.order if self.view[axis] != 1)

    @property
    def permutation(self) -> Shape:
        """``artifact = transpose(hub, permutation)``; empty when nothing moves."""
        return () if self.order == tuple(range(self.rank)) else self.order

    def position(self, axis: int) -> int:
        """Where the hub's ``axis`` (negative counts from the end) lies in the artifact."""
        return self.order.index(axis % self.rank)

    def of(self, shape: Shape) -> Layout:
        """The same order for another shape of the same rank."""
        return replace(self, view=tuple(shape))

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """A hub array as this layout stores it."""
        return np.ascontiguousarray(array.reshape(self.view).transpose(self.order).reshape(self.stored))

    def transposed(self, permutation: Shape) -> Layout:
        """The layout of ``transpose(hub, permutation)`` for the same artifact tensor."""
        return Layout(tuple(self.view[axis] for axis in permutation), tuple(permutation.index(axis) for axis in self.order))

    def without(self, axes: Shape) -> Layout:
        """The layout after the hub drops ``axes`` (non-negative)."""
        kept = [axis for axis in range(self.rank) if axis not in axes]
        return Layout(tuple(self.view[axis] for axis in kept), tuple(kept.index(axis) for axis in self.order if axis in kept))


@dataclass(frozen=True)
class Regrouping:
    """A reshape as a renaming: an artifact tensor in order ``before`` is, byte for byte, ``after`` of the new shape."""

    before: Shape
    after: Layout


def regroup(layout: Layout, shape: Shape) -> Regrouping:
    """How ``reshape(hub, shape)`` reads a tensor in ``layout`` with the least movement.

    Both shapes split into runs of axes with equal products. A reshape only regroups inside a run, so runs may lie in any order as long as
    the axes inside one keep theirs: (N, C, H, W) -> (N, C, H*W) leaves a channels-last tensor where it is.
    """
    runs = sorted(_runs(layout.view, shape), key=lambda run: _first_position(layout, run[0]))
    before = tuple(axis for old, _ in runs for axis in old)
    after = tuple(axis for _, new in runs for axis in new)
    return Regrouping(before, Layout(tuple(shape), after))


def _first_position(layout: Layout, axes: list[int]) -> int:
    """Where a run begins in the artifact; axes of size 1 say nothing unless the run has no other."""
    large = [axis for axis in axes if layout.view[axis] != 1] or axes
    return min((layout.order.index(axis) for axis in large), default=layout.rank)


def _runs(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The finest split of both shapes into runs of equal product; sizes of 1 left at the end join the last run.

    Without elements there is nothing to keep in order, and no product to compare: one run.
    """
    if 0 in old or 0 in new:
        return [(list(range(len(old))), list(range(len(new))))]
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        first, second = i, j
        i, j = i + 1, j + 1
        while math.prod(old[first:i]) != math.prod(new[second:j]):
            if math.prod(old[first:i]) < math.prod(new[second:j]):
                i += 1
            else:
                j += 1
        runs.append((list(range(first, i)), list(range(second, j))))
    rest = (list(range(i, len(old))), list(range(j, len(new))))
    if not runs:
        return [rest]
    runs[-1] = (runs[-1][0] + rest[0], runs[-1][1] + rest[1])
    return runs
