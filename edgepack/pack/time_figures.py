"""The report's figures of time: histograms of queries, sustained runs, ratios. Numbers in, positions in percent out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from edgepack.pack import figures
from edgepack.pack.figures import Axis, Bar, Segment, Span
from edgepack.pack.manifest import Comparison, CurvePoint, Estimate, Latency, Truth
from edgepack.pack.words import count_words, milliseconds_words, ratio_words, short_tick

# float64 counts exactly up to here; a larger count is nobody's.
_MOST_QUERIES = 2**53


@dataclass(frozen=True)
class Timed:
    """A latency with what it is of.

    Attributes:
        key: "android w8a8"; name: the part that its figure's heading does not say.
        failed: whether its artifact failed.
    """

    key: str
    name: str
    latency: Latency
    failed: bool

    @property
    def truth(self) -> Truth:
        """Of the times."""
        return self.latency.truth


@dataclass(frozen=True)
class LatencyTrack:
    """One artifact's times: histogram, the p50 interval and the p90 mark, positions in percent; ``beyond`` counts what lies right."""

    timed: Timed
    bars: tuple[Bar, ...]
    p50: Span | None
    p90: float | None
    beyond: str


@dataclass(frozen=True)
class LatencyFigure:
    """The artifacts of one target under one axis."""

    target: str
    axis: Axis
    tracks: tuple[LatencyTrack, ...]


@dataclass(frozen=True)
class CurveFigure:
    """A sustained run: the median of its queries over time.

    Attributes:
        words: how it went, from its first to its last stretch.
        spoiled: whether the run is invalid.
    """

    key: str
    across: Axis
    up: Axis
    line: tuple[Segment, ...]
    words: str
    spoiled: bool


@dataclass(frozen=True)
class RatioTrack:
    """One comparison: the ratio with its interval, and the band inside which nothing counts as slower or faster."""

    span: Span
    band: tuple[float, float] | None


@dataclass(frozen=True)
class RatioFigure:
    """Comparisons under one axis; ``same`` is where 1 lies."""

    axis: Axis
    same: float
    tracks: tuple[RatioTrack, ...]


def latency_figures(timed: Sequence[tuple[str, Timed]]) -> tuple[LatencyFigure, ...]:
    """A figure for each target, from (target, latency) pairs; what has no histogram that can be drawn is left out."""
    drawable = [(target, each) for target, each in timed if _is_histogram(each.latency)]
    targets = dict.fromkeys(target for target, _ in drawable)
    return tuple(_latency_figure(target, [each for owner, each in drawable if owner == target]) for target in targets)


def curve_figure(key: str, latency: Latency) -> CurveFigure | None:
    """A sustained run as a line; None where there are not two points to join."""
    points = sorted((point for point in latency.curve if _is_point(point)), key=lambda point: point.seconds)
    if len(points) < 2:
        return None
    # In the unit it is labelled in, so that its ticks are round numbers of it.
    unit, seconds = _unit(points[-1].seconds)
    joined = [(point.seconds / seconds, point.p50_ms) for point in points]
    across = figures.axis([x for x, _ in joined], lambda time: f"{time:.4g} {unit}", from_zero=True)
    up = figures.axis([y for _, y in joined], _milliseconds_tick, from_zero=True)
    line = figures.segments(joined, across, up)
    return CurveFigure(key, across, up, line, _course(points), bool(latency.invalid))


def ratio_figure(compared: Sequence[tuple[str, Comparison, bool]]) -> RatioFigure | None:
    """Comparisons, from (key, comparison, whether it is spoiled); None where no ratio is a number."""
    drawable = [each for each in compared if _is_estimate(each[1].ratio)]
    if not drawable:
        return None
    # The band of the usual 3 % is always in view, or a reader could not tell a small difference from a large one.
    values = [number for _, found, _ in drawable for number in (found.ratio.low, found.ratio.high, *_band(found.margin))]
    scale = figures.axis([1.0, *values], lambda ratio: f"{ratio:.4g} ×")
    return RatioFigure(scale, scale.at(1.0), tuple(_ratio_track(*each, scale) for each in drawable))


def _unit(seconds: float) -> tuple[str, float]:
    """What a run of this length is told in, and its seconds."""
    if seconds < 120:
        return "s", 1.0
    return ("min", 60.0) if seconds < 7200 else ("h", 3600.0)


def _short_time(seconds: float) -> str:
    unit, each = _unit(seconds)
    return f"{seconds / each:.3g} {unit}"


def _latency_figure(target: str, timed: Sequence[Timed]) -> LatencyFigure:
    marks = [found.high for each in timed for found in (each.latency.p50, each.latency.p90) if found is not None]
    scale = figures.axis([*(_body_end(each.latency) for each in timed), *marks], _milliseconds_tick, from_zero=True)
    return LatencyFigure(target, scale, tuple(_latency_track(each, scale) for each in timed))


def _milliseconds_tick(time: float) -> str:
    return short_tick(milliseconds_words(time))


def _body_end(latency: Latency) -> float:
    """Where the drawn part of a histogram ends: before the tail bin, or a few late queries would squeeze the rest together."""
    edges = latency.histogram_edges_ms
    return edges[-2] if len(edges) > 2 else edges[-1]


def _latency_track(timed: Timed, scale: Axis) -> LatencyTrack:
    latency = timed.latency
    edges, counts = figures.coarser(latency.histogram_edges_ms, latency.histogram_counts)
    drawn = figures.bars(edges, counts, scale)
    right = sum(counts[len(drawn) :])
    beyond = f"{count_words(right, 'query', 'queries')} beyond, up to {milliseconds_words(edges[-1])}" if right else ""
    p50 = None if latency.p50 is None else _p50_span(timed, latency.p50, scale)
    return LatencyTrack(timed, drawn, p50, None if latency.p90 is None else scale.at(latency.p90.value), beyond)


def _p50_span(timed: Timed, p50: Estimate, scale: Axis) -> Span:
    at = scale.at
    return Span(timed.key, milliseconds_words(p50.value), at(p50.value), at(p50.low), at(p50.high), None, timed.failed, False)


def _is_histogram(latency: Latency) -> bool:
    edges, counts = latency.histogram_edges_ms, latency.histogram_counts
    return 0 < len(counts) == len(edges) - 1 and all(map(isfinite, edges)) and all(0 <= count < _MOST_QUERIES for count in counts)


def _is_estimate(estimate: Estimate) -> bool:
    return all(map(isfinite, (estimate.value, estimate.low, estimate.high)))


def _is_point(point: CurvePoint) -> bool:
    return isfinite(point.seconds) and isfinite(point.p50_ms) and point.seconds >= 0 and point.p50_ms >= 0


def _course(points: Sequence[CurvePoint]) -> str:
    first, last = points[0].p50_ms, points[-1].p50_ms
    words = f"{milliseconds_words(first)} at first, {milliseconds_words(last)} after {_short_time(points[-1].seconds)}"
    return f"{words}: {ratio_words(last / first)} times" if first > 0 else words


def _band(margin: float) -> tuple[float, float] | tuple[()]:
    """What counts as no difference: as much slower as faster, as ratios have it."""
    return (1 / (1 + margin), 1 + margin) if 0 < margin < 1 else ()


def _ratio_track(key: str, found: Comparison, spoiled: bool, scale: Axis) -> RatioTrack:
    at, ratio, band = scale.at, found.ratio, _band(found.margin)
    worse = found.verdict == "regression" and not spoiled
    span = Span(key, f"{ratio_words(ratio.value, 3)} ×", at(ratio.value), at(ratio.low), at(ratio.high), None, worse, spoiled)
    return RatioTrack(span, (at(band[0]), at(band[1])) if band else None)
