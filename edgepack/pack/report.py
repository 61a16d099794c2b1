"""report.html: one self-contained file that says what was built, how well it agrees, and what is not known.

The template prints; what it prints is decided here. Nothing is loaded from anywhere, no script runs, and every word is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgepack.backends.artifact import Finding
from edgepack.latency.statistics import fewest_samples
from edgepack.pack import figures
from edgepack.pack.figures import Axis, Bar, Span
from edgepack.pack.manifest import ArtifactRecord, Estimate, FileRecord, Latency, OutputParity, Pack, Truth
from edgepack.student.spec import TensorSpec

# What each kind of truth means to a reader, and whether a time of this kind is a speed at all.
TRUTHS: dict[Truth, str] = {
    "measured": "taken on a device that matches the target",
    "host": "real runtime and real time, but on the machine that built this pack, which is not the target",
    "emulated": "run under an emulator of the target's processor; results count, times do not",
    "simulated": "run in an interpreter of the format, not in the platform's own runtime; results count, times do not",
    "predicted": "computed from a model of the hardware, not run",
}
_TIMES_ARE_SPEEDS: frozenset[Truth] = frozenset({"measured", "host", "predicted"})
# Outputs of these kinds did not come from the platform's own runtime.
_NOT_ITS_RUNTIME: frozenset[Truth] = frozenset({"simulated", "emulated", "predicted"})


@dataclass(frozen=True)
class Verdict:
    """The headline: ``passed`` colours it, ``failures`` are the gate's own lines."""

    passed: bool
    headline: str
    failures: tuple[str, ...]


@dataclass(frozen=True)
class TaskWords:
    """How a metric is named: in a heading, for the share of equal answers, and for its two intervals."""

    name: str
    same: str
    intervals: str


_TASKS = {
    "top-1": TaskWords("Accuracy", "Same top-1", "Wilson for accuracy, Bonett–Price for the paired loss"),
    "mIoU": TaskWords("Mean IoU", "Same pixels", "percentile bootstrap over images for mean IoU and for the paired loss"),
    "agreement": TaskWords("Agreement where the student is sure", "Same top-1", "Wilson for agreement, Bonett–Price for the paired loss"),
}


@dataclass(frozen=True)
class Row:
    """One artifact as the overview shows it.

    Attributes:
        key: "android w8a8"; anchor: the same as an HTML id.
        size_ratio: bytes over those of the target's fp32 artifact, None where there is none or this is it.
        worst: the output nearest to, or furthest below, its floor.
        latency: None also where its kind of truth makes it no speed.
    """

    key: str
    anchor: str
    artifact: ArtifactRecord
    size_ratio: float | None
    worst: OutputParity | None
    latency: Latency | None

    @property
    def failed(self) -> bool:
        """Whether a gate did not hold."""
        return bool(self.artifact.failures)


@dataclass(frozen=True)
class SpanFigure:
    """Estimates under one axis."""

    axis: Axis
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class LatencyTrack:
    """One artifact's times: histogram, the p50 interval and the p90 mark, positions in percent; ``beyond`` counts what lies right."""

    row: Row
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
class Gap:
    """Something this pack does not say, why, and of which artifacts."""

    what: str
    why: str
    artifacts: tuple[str, ...]


def render(pack: Pack) -> str:
    """The report of a pack as HTML text (UTF-8 when written)."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgepack.pack", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment.get_template("report.html").render(**_view(pack))


def verdict(pack: Pack) -> Verdict:
    """Whether every artifact passed, in words."""
    failures = tuple(line for artifact in pack.artifacts for line in artifact.failures)
    total, failed = len(pack.artifacts), sum(bool(artifact.failures) for artifact in pack.artifacts)
    if not total:
        return Verdict(False, "This pack holds no artifact", ())
    if failed:
        return Verdict(False, f"{failed} of {_count(total, 'artifact')} failed", failures)
    return Verdict(True, "The artifact passed" if total == 1 else f"All {total} artifacts passed", ())


def rows(pack: Pack) -> tuple[Row, ...]:
    """The overview, in the pack's order."""
    fp32 = {artifact.target: artifact.file.bytes for artifact in pack.artifacts if artifact.scheme == "fp32"}
    return tuple(_row(index, artifact, fp32.get(artifact.target)) for index, artifact in enumerate(pack.artifacts))


def gaps(pack: Pack) -> tuple[Gap, ...]:
    """What was not measured and why, equal reasons together."""
    artifacts = pack.artifacts
    untimed = [("Latency", artifact.no_latency or "no reason was recorded", artifact) for artifact in artifacts if artifact.latency is None]
    no_speed = [
        ("Latency", f"times of kind “{artifact.latency.truth}” are no speed and are not shown", artifact)
        for artifact in artifacts
        if artifact.latency is not None and artifact.latency.truth not in _TIMES_ARE_SPEEDS
    ]
    elsewhere = [
        ("Speed on the target device", "the times shown were not taken on a device that matches the target", artifact)
        for artifact in artifacts
        if artifact.latency is not None and artifact.latency.truth in ("host", "predicted")
    ]
    interpreted = [
        ("The platform's own runtime", f"outputs are {artifact.parity.truth}: {TRUTHS[artifact.parity.truth]}", artifact)
        for artifact in artifacts
        if artifact.parity.truth in _NOT_ITS_RUNTIME
    ]
    unscored = [("Accuracy", "no labelled evaluation samples were given", artifact) for artifact in artifacts if artifact.accuracy is None]
    tails = [gap for artifact in artifacts if artifact.latency is not None for gap in _missing_quantiles(artifact, artifact.latency)]
    return _grouped([*elsewhere, *untimed, *no_speed, *_missing_ratios(artifacts), *interpreted, *unscored, *tails])


def _view(pack: Pack) -> dict[str, Any]:
    """Everything the template names."""
    overview = rows(pack)
    return {
        "pack": pack,
        "verdict": verdict(pack),
        "rows": overview,
        "truths": _truths_used(overview),
        "timed_on": _processors(overview),
        "size_figure": _size_figure(overview),
        "accuracy_figure": _accuracy_figure(overview),
        "task": _task_words(overview),
        "parity_figure": _parity_figure(overview),
        "latency_figures": _latency_figures(overview),
        "findings": tuple((row, finding) for row in overview for finding in _by_level(row.artifact.findings)),
        "gaps": gaps(pack),
        "environments": _environments(overview),
        "files": _files(pack),
    }


def _task_words(overview: Sequence[Row]) -> TaskWords:
    """The words of the metric that the artifacts were measured by."""
    measured = next((row.artifact.accuracy.metric for row in overview if row.artifact.accuracy), "top-1")
    return _TASKS[measured]


def _row(index: int, artifact: ArtifactRecord, fp32_bytes: int | None) -> Row:
    ratio = None if artifact.scheme == "fp32" or not fp32_bytes else artifact.file.bytes / fp32_bytes
    worst = min(artifact.parity.outputs, key=_margin, default=None)
    latency = artifact.latency if artifact.latency is not None and artifact.latency.truth in _TIMES_ARE_SPEEDS else None
    return Row(f"{artifact.target} {artifact.scheme}", f"artifact-{index}", artifact, ratio, worst, latency)


def _margin(output: OutputParity) -> tuple[float, float]:
    """Sort key: non-finite first, then the smallest distance above the floor, then the lowest SQNR."""
    reached = float("inf") if output.sqnr_db is None else output.sqnr_db
    if output.non_finite:
        return float("-inf"), reached
    return reached - (output.floor_db or 0.0), reached


def _truths_used(overview: Sequence[Row]) -> tuple[tuple[Truth, str], ...]:
    used = {row.artifact.parity.truth for row in overview} | {row.latency.truth for row in overview if row.latency}
    return tuple((truth, words) for truth, words in TRUTHS.items() if truth in used)


def _processors(overview: Sequence[Row]) -> tuple[str, ...]:
    """What the host times were taken on."""
    hosts = [row.latency.environment for row in overview if row.latency and row.latency.truth == "host"]
    return tuple(dict.fromkeys(each.get("board") or each.get("processor") or "the machine that built this pack" for each in hosts))


def _size_figure(overview: Sequence[Row]) -> SpanFigure | None:
    if not overview:
        return None
    scale = figures.axis([row.artifact.file.bytes for row in overview], lambda size: short_tick(size_words(size)), from_zero=True)
    return SpanFigure(
        scale, tuple(_span(row, scale, _exactly(row.artifact.file.bytes), size_words(row.artifact.file.bytes)) for row in overview)
    )


def _accuracy_figure(overview: Sequence[Row]) -> SpanFigure | None:
    scored = [(row, row.artifact.accuracy) for row in overview if row.artifact.accuracy is not None]
    if not scored:
        return None
    values = [number for _, found in scored for number in (found.value.low, found.value.high, found.student)]
    scale = figures.axis(values, percent_tick, limits=(0.0, 1.0))
    return SpanFigure(
        scale, tuple(_span(row, scale, found.value, percent_words(found.value.value), found.student) for row, found in scored)
    )


def _parity_figure(overview: Sequence[Row]) -> SpanFigure | None:
    shown = [(row, row.worst) for row in overview if row.worst is not None]
    numbers = [number for _, output in shown for number in (output.sqnr_db, output.floor_db) if number is not None and number > 0]
    if not numbers:
        return None
    scale = figures.axis(numbers, lambda value: f"{value:.0f} dB", from_zero=True)
    return SpanFigure(
        scale,
        tuple(
            _span(row, scale, _exactly(scale.high if output.sqnr_db is None else output.sqnr_db), decibel_words(output), output.floor_db)
            for row, output in shown
        ),
    )


def _latency_figures(overview: Sequence[Row]) -> tuple[LatencyFigure, ...]:
    timed = [(row, row.latency) for row in overview if row.latency is not None and row.latency.histogram_counts]
    targets = dict.fromkeys(row.artifact.target for row, _ in timed)
    return tuple(_latency_figure(target, [each for each in timed if each[0].artifact.target == target]) for target in targets)


def _latency_figure(target: str, timed: Sequence[tuple[Row, Latency]]) -> LatencyFigure:
    ends = [_body_end(latency) for _, latency in timed]
    marks = [estimate.high for _, latency in timed for estimate in (latency.p50, latency.p90) if estimate is not None]
    scale = figures.axis([*ends, *marks], lambda time: short_tick(milliseconds_words(time)), from_zero=True)
    return LatencyFigure(target, scale, tuple(_latency_track(row, latency, scale) for row, latency in timed))


def _body_end(latency: Latency) -> float:
    """Where the drawn part of a histogram ends: before the tail bin, or a few late queries would squeeze the rest together."""
    edges = latency.histogram_edges_ms
    return edges[-2] if len(edges) > 2 else edges[-1]


def _latency_track(row: Row, latency: Latency, scale: Axis) -> LatencyTrack:
    drawn = figures.bars(latency.histogram_edges_ms, latency.histogram_counts, scale)
    right = sum(latency.histogram_counts[len(drawn) :])
    beyond = f"{_count(right, 'query', 'queries')} beyond, up to {milliseconds_words(latency.histogram_edges_ms[-1])}" if right else ""
    p50 = None if latency.p50 is None else _span(row, scale, latency.p50, milliseconds_words(latency.p50.value))
    return LatencyTrack(row, drawn, p50, None if latency.p90 is None else scale.at(latency.p90.value), beyond)


def _span(row: Row, scale: Axis, estimate: Estimate, words: str, mark: float | None = None) -> Span:
    at = scale.at
    return Span(
        label=row.key,
        words=words,
        value=at(estimate.value),
        low=at(estimate.low),
        high=at(estimate.high),
        mark=None if mark is None else at(mark),
        failed=row.failed,
        hollow=row.artifact.parity.truth in _NOT_ITS_RUNTIME,
    )


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def _by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings."""
    return sorted(findings, key=lambda finding: finding.level != "error")


def _missing_quantiles(artifact: ArtifactRecord, latency: Latency) -> list[tuple[str, str, ArtifactRecord]]:
    held = {0.5: latency.p50, 0.9: latency.p90, 0.99: latency.p99}
    return [
        (f"p{100 * q:.0f} of the latency", f"it needs {fewest_samples(q)} samples, {latency.samples} were taken", artifact)
        for q, estimate in held.items()
        if estimate is None and latency.truth in _TIMES_ARE_SPEEDS
    ]


def _missing_ratios(artifacts: Sequence[ArtifactRecord]) -> list[tuple[str, str, ArtifactRecord]]:
    """Artifacts with a time of their own and none against fp32."""
    timed = {artifact.target for artifact in artifacts if artifact.scheme == "fp32" and artifact.latency is not None}
    alone, short = "no fp32 artifact of the target was timed in the same run", "too few samples for an interval, or a timer that reads 0"
    return [
        ("Time against fp32", short if artifact.target in timed else alone, artifact)
        for artifact in artifacts
        if artifact.scheme != "fp32" and artifact.latency is not None and _lacks_ratio(artifact.latency)
    ]


def _lacks_ratio(latency: Latency) -> bool:
    return latency.truth in _TIMES_ARE_SPEEDS and latency.ratio_to_fp32 is None


def _grouped(found: Iterable[tuple[str, str, ArtifactRecord]]) -> tuple[Gap, ...]:
    together: dict[tuple[str, str], list[str]] = {}
    for what, why, artifact in found:
        together.setdefault((what, why), []).append(f"{artifact.target} {artifact.scheme}")
    return tuple(Gap(what, why, tuple(keys)) for (what, why), keys in together.items())


def _environments(overview: Sequence[Row]) -> tuple[tuple[tuple[str, ...], dict[str, str]], ...]:
    """Latency environments, equal ones once, with the artifacts they hold for."""
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in overview:
        if row.latency is not None and row.latency.environment:
            together.setdefault(tuple(row.latency.environment.items()), []).append(row.key)
    return tuple((tuple(keys), dict(facts)) for facts, keys in together.items())


def _files(pack: Pack) -> tuple[tuple[str, FileRecord], ...]:
    """Every file the manifest names, with what it is."""
    named = [
        *((f"hub, {hub.scheme}", hub.file) for hub in pack.hubs),
        *((f"artifact, {artifact.target} {artifact.scheme}", artifact.file) for artifact in pack.artifacts),
        ("ranges", pack.ranges),
        ("constraints", pack.constraints),
        ("golden inputs", pack.golden_inputs),
        ("golden outputs", pack.golden_outputs),
        ("golden reference, float64", pack.golden_reference),
    ]
    return tuple((what, file) for what, file in named if file is not None)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size_words(count: float) -> str:
    """Bytes, decimal units: "812 B", "39.1 kB", "4.65 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def milliseconds_words(value: float) -> str:
    """A time given in milliseconds, three digits: "87.2 µs", "1.23 ms", "2.40 s"."""
    if value >= 1000:
        return f"{_three_digits(value / 1000)} s"
    return f"{_three_digits(value)} ms" if value >= 0.1 or value == 0 else f"{_three_digits(value * 1000)} µs"


def milliseconds_range(estimate: Estimate) -> str:
    """The interval of a time given in milliseconds; the unit once where both ends have the same."""
    low, high = milliseconds_words(estimate.low), milliseconds_words(estimate.high)
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def percent_range(estimate: Estimate) -> str:
    """The interval of a fraction of 1 as percentages."""
    return f"{100 * estimate.low:.1f} to {percent_words(estimate.high)}"


def percent_words(fraction: float) -> str:
    """A fraction of 1 as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"


def short_tick(words: str) -> str:
    """An axis label without the zeros it does not need: "1.50 ms" as "1.5 ms"."""
    number, _, unit = words.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def percent_tick(fraction: float) -> str:
    """A fraction of 1 as a percentage with no more decimals than it needs."""
    return f"{100 * fraction:.4g} %"


def points_words(fraction: float) -> str:
    """A difference of fractions in percentage points, with a true minus sign."""
    text = f"{100 * fraction:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def decibel_words(output: OutputParity) -> str:
    """The SQNR of an output, or what stands in its place."""
    if output.non_finite:
        return "not finite"
    return "exact" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"


def tensor_words(tensor: TensorSpec) -> str:
    """A tensor as "float32 1 × 3 × 224 × 224 (NCHW)"."""
    shape = " × ".join(map(str, tensor.shape)) if tensor.shape else "scalar" if tensor.shape == () else "any shape"
    return f"{tensor.dtype or 'any type'} {shape}" + (f" ({tensor.layout})" if tensor.layout else "")


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent below 1000."""
    decimals = next((digits for limit, digits in ((1, 3), (10, 2), (100, 1)) if abs(value) < limit), 0)
    return f"{value:.{decimals}f}"


_FILTERS: dict[str, Callable[..., str]] = {
    "size": size_words,
    "milliseconds": milliseconds_words,
    "milliseconds_range": milliseconds_range,
    "percent_range": percent_range,
    "percent": percent_words,
    "points": points_words,
    "decibels": decibel_words,
    "tensor": tensor_words,
    "count": _count,
}
