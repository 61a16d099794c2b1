"""How latency is taken, and how a runner's nanoseconds become the manifest's record.

The runner does the measuring (action "time" of ``edgepack.runner.contract``); here is what it is asked for, and what is made of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.errors import InputError, StepError
from edgepack.latency import detectors, statistics
from edgepack.pack.manifest import CurvePoint, Estimate, Latency, Truth
from edgepack.runner.contract import START

_NS_TO_MS = 1e-6

# A sustained run is shown in at most so many stretches (ten seconds each of ten minutes), none shorter than a median needs.
_STRETCHES = 60
# The profile whose purpose is to see a device change while it works: there a change is the finding, and spoils nothing.
SUSTAINED = "sustained"

# A run occupies its own threads; one more runnable task on average means that something else wanted the processor.
_OTHER_LOAD = 1.0


class LatencyError(StepError):
    """A runner's answer from which no latency can be made."""


@dataclass(frozen=True)
class Profile:
    """How much is measured.

    Attributes:
        name: as the command line calls it.
        warm_up: the fewest queries before measuring; the slowest settling seen took 5.
        pairs: the fewest interleaved rounds.
        seconds: the shortest time the rounds go on, so that a fast model is not measured within one burst of something else.
        warm_up_seconds: the longest time that more warm-up queries may take until they have settled.
    """

    name: str
    warm_up: int
    pairs: int
    seconds: float
    warm_up_seconds: float = 0.0


# smoke: does it run at all; p50, over long enough that one burst of another program (a scheduler's slice is 1 to 4 ms) is not all there is.
# quick: the A/A study's 300 pairs, p50 and p90 and a ratio that finds +5 %. mlperf: MLPerf Mobile's at least 1024 samples and 60 s, which
# also gives p99 (1000 samples). sustained: a phone without a fan throttles within minutes and is steady after ten.
PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("smoke", 5, 40, 0.2),
        Profile("quick", 20, 300, 1.0, 2.0),
        Profile("mlperf", 50, 1024, 60.0, 10.0),
        Profile(SUSTAINED, 50, 1024, 600.0, 10.0),
    )
}


def profile(name: str, seconds: float | None = None) -> Profile:
    """The profile called ``name``, going on for ``seconds`` instead of its own; InputError when there is none, or no such time."""
    if name not in PROFILES:
        raise InputError(f"latency profile '{name}' is not known", f"use {', '.join(PROFILES)} or none")
    if seconds is None:
        return PROFILES[name]
    if not 0 < seconds < float("inf"):
        raise InputError(f"a measurement cannot go on for {seconds:g} seconds", "give a time above 0")
    return replace(PROFILES[name], seconds=seconds)


class TimingResponse(msgspec.Struct, frozen=True):
    """What the runner answers beside the samples (see ``edgepack.runner.contract``); times in nanoseconds.

    Attributes:
        tick_ns: the step of the clock as it was seen; inner: queries timed as one, by label.
    """

    threads: int
    warm_up_ns: dict[str, tuple[int, ...]]
    timer_resolution_ns: float
    load_average: float | None = None
    tick_ns: float = 0.0
    inner: dict[str, int] = {}


def summarize(
    samples_ns: Mapping[str, NDArray[np.int64]],
    response: Mapping[str, Any],
    *,
    label: str,
    baseline: str | None,
    truth: Truth,
    environment: Mapping[str, str],
    profile: str = "",
    seed: int = 0,
) -> Latency:
    """One artifact's record from an interleaved run.

    Args:
        samples_ns: label -> (n,) int64, in the order taken, equally many for each label; label + ``START`` -> when each began, if known.
        response: the runner's response to the same request.
        label: whose record; ``baseline`` is the label of the fp32 artifact of the same run, None for the fp32 artifact itself.
        truth: "measured" only where the device matches the target.
        environment: see ``edgepack.latency.environment.words``.
        profile: its name; of "sustained" the record holds the curve, which needs start times, and changes over time are no fault.
        seed: of the bootstrap.

    Returns:
        Milliseconds; quantiles that have too few samples are None. What spoiled the measurement is in ``invalid``.

    Raises:
        LatencyError: samples are missing, empty, unequal or negative, a clock went back, or the response is not a timing response.
    """
    answer = _answer(response)
    taken, starts = split(samples_ns)
    series = _samples(taken, label)
    begun = _starts(starts, label, series)
    p50, p90, p99 = statistics.quantiles(series * _NS_TO_MS, (0.5, 0.9, 0.99))
    ratio = None if baseline is None else _ratio(_samples(taken, baseline), series, answer.threads, seed)
    coarse = _coarse_timer(series, answer, label)
    # The steps of a coarse clock look like modes and levels.
    changed = () if coarse else _changed(series)
    bins = statistics.histogram(series * _NS_TO_MS)
    return Latency(
        truth=truth,
        samples=series.size,
        threads=answer.threads,
        warm_up=len(answer.warm_up_ns.get(label, ())),
        p50=_estimate(p50),
        p90=_estimate(p90),
        p99=_estimate(p99),
        ratio_to_fp32=_estimate(None if ratio is None else ratio.typical),
        environment=dict(environment),
        histogram_edges_ms=bins.edges,
        histogram_counts=bins.counts,
        warnings=(
            *_warnings(series, answer, label, wants_ratio=baseline is not None, ratio=ratio),
            *(changed if profile == SUSTAINED else ()),
        ),
        profile=profile,
        invalid=(*coarse, *(() if profile == SUSTAINED else changed)),
        curve=curve(series, begun) if profile == SUSTAINED and begun is not None else (),
    )


def split(samples_ns: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
    """A runner's file of samples as (label -> nanoseconds a query, label -> start times)."""
    samples = {name: array for name, array in samples_ns.items() if not name.endswith(START)}
    starts = {name.removesuffix(START): array for name, array in samples_ns.items() if name.endswith(START)}
    return samples, starts


def curve(series: statistics.Samples, starts_ns: NDArray[np.int64]) -> tuple[CurvePoint, ...]:
    """Medians over time: up to 60 stretches of equally many queries, at least as many as a median needs; every query is in one.

    Args:
        series: (n,) nanoseconds; starts_ns: (n,) nanoseconds since the run began.
    """
    count = max(1, min(_STRETCHES, series.size // statistics.fewest_samples(0.5)))
    stretches = zip(np.array_split(starts_ns, count), np.array_split(series, count), strict=True)
    return tuple(CurvePoint(float(starts[0]) / 1e9, float(np.median(times)) * _NS_TO_MS) for starts, times in stretches)


def _answer(response: Mapping[str, Any]) -> TimingResponse:
    try:
        return msgspec.convert(dict(response), TimingResponse)
    except msgspec.ValidationError as error:
        raise LatencyError(f"the runner's answer is no timing response ({error})", "build the runner again from this version") from error


def _samples(samples_ns: Mapping[str, NDArray[np.int64]], label: str) -> statistics.Samples:
    """One label's series as float64 nanoseconds; exact below 2^53 ns, 104 days."""
    if label not in samples_ns:
        raise LatencyError(f"the run holds no samples of '{label}' (it has {', '.join(samples_ns) or 'none'})", "time the artifact again")
    series = samples_ns[label]
    if series.ndim != 1 or series.size == 0 or series.min() < 0:
        raise LatencyError(f"samples of '{label}' have shape {series.shape} or are negative", "time the artifact again, with pairs above 0")
    sizes = {each.size for each in samples_ns.values()}
    if len(sizes) != 1:
        raise LatencyError(f"the run holds different numbers of samples: {sorted(sizes)}", "time the artifacts again in one run")
    return series.astype(np.float64)


def _starts(starts: Mapping[str, NDArray[np.int64]], label: str, series: statistics.Samples) -> NDArray[np.int64] | None:
    """When each query began, where the run holds it; a query that began before the one before it had ended is no measurement."""
    if label not in starts:
        return None
    begun = starts[label]
    if begun.shape != series.shape:
        raise LatencyError(f"'{label}' has {begun.size} start times for {series.size} samples", "time the artifact again")
    # A sample of a batch is the mean, rounded: at most half a nanosecond above what the batch took.
    if (np.diff(begun) < series[:-1] - 1).any() or begun.min(initial=0) < 0:
        raise LatencyError(f"the clock went back while '{label}' was timed", "time the artifact again, on a device with a steady clock")
    return begun


def _ratio(base: statistics.Samples, other: statistics.Samples, threads: int, seed: int) -> statistics.Ratio | None:
    return statistics.ratio(base, other, statistics.ratio_quantile(threads), seed)


def _estimate(interval: statistics.Interval | None) -> Estimate | None:
    """As the manifest holds it; JSON has no infinity, so an unbounded interval is no estimate."""
    if interval is None or not np.isfinite([interval.value, interval.low, interval.high]).all():
        return None
    return Estimate(interval.value, interval.low, interval.high)


def _warnings(
    series: statistics.Samples, answer: TimingResponse, label: str, *, wants_ratio: bool, ratio: statistics.Ratio | None
) -> tuple[str, ...]:
    warm_up = np.asarray(answer.warm_up_ns.get(label, ()), np.float64)
    found = (
        _few_samples(series.size),
        "" if ratio is not None or not wants_ratio else f"no ratio to fp32: too few samples ({series.size}) or a timer that reads 0",
        _unsettled(warm_up, series),
        _correlated(series),
        _other_load(answer),
        _does_not_pay(ratio),
    )
    return tuple(line for line in found if line)


def _does_not_pay(ratio: statistics.Ratio | None) -> str:
    """A scheme that costs accuracy and time: only its size speaks for it, if anything does."""
    if ratio is None or ratio.typical.low <= 1:
        return ""
    return f"slower than fp32 on this machine ({ratio.typical.value:.2f} times): ship fp32 unless the device itself says otherwise"


def _few_samples(count: int) -> str:
    short = [f"p{100 * q:.0f} needs {statistics.fewest_samples(q)}" for q in (0.5, 0.9) if count < statistics.fewest_samples(q)]
    return f"{count} samples: {', '.join(short)}" if short else ""


def _coarse_timer(series: statistics.Samples, answer: TimingResponse, label: str) -> tuple[str, ...]:
    inner = answer.inner.get(label, 1)
    spans = np.rint(series * inner).astype(np.int64)
    # Means over a batch are rounded to whole nanoseconds: their common divisor says nothing of the clock.
    tick = max(statistics.timer_tick(spans, answer.timer_resolution_ns) if inner == 1 else answer.timer_resolution_ns, answer.tick_ns)
    if not statistics.is_coarse(spans, tick):
        return ()
    span, needed = spans.min() / tick, statistics.FEWEST_TICKS
    return (
        f"coarse timer: the shortest sample is {span:.0f} ticks of {tick:.0f} ns, {needed} are needed -> "
        "time several queries as one (inner), or on a device with a finer clock",
    )


def _changed(series: statistics.Samples) -> tuple[str, ...]:
    """The one change over time that explains the series best, with what to do."""
    shift = detectors.shift(series)
    if shift is not None and shift.kind == "step":
        return (
            f"step: after {shift.at:.0%} of the queries times were {shift.factor:.2f} times those before -> "
            "find what started or stopped there (another program, a change of clock), and measure again",
        )
    if shift is not None:
        return (
            f"drift: p25 of the last third is {shift.factor:.2f} times that of the first third -> "
            "let the device reach a steady temperature (a longer warm-up, or a pause), and measure again",
        )
    slow = detectors.throttling(series)
    if slow is None:
        return ()
    where = "one after the other" if slow.together else "scattered, a second mode"
    return (
        f"throttled: {slow.share:.0%} of the queries took {slow.factor:.2f} times as long as the others, {where} -> "
        "cool the device, fix its clock (governor), stop other programs, and measure again",
    )


def _unsettled(warm_up: statistics.Samples, series: statistics.Samples) -> str:
    if warm_up.size == 0:
        return "no warm-up: the first samples may be of a cold machine"
    if statistics.settled_after(warm_up, series) is None:
        return f"warm-up of {warm_up.size} queries had not settled before measuring"
    return ""


def _correlated(series: statistics.Samples) -> str:
    rho = detectors.correlated(series)
    if rho is None:
        return ""
    worth = series.size * (1 - rho) / (1 + rho)
    return f"neighbouring samples are alike (lag-1 autocorrelation {rho:.2f}): worth about {worth:.0f} of {series.size} -> measure longer"


def _other_load(answer: TimingResponse) -> str:
    if answer.load_average is None or answer.load_average <= answer.threads + _OTHER_LOAD:
        return ""
    return f"other load: load average {answer.load_average:.1f} with {answer.threads} thread(s) measured"
