"""What the report shows of ``edgepack bench``: the newest measurements of this pack's artifacts, device by device. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from edgepack.pack.manifest import ArtifactRecord, Comparison, Latency, Measurement, OutputParity, Pack, Parity, Truth
from edgepack.pack.time_figures import CurveFigure, LatencyFigure, RatioFigure, Timed, curve_figure, latency_figures, ratio_figure
from edgepack.pack.words import NOT_ITS_RUNTIME, STAND_IN_BROWSER, TIMES_ARE_SPEEDS, TRUTHS

# Facts that differ from minute to minute on one and the same device.
_PASSING = frozenset({"frequency", "temperature", "throttling", "memory available", "swap", "load average"})
# The target that a browser is, whatever target the file was made for that it ran.
WEB = "web"
# A file of a build is named by its target, scheme and digest.
Artifact = tuple[str, str, str]


@dataclass(frozen=True)
class Run:
    """One measurement as a row of its device's table.

    Attributes:
        key: "android w8a8", "ios w8a8 on cpu_and_ne", or of a browser "web w8a8, android's file".
        truth: of the outputs and of the times, the weaker one.
        worst: the output nearest to, or furthest below, its floor.
        latency: None also where its kind of truth makes it no speed.
    """

    key: str
    measurement: Measurement
    artifact: ArtifactRecord
    truth: Truth
    worst: OutputParity | None
    latency: Latency | None

    @property
    def is_own(self) -> bool:
        """Whether it is of the artifact's own target: a browser runs files that were made for others, and stands for none of them."""
        return self.measurement.target == self.artifact.target

    @property
    def artifact_key(self) -> str:
        """As the other parts of the report call the artifact."""
        return f"{self.artifact.target} {self.artifact.scheme}"

    @property
    def label(self) -> str:
        """Tells it from other runs of the same artifact."""
        return f"{self.key} {self.latency.profile}".strip() if self.latency else self.key

    @property
    def device_name(self) -> str:
        """Its board or processor."""
        return _names(self.measurement.device)[0]

    @property
    def failed(self) -> bool:
        """Whether an output missed its floor on the device."""
        return bool(self.measurement.failures)

    @property
    def invalid(self) -> tuple[str, ...]:
        """What spoiled the times."""
        return self.latency.invalid if self.latency else ()

    @property
    def is_sound(self) -> bool:
        """Whether everything it says can be relied on."""
        return not self.failed and not self.invalid

    @property
    def comparison(self) -> Comparison | None:
        """With another build's artifact; None also where its times are no speeds."""
        return self.measurement.comparison if self.latency else None

    @property
    def result(self) -> str:
        """One word."""
        return "failed" if self.failed else "invalid" if self.invalid else "agrees"

    @property
    def above_floor(self) -> float | None:
        """How many times p50 is above the least time predicted."""
        latency = self.latency
        if latency is None or latency.p50 is None or latency.floor_ms is None or not latency.floor_ms > 0 or self.invalid:
            return None
        times = latency.p50.value / latency.floor_ms
        return times if isfinite(times) else None


@dataclass(frozen=True)
class Fact:
    """A fact of a device: one text, or texts each with the runs it holds for."""

    name: str
    words: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Device:
    """One device and what was found on it.

    Attributes:
        title: its board or processor; about: more of it in a few words.
        warnings: (artifact, line).
        compared: the runs that were held against another build's artifact.
    """

    title: str
    about: tuple[str, ...]
    truth: Truth
    runs: tuple[Run, ...]
    latency_figures: tuple[LatencyFigure, ...]
    curves: tuple[CurveFigure, ...]
    ratios: RatioFigure | None
    facts: tuple[Fact, ...]

    @property
    def truth_words(self) -> str:
        """What its kind of truth means, a phrase."""
        if self.truth == "simulated" and all(run.measurement.target == WEB for run in self.runs):
            return STAND_IN_BROWSER
        return TRUTHS[self.truth].partition(";")[0]

    @property
    def times_are_speeds(self) -> bool:
        """Whether times and memory mean anything here."""
        return self.truth in TIMES_ARE_SPEEDS

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """Each with its artifact."""
        return tuple((run.label, line) for run in self.runs if run.latency for line in run.latency.warnings)

    @property
    def compared(self) -> tuple[tuple[Run, Comparison], ...]:
        """The runs that were held against another build's artifact."""
        return tuple((run, run.comparison) for run in self.runs if run.comparison)

    @property
    def margins(self) -> tuple[str, ...]:
        """What counts as no difference."""
        return tuple(dict.fromkeys(f"{100 * found.margin:.3g} %" for _, found in self.compared))

    @property
    def quantiles(self) -> tuple[str, ...]:
        """Which were compared."""
        return tuple(dict.fromkeys(f"p{100 * found.quantile:.3g}" for _, found in self.compared))


@dataclass(frozen=True)
class OnDevices:
    """Everything that was measured, and how many measurements are not shown and why."""

    devices: tuple[Device, ...]
    superseded: int
    of_other_builds: int

    @property
    def without_speeds(self) -> tuple[Truth, ...]:
        """Kinds of truth whose times are not shown."""
        return tuple(dict.fromkeys(device.truth for device in self.devices if not device.times_are_speeds))

    @property
    def runs(self) -> Iterator[Run]:
        """Of every device."""
        return (run for device in self.devices for run in device.runs)

    def has_speed(self, artifact: ArtifactRecord) -> bool:
        """Whether a sound time of an artifact is shown."""
        return any(run.latency and run.is_sound for run in self._own(artifact))

    def has_outputs(self, artifact: ArtifactRecord) -> bool:
        """Whether an artifact ran in its platform's own runtime."""
        return any(run.measurement.parity.truth not in NOT_ITS_RUNTIME for run in self._own(artifact))

    def best(self, artifact: ArtifactRecord) -> Run | None:
        """The newest sound measurement of an artifact's speed on a device that matches its target."""
        own = (run for run in self._own(artifact) if run.latency and run.is_sound and run.truth == "measured")
        return max(own, key=lambda run: run.measurement.created, default=None)

    def _own(self, artifact: ArtifactRecord) -> Iterator[Run]:
        return (run for run in self.runs if run.artifact is artifact and run.is_own)


NOWHERE = OnDevices((), 0, 0)


def on_devices(pack: Pack, measurements: Sequence[Measurement]) -> OnDevices:
    """The measurements of this pack's artifacts by device.

    Args:
        measurements: newest first; those of another build's artifacts are counted and not shown.
    """
    made = {(each.target, each.scheme, each.file.sha256): each for each in pack.artifacts}
    # Reversed: of several targets with one file the first is named.
    artifacts = {(WEB, each.scheme, each.file.sha256): each for each in reversed(pack.artifacts)} | made
    known = [each for each in measurements if _artifact_of(each) in artifacts]
    runs = [_run(each, artifacts[_artifact_of(each)]) for each in known]
    places: dict[object, list[Run]] = {}
    for run in runs:
        places.setdefault(_place(run), []).append(run)
    shown = [_newest(held) for held in places.values()]
    order = {id(each): index for index, each in enumerate(pack.artifacts)}
    devices = tuple(_device(sorted(held, key=lambda run: order[id(run.artifact)])) for held in shown)
    ranked = sorted(devices, key=lambda device: list(TRUTHS).index(device.truth))
    return OnDevices(tuple(ranked), len(known) - sum(map(len, shown)), len(measurements) - len(known))


def worst_output(parity: Parity) -> OutputParity | None:
    """The output nearest to, or furthest below, its floor."""
    return min(parity.outputs, key=_margin, default=None)


def _margin(output: OutputParity) -> tuple[float, float]:
    """Sort key: non-finite first, then the smallest distance above the floor, then the lowest SQNR."""
    reached = float("inf") if output.sqnr_db is None else output.sqnr_db
    if output.non_finite or reached != reached:
        return float("-inf"), reached
    return reached - (output.floor_db or 0.0), reached


def _artifact_of(measurement: Measurement) -> Artifact:
    return measurement.target, measurement.scheme, measurement.artifact


def _run(measurement: Measurement, artifact: ArtifactRecord) -> Run:
    latency = measurement.latency
    kinds = list(TRUTHS)
    truth = max(measurement.truth, latency.truth if latency else measurement.truth, key=kinds.index)
    shown = latency if latency and truth in TIMES_ARE_SPEEDS else None
    unit = f" on {measurement.unit}" if measurement.unit else ""
    file = "" if measurement.target == artifact.target else f", {artifact.target}’s file"
    key = f"{measurement.target} {artifact.scheme}{unit}{file}"
    return Run(key, measurement, artifact, truth, worst_output(measurement.parity), shown)


def _place(run: Run) -> object:
    """Equal for two runs on one device that can stand in one table."""
    return run.truth, frozenset((name, words) for name, words in run.measurement.device.items() if name not in _PASSING)


def _newest(runs: Iterable[Run]) -> list[Run]:
    """Of each artifact, unit and profile the newest run, and the newest sound one where that is spoiled."""
    kept: dict[tuple[Artifact, str, str], list[Run]] = {}
    for run in runs:
        key = (_artifact_of(run.measurement), run.measurement.unit, run.latency.profile if run.latency else "")
        held = kept.setdefault(key, [])
        if not held or (run.is_sound and not held[-1].is_sound):
            held.append(run)
    return [run for held in kept.values() for run in held]


def _device(runs: Sequence[Run]) -> Device:
    title, *about = _names(runs[0].measurement.device)
    timed = [(run.measurement.target, _timed(run, run.latency)) for run in runs if run.latency and not run.invalid]
    curves = [curve_figure(run.key, run.latency) for run in runs if run.latency]
    return Device(
        title=title,
        about=tuple(about),
        truth=runs[0].truth,
        runs=tuple(runs),
        latency_figures=latency_figures(timed),
        curves=tuple(curve for curve in curves if curve is not None),
        ratios=ratio_figure([(run.key, found, bool(run.invalid or found.invalid)) for run in runs if (found := run.comparison)]),
        facts=_facts(runs),
    )


def _names(facts: Mapping[str, str]) -> list[str]:
    """What it is called, and what else fits beside that."""
    named = [facts.get(name) or "" for name in ("board", "processor", "runtime", "system")]
    return [words for words in named if words.strip()] or ["A device that gives no name"]


def _timed(run: Run, latency: Latency) -> Timed:
    return Timed(run.key, f"{run.artifact.scheme} {latency.profile}".strip(), latency, run.failed)


def _facts(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """Of the device, and of what it was like for each run."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, words in _held(run).items():
            found.setdefault(name, {}).setdefault(words, []).append(run.label)
    return tuple(_fact(name, held, len(runs)) for name, held in found.items())


def _held(run: Run) -> dict[str, str]:
    environment = run.measurement.latency.environment if run.measurement.latency else {}
    return {**run.measurement.device, **environment}


def _fact(name: str, held: Mapping[str, Sequence[str]], runs: int) -> Fact:
    return Fact(name, tuple((words, () if len(labels) == runs else tuple(labels)) for words, labels in held.items()))
