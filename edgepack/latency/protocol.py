"""How latency is taken, and how a runner's nanoseconds become the manifest's record.

The runner does the measuring (action "time" of ``edgepack.runner.contract``); here is what it is asked for, and what is made of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.errors import InputError, StepError
from edgepack.latency import statistics
from edgepack.pack.manifest import Estimate, Latency, Truth

_NS_TO_MS = 1e-6

# Above this the interval still holds (longer blocks are resampled) but a reader should know that there are fewer samples than it seems:
# rho 0.5 leaves a third.
_CORRELATED_ABOVE = 0.5

# A run occupies its own threads; one more runnable task on average means that something else wanted the processor.
_OTHER_LOAD = 1.0


class LatencyError(StepError):
    """A runner's answer from which no latency can be made."""


@dataclass(frozen=True)
class Profile:
    """How much is measured.

    Attributes:
        name: as the command line calls it.
        warm_up: queries before measuring; the slowest settling seen took 5.
        pairs: the fewest interleaved rounds.
        seconds: the shortest time the rounds go on, so that a fast model is not measured within one burst of something else.
    """

    name: str
    warm_up: int
    pairs: int
    seconds: float


# smoke: does it run at all; p50 only (20 samples). quick: the A/A study's 300 pairs, p50 and p90 and a ratio that finds +5 %.
# mlperf: MLPerf Mobile's at least 1024 samples and 60 s, which also gives p99 (1000 samples).
PROFILES: Mapping[str, Profile] = {
    profile.name: profile for profile in (Profile("smoke", 5, 20, 0.0), Profile("quick", 20, 300, 1.0), Profile("mlperf", 50, 1024, 60.0))
}


def profile(name: str) -> Profile:
    """The profile called ``name``; InputError when there is none."""
    if name not in PROFILES:
        raise InputError(f"latency profile '{name}' is not known", f"use {', '.join(PROFILES)} or none")
    return PROFILES[name]


class TimingResponse(msgspec.Struct, frozen=True):
    """What the runner answers beside the samples (see ``edgepack.runner.contract``); times in nanoseconds."""

    threads: int
    warm_up_ns: dict[str, tuple[int, ...]]
    timer_resolution_ns: float
    load_average: float | None = None


def summarize(
    samples_ns: Mapping[str, NDArray[np.int64]],
    response: Mapping[str, Any],
    *,
    label: str,
    baseline: str | None,
    truth: Truth,
    environment: Mapping[str, str],
    seed: int = 0,
) -> Latency:
    """One artifact's record from an interleaved run.

    Args:
        samples_ns: label -> (n,) int64, in the order taken, equally many for each label.
        response: the runner's response to the same request.
        label: whose record; ``baseline`` is the label of the fp32 artifact of the same run, None for the fp32 artifact itself.
        truth: "measured" only where the device matches the target.
        environment: see ``edgepack.latency.environment.record``.
        seed: of the bootstrap.

    Returns:
        Milliseconds; quantiles that have too few samples are None.

    Raises:
        LatencyError: samples are missing, empty, unequal or negative, or the response is not a timing response.
    """
    answer = _answer(response)
    series = _samples(samples_ns, label)
    p50, p90, p99 = statistics.quantiles(series * _NS_TO_MS, (0.5, 0.9, 0.99), seed)
    ratio = None if baseline is None else _ratio(_samples(samples_ns, baseline), series, answer.threads, seed)
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
        warnings=_warnings(series, answer, label, wants_ratio=baseline is not None, ratio=ratio),
    )


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
        _coarse_timer(series, answer.timer_resolution_ns),
        _unsettled(warm_up, series),
        _drifted(series),
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


def _coarse_timer(series: statistics.Samples, reported_ns: float) -> str:
    samples = series.astype(np.int64)
    tick = statistics.timer_tick(samples, reported_ns)
    if not statistics.is_coarse(samples, tick):
        return ""
    return f"coarse timer: the shortest sample is {samples.min() / tick:.0f} ticks of {tick:.0f} ns, {statistics.FEWEST_TICKS} are needed"


def _unsettled(warm_up: statistics.Samples, series: statistics.Samples) -> str:
    if warm_up.size == 0:
        return "no warm-up: the first samples may be of a cold machine"
    if statistics.settled_after(warm_up, series) is None:
        return f"warm-up of {warm_up.size} queries had not settled before measuring"
    return ""


def _drifted(series: statistics.Samples) -> str:
    moved = statistics.drift(series)
    if moved is None or moved <= statistics.DRIFT_ABOVE:
        return ""
    return f"drift: p25 of the last third is {moved:.2f} times that of the first third"


def _correlated(series: statistics.Samples) -> str:
    rho = statistics.autocorrelation(series)
    if rho <= _CORRELATED_ABOVE:
        return ""
    return f"neighbouring samples are alike (lag-1 autocorrelation {rho:.2f}): worth fewer samples than {series.size}"


def _other_load(answer: TimingResponse) -> str:
    if answer.load_average is None or answer.load_average <= answer.threads + _OTHER_LOAD:
        return ""
    return f"other load: load average {answer.load_average:.1f} with {answer.threads} thread(s) measured"
