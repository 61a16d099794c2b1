"""report.html: one self-contained file that says what was built, how well it agrees, and what is not known.

The template prints; what it prints is decided here. Nothing is loaded from anywhere, no script runs, and every word is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from edgepack.backends.artifact import Finding
from edgepack.latency.statistics import fewest_samples
from edgepack.pack import figures
from edgepack.pack.figures import Axis, Span
from edgepack.pack.manifest import ArtifactRecord, Estimate, FileRecord, Latency, Measurement, OutputParity, Pack, Truth
from edgepack.pack.on_devices import NOWHERE, WEB, OnDevices, Run, on_devices, worst_output
from edgepack.pack.time_figures import Timed, latency_figures
from edgepack.pack.words import (
    FILTERS,
    NOT_ITS_RUNTIME,
    TIMES_ARE_SPEEDS,
    TRUTHS,
    count_words,
    decibel_words,
    percent_tick,
    percent_words,
    short_tick,
    size_words,
)

if TYPE_CHECKING:
    from jinja2 import Environment


class Check(Protocol):
    """One line of the gate (``edgepack.latency.gate``).

    ``status`` is "pass", "fail", "not measured", "invalid" or "no budget"; ``words`` say what was found and what is demanded.
    """

    @property
    def target(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def words(self) -> str: ...


# How a check's status is coloured. Neither a missing nor a spoiled measurement satisfies anything, nor does it fail the artifact.
_MARKS = {"pass": "passed", "fail": "failed", "no budget": "soft"}

_UNDECIDED = frozenset({"not measured", "invalid"})
_VERDICT_MARKS = {"regression": "failed", "improvement": "passed", "no difference": "soft", "inconclusive": "warning"}


@dataclass(frozen=True)
class Verdict:
    """The headline: ``passed`` colours it, ``failures`` are the gate's own lines, ``undecided`` counts checks without an answer."""

    passed: bool
    headline: str
    failures: tuple[str, ...]
    undecided: int = 0


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
        on_device: its speed on a device that matches the target.
        failed: whether it missed something when it was built, on a device, or in a check.
    """

    key: str
    anchor: str
    artifact: ArtifactRecord
    size_ratio: float | None
    worst: OutputParity | None
    latency: Latency | None
    on_device: Run | None
    failed: bool


@dataclass(frozen=True)
class SpanFigure:
    """Estimates under one axis."""

    axis: Axis
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Checked:
    """The gate's checks of one artifact, each with the class of its mark."""

    key: str
    checks: tuple[tuple[Check, str], ...]


@dataclass(frozen=True)
class Gap:
    """Something this pack does not say, why, and of which artifacts."""

    what: str
    why: str
    artifacts: tuple[str, ...]


def render(pack: Pack, measurements: Sequence[Measurement] = (), checks: Sequence[Check] = ()) -> str:
    """The report of a pack as HTML text (UTF-8 when written).

    Args:
        measurements: what ``edgepack bench`` left in the pack, newest first.
        checks: what the gate found.
    """
    return _environment().get_template("report.html").render(**_view(pack, on_devices(pack, measurements), checks))


@cache
def _environment() -> Environment:
    """Compiling the templates takes longer than filling them in."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgepack.pack", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def verdict(pack: Pack, devices: OnDevices = NOWHERE, checks: Sequence[Check] = ()) -> Verdict:
    """Whether every artifact passed its build's gate, on every device, and the checks; in words."""
    total = len(pack.artifacts)
    if not total:
        return Verdict(False, "This pack holds no artifact", ())
    failing = failed(pack, devices, checks)
    undecided = sum(check.status in _UNDECIDED for check in checks)
    lines = _failures(pack, devices, checks)
    if lines:
        words = _failed_words(sum(_key(artifact) in failing for artifact in pack.artifacts), total, checks)
        return Verdict(False, words, lines, undecided)
    return Verdict(True, "The artifact passed" if total == 1 else f"All {total} artifacts passed", (), undecided)


def failed(pack: Pack, devices: OnDevices = NOWHERE, checks: Sequence[Check] = ()) -> frozenset[str]:
    """The artifacts ("android w8a8") that missed something when they were built, on a device, or in a check."""
    built = (_key(artifact) for artifact in pack.artifacts if artifact.failures)
    there = (run.key for run in devices.runs if run.failed and run.is_own)
    return frozenset((*built, *there, *(_key(check) for check in checks if check.status == "fail")))


def _failures(pack: Pack, devices: OnDevices, checks: Sequence[Check]) -> tuple[str, ...]:
    """Each once, in the words of whoever found it."""
    built = (line for artifact in pack.artifacts for line in artifact.failures)
    there = (f"{line} (on {run.device_name})" for run in devices.runs if run.is_own for line in run.measurement.failures)
    checked = (f"{_key(check)}, {check.name}: {check.words}" for check in checks if check.status == "fail")
    return tuple(dict.fromkeys((*built, *there, *checked)))


def _failed_words(count: int, total: int, checks: Sequence[Check]) -> str:
    """Checks of what the pack does not hold fail no artifact of it."""
    if count:
        return f"{count} of {count_words(total, 'artifact')} failed"
    return f"{count_words(sum(check.status == 'fail' for check in checks), 'check')} failed"


def _key(of: Check | ArtifactRecord) -> str:
    return f"{of.target} {of.scheme}"


def rows(pack: Pack, devices: OnDevices = NOWHERE, checks: Sequence[Check] = ()) -> tuple[Row, ...]:
    """The overview, in the pack's order."""
    fp32 = {artifact.target: artifact.file.bytes for artifact in pack.artifacts if artifact.scheme == "fp32"}
    failing = failed(pack, devices, checks)
    return tuple(
        _row(index, artifact, fp32.get(artifact.target), devices.best(artifact), _key(artifact) in failing)
        for index, artifact in enumerate(pack.artifacts)
    )


def gaps(pack: Pack, devices: OnDevices = NOWHERE) -> tuple[Gap, ...]:
    """What was not measured and why, equal reasons together."""
    artifacts = pack.artifacts
    elsewhere = [
        ("Speed on the target device", _why_elsewhere(artifact), artifact) for artifact in artifacts if _is_elsewhere(artifact, devices)
    ]
    untimed = [("Latency", _why_untimed(artifact), artifact) for artifact in artifacts if _is_untimed(artifact, devices)]
    interpreted = [
        ("The platform's own runtime", f"outputs are {artifact.parity.truth}: {TRUTHS[artifact.parity.truth]}", artifact)
        for artifact in artifacts
        if artifact.parity.truth in NOT_ITS_RUNTIME and not devices.has_outputs(artifact)
    ]
    unscored = [("Accuracy", "no labelled evaluation samples were given", artifact) for artifact in artifacts if artifact.accuracy is None]
    tails = [gap for artifact in artifacts for gap in _missing_quantiles(artifact, _best_latency(artifact, devices))]
    return _grouped([*elsewhere, *untimed, *_missing_ratios(artifacts), *interpreted, *unscored, *tails])


def _is_untimed(artifact: ArtifactRecord, devices: OnDevices) -> bool:
    built = artifact.latency is not None and artifact.latency.truth in TIMES_ARE_SPEEDS
    return not built and not devices.has_speed(artifact)


def _why_untimed(artifact: ArtifactRecord) -> str:
    if artifact.latency is not None:
        return f"times of kind “{artifact.latency.truth}” are no speed and are not shown"
    return artifact.no_latency or "no reason was recorded"


def _is_elsewhere(artifact: ArtifactRecord, devices: OnDevices) -> bool:
    built = artifact.latency is not None and artifact.latency.truth == "measured"
    return not built and devices.best(artifact) is None


def _why_elsewhere(artifact: ArtifactRecord) -> str:
    if artifact.runner == "mil":
        return "no sound measurement on an iPhone: measure there with the app of demo_app/ios and edgepack serve PACK (docs/apple.md)"
    if artifact.platform == WEB:
        return "no sound measurement in a browser that a person uses: run edgepack serve PACK"
    return "no sound measurement on a device that matches the target: run edgepack bench PACK --device ADDRESS"


def _view(pack: Pack, devices: OnDevices, checks: Sequence[Check]) -> dict[str, Any]:
    """Everything the template names."""
    overview = rows(pack, devices, checks)
    return {
        "pack": pack,
        "verdict": verdict(pack, devices, checks),
        "devices": devices,
        "checked": _checked(checks),
        "anchors": {row.key: row.anchor for row in overview},
        "verdict_marks": _VERDICT_MARKS,
        "rows": overview,
        "truths": _truths_used(overview, devices),
        "timed_on": _processors(overview),
        "size_figure": _size_figure(overview),
        "accuracy_figure": _accuracy_figure(overview),
        "task": _task_words(overview),
        "parity_figure": _parity_figure(overview),
        "latency_figures": latency_figures([(row.artifact.target, _timed(row, row.latency)) for row in overview if row.latency]),
        "findings": tuple((row, finding) for row in overview for finding in _by_level(row.artifact.findings)),
        "gaps": gaps(pack, devices),
        "environments": _environments(overview),
        "files": _files(pack),
    }


def _task_words(overview: Sequence[Row]) -> TaskWords:
    """The words of the metric that the artifacts were measured by."""
    measured = next((row.artifact.accuracy.metric for row in overview if row.artifact.accuracy), "top-1")
    return _TASKS[measured]


def _row(index: int, artifact: ArtifactRecord, fp32_bytes: int | None, on_device: Run | None, is_failed: bool) -> Row:
    ratio = None if artifact.scheme == "fp32" or not fp32_bytes else artifact.file.bytes / fp32_bytes
    latency = artifact.latency if artifact.latency is not None and artifact.latency.truth in TIMES_ARE_SPEEDS else None
    return Row(_key(artifact), f"artifact-{index}", artifact, ratio, worst_output(artifact.parity), latency, on_device, is_failed)


def _timed(row: Row, latency: Latency) -> Timed:
    return Timed(row.key, row.artifact.scheme, latency, row.failed)


def _checked(checks: Sequence[Check]) -> tuple[Checked, ...]:
    """By artifact, in the gate's order."""
    together: dict[str, list[tuple[Check, str]]] = {}
    for check in checks:
        together.setdefault(_key(check), []).append((check, _MARKS.get(check.status, "warning")))
    return tuple(Checked(key, tuple(held)) for key, held in together.items())


def _truths_used(overview: Sequence[Row], devices: OnDevices) -> tuple[tuple[Truth, str], ...]:
    """Those that tag a number of the overview."""
    used = {row.artifact.parity.truth for row in overview} | {row.latency.truth for row in overview if row.latency}
    used |= {row.on_device.truth for row in overview if row.on_device}
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
        hollow=row.artifact.parity.truth in NOT_ITS_RUNTIME,
    )


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def _by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings."""
    return sorted(findings, key=lambda finding: finding.level != "error")


def _best_latency(artifact: ArtifactRecord, devices: OnDevices) -> Latency | None:
    """The one a reader goes by: of the target device, else of the build."""
    best = devices.best(artifact)
    return best.latency if best else artifact.latency


def _missing_quantiles(artifact: ArtifactRecord, latency: Latency | None) -> list[tuple[str, str, ArtifactRecord]]:
    if latency is None or latency.truth not in TIMES_ARE_SPEEDS:
        return []
    held = {0.5: latency.p50, 0.9: latency.p90, 0.99: latency.p99}
    return [
        (f"p{100 * q:.0f} of the latency", f"it needs {fewest_samples(q)} samples, {latency.samples} were taken", artifact)
        for q, estimate in held.items()
        if estimate is None
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
    return latency.truth in TIMES_ARE_SPEEDS and latency.ratio_to_fp32 is None


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
