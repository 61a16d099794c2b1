"""Geometry of the report's figures: numbers in, positions in percent out. The template draws them; nothing here knows HTML.

Positions are percentages of a track's width, so that a figure fits a phone and a desk without scaling its text or its dots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, isnan, log10

# A figure at 390 px has room for four labels of five characters, and for so many letters at most.
_TICKS, _LETTERS = 4, 32
# What float64 can tell apart on an axis with room to spare, and beyond which no figure is a measurement.
_NARROWEST, _LARGEST = 1e-10, 1e15
# What a track has room for at 2 pixels a bar or a stretch.
_MOST_DRAWN = 240


@dataclass(frozen=True)
class Axis:
    """A linear scale from ``low`` to ``high`` (finite, low < high) with labelled ticks."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Position in percent, held inside the track; what is no number stands at its start."""
        if isnan(value):
            return 0.0
        return round(min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0), 3)


@dataclass(frozen=True)
class Tick:
    """A labelled position in percent."""

    at: float
    label: str


@dataclass(frozen=True)
class Span:
    """An estimate on a track: positions in percent.

    Attributes:
        mark: a reference line, None where there is none.
        failed: whether its artifact failed; hollow: whether it was not got from the platform's own kind of runtime.
    """

    label: str
    words: str
    value: float
    low: float
    high: float
    mark: float | None
    failed: bool
    hollow: bool


@dataclass(frozen=True)
class Bar:
    """One histogram bin: left edge and width in percent of the track, height in percent of the tallest."""

    left: float
    width: float
    height: float


@dataclass(frozen=True)
class Segment:
    """A stretch of a line: from and to, positions in percent, y from the bottom."""

    x1: float
    y1: float
    x2: float
    y2: float


def axis(
    values: Iterable[float], words: Callable[[float], str], *, from_zero: bool = False, limits: tuple[float, float] | None = None
) -> Axis:
    """A scale that holds every finite value and ends at round numbers.

    Args:
        values: at least one finite number.
        words: how a tick is labelled.
        from_zero: whether lengths are read from the start, as in bars.
        limits: what the scale never leaves, such as 0 and 1 for an accuracy.
    """
    finite = [min(max(value, -_LARGEST), _LARGEST) for value in values if isfinite(value)]
    low, high = (0.0 if from_zero else min(finite)), max(finite)
    largest = max(abs(low), abs(high))
    if high - low <= _NARROWEST * max(1.0, largest):
        # A hundredth of what is shown to either side, or 1 where that itself is nothing.
        room = 0.01 * largest if 0.01 * largest > _NARROWEST else 1.0
        low, high = (0.0, high + (largest if largest > _NARROWEST else 1.0)) if from_zero else (low - room, high + room)
    step = _round_step((high - low) / _TICKS)
    low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    return _with_ticks(low, high, step, words)


def bars(edges: Sequence[float], counts: Sequence[int], scale: Axis) -> tuple[Bar, ...]:
    """Histogram bins as density bars (count over width, so unequal bins compare by area), those beyond the axis left to words."""
    # A millionth more than the axis: its end is a rounded multiple of the step and may lie a rounding below the last edge.
    end = scale.high + 1e-6 * (scale.high - scale.low)
    inside = [(left, right, count) for left, right, count in zip(edges, edges[1:], counts, strict=False) if right <= end]
    narrowest = (scale.high - scale.low) / 200
    densities = [count / max(right - left, narrowest) for left, right, count in inside]
    tallest = max(densities, default=0.0) or 1.0
    return tuple(
        Bar(scale.at(left), max(round(scale.at(right) - scale.at(left), 3), 0.5), round(100 * density / tallest, 2))
        for (left, right, _), density in zip(inside, densities, strict=True)
    )


def coarser(edges: Sequence[float], counts: Sequence[int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The same histogram in no more bins than can be told apart; the last, long one stays for itself."""
    stride = ceil(len(counts) / _MOST_DRAWN)
    if stride <= 1:
        return tuple(edges), tuple(counts)
    starts = [*range(0, len(counts) - 1, stride), len(counts) - 1]
    ends = [*starts[1:], len(counts)]
    return (*(edges[start] for start in starts), edges[-1]), tuple(sum(counts[start:end]) for start, end in zip(starts, ends, strict=True))


def segments(points: Sequence[tuple[float, float]], across: Axis, up: Axis) -> tuple[Segment, ...]:
    """A line through points (x, y), thinned to what can be told apart."""
    stride = ceil(len(points) / _MOST_DRAWN) or 1
    kept = [*points[:-1:stride], *points[-1:]]
    at = [(across.at(x), up.at(y)) for x, y in kept]
    return tuple(Segment(*start, *end) for start, end in pairwise(at))


def _with_ticks(low: float, high: float, step: float, words: Callable[[float], str]) -> Axis:
    bare = Axis(low, high, ())
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    values = [index * step for index in range(first, last + 1)]
    labels = [words(value) for value in values]
    # Where there are more, every second tick keeps its line and loses its words.
    every = ceil(sum(len(label) + 1 for label in labels) / _LETTERS)
    return Axis(low, high, tuple(Tick(bare.at(value), labels[n] if n % every == 0 else "") for n, value in enumerate(values)))


def _round_step(least: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, the smallest at or above ``least``."""
    power = float(10 ** floor(log10(least)))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))
