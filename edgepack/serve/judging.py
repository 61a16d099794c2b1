"""What a visitor posted, judged here: its outputs by the floors of the pack, its times by the statistics of every other device.

Nothing is taken on its word: it sends numbers, and what they mean is decided from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

import edgepack
from edgepack.arrays import Arrays
from edgepack.devices.runner_process import hub_arrays
from edgepack.errors import InputError, one_line
from edgepack.latency.on_device import OpenPack, parity_of_outputs
from edgepack.latency.protocol import Profile, summarize
from edgepack.pack.manifest import SCHEMA, Estimate, Latency, Measurement, Parity, Truth
from edgepack.pack.on_devices import WEB
from edgepack.runner.contract import START
from edgepack.serve import app as apps
from edgepack.serve import browser as browsers
from edgepack.serve.messages import Answers, App, Browser, Next, OutputTensor, OutputVerdict, Reply, Series, Times, TimeVerdict
from edgepack.serve.subjects import RUNTIMES, Served, Subject
from edgepack.targets import Target
from edgepack.text import cleaned
from edgepack.verify.judge import judge_parity

_BASELINE = "fp32"
# float64 holds every nanosecond of 104 days.
_MOST_NS = 2.0**53
# Beyond what the server saw pass: clocks of two machines differ in rate by far less.
_LENIENCE = 1.05
# Between the last query's start and the end of a run a page lets its screen be drawn (16 ms a frame); a browser's clock may step by 100 ms.
_PAUSE_SECONDS = 0.12
_HIDDEN = "the page was not in view for some of the run, and browsers slow such pages down -> keep it in view, and measure again"


class PostError(InputError):
    """A post with numbers that no artifact gives and no clock shows."""


@dataclass(frozen=True)
class Answered:
    """One artifact's answers in a browser or an app, judged; ``target``: whose measurement they are."""

    subject: Subject
    target: str
    parity: Parity
    failures: tuple[str, ...]
    device: dict[str, str]


Visitor = Browser | App


def truth_of(visitor: Visitor, target: Target | None) -> Truth:
    """What kind of truth a visitor's numbers are about an artifact's target, or about the target "web"."""
    return browsers.truth(visitor) if isinstance(visitor, Browser) else apps.truth(visitor, target)


def words_of(visitor: Visitor, threads: int, runtime: str = "") -> dict[str, str]:
    """Facts of a visitor; ``runtime``: that the page was given."""
    return browsers.words(visitor, runtime, threads) if isinstance(visitor, Browser) else apps.words(visitor, threads)


def answered(subject: Subject, post: Answers, held: Served, visitor: Visitor) -> Answered:
    """Outputs against the float64 run of the student.

    Raises:
        PostError: an output is missing, or is not of the type and shape that the artifact gives.
    """
    outputs = hub_arrays(_outputs(subject, post), subject.artifact.outputs)
    _demand_shapes(outputs, held.pack)
    truth = truth_of(visitor, held.pack.target(subject.artifact))
    samples = len(next(iter(outputs.values())))
    try:
        parity = Parity(truth, samples, parity_of_outputs(held.pack, subject.artifact, outputs))
    except (KeyError, ValueError, TypeError) as error:
        raise PostError(f"{subject.name} does not answer as the manifest says ({one_line(error)})", "build the pack again") from error
    runner = subject.artifact.runner
    runtime = f"{RUNTIMES[runner]} {held.versions[runner]}" if isinstance(visitor, Browser) else ""
    target = WEB if isinstance(visitor, Browser) else subject.artifact.target
    failures = judge_parity(parity, target, subject.artifact.scheme)
    return Answered(subject, target, parity, failures, words_of(visitor, post.threads, runtime))


def _outputs(subject: Subject, post: Answers) -> Arrays:
    wanted = {binding.name: binding.dtype for binding in subject.artifact.outputs}
    if sorted(each.name for each in post.outputs) != sorted(wanted):
        raise PostError(f"{subject.name} gives {', '.join(wanted)}; sent were {', '.join(each.name for each in post.outputs)}", _AGAIN)
    return {each.name: _tensor(each, wanted[each.name], len(next(iter(subject.feed.values())))) for each in post.outputs}


_AGAIN = "reload the page, or start the app again, and measure again"


def _tensor(sent: OutputTensor, dtype: str, samples: int) -> NDArray[np.generic]:
    kind = np.dtype(dtype).newbyteorder("<")
    size = int(np.prod(sent.shape, dtype=object)) * kind.itemsize if sent.shape else 0
    if sent.dtype != dtype or size != len(sent.data) or sent.shape[:1] != (samples,) or not size:
        raise PostError(f"output '{sent.name}' is {sent.dtype}{list(sent.shape)} in {len(sent.data)} bytes, not {dtype}", _AGAIN)
    return np.frombuffer(sent.data, kind).reshape(sent.shape).astype(dtype)


def _demand_shapes(outputs: Arrays, pack: OpenPack) -> None:
    for name, array in outputs.items():
        wanted = list(pack.reference[name].shape) if name in pack.reference else "known to the pack"
        if list(array.shape) != wanted:
            raise PostError(f"output '{name}' has shape {list(array.shape)}, not {wanted}", _AGAIN)


def timed(answered: Sequence[Answered], post: Times, profile: Profile, visitor: Visitor, passed_seconds: float) -> Mapping[str, Latency]:
    """Scheme -> latency of an interleaved run.

    Args:
        passed_seconds: since the run was asked for; no run took longer.

    Raises:
        PostError: the series are not of these artifacts, are too short, or sum up to more time than passed.
        LatencyError: see ``summarize``.
    """
    if [series.subject for series in post.series] != [each.subject.id for each in answered]:
        raise PostError("the times are not of the artifacts that were asked for", _AGAIN)
    labelled = dict(zip((each.subject.label for each in answered), post.series, strict=True))
    samples = {label: _nanoseconds(series.taken, label) for label, series in labelled.items()}
    starts = {label + START: _nanoseconds(series.starts, label) for label, series in labelled.items()}
    _demand_time(samples, starts, labelled, profile, passed_seconds)
    response = {
        "threads": post.threads,
        "warm_up_ns": {label: [round(each) for each in series.warm_up_ns] for label, series in labelled.items()},
        "timer_resolution_ns": post.tick_ns,
        "tick_ns": post.tick_ns,
        "inner": {label: series.inner for label, series in labelled.items()},
    }
    baseline = _BASELINE if _BASELINE in samples else None
    found = {}
    for each in answered:
        label = each.subject.label
        latency = summarize(
            {**samples, **starts},
            response,
            label=label,
            baseline=None if label == baseline else baseline,
            truth=each.parity.truth,
            environment=each.device,
            profile=profile.name,
        )
        found[label] = _with_conditions(latency, post, profile, visitor)
    return found


def _with_conditions(latency: Latency, post: Times, profile: Profile, visitor: Visitor) -> Latency:
    """Beside what a visitor says against its own times."""
    if isinstance(visitor, Browser):
        return msgspec.structs.replace(latency, invalid=(*latency.invalid, _HIDDEN)) if post.hidden else latency
    spoiled, remarks = apps.spoiled(visitor, post, profile.name), apps.remarks(visitor, post, profile.name)
    return msgspec.structs.replace(latency, invalid=(*latency.invalid, *spoiled), warnings=(*latency.warnings, *remarks))


def _nanoseconds(data: bytes, label: str) -> NDArray[np.int64]:
    if len(data) % 8:
        raise PostError(f"the times of '{label}' are no row of numbers", _AGAIN)
    values = np.frombuffer(data, "<f8")
    if not np.isfinite(values).all() or (values < 0).any() or (values >= _MOST_NS).any():
        raise PostError(f"the times of '{label}' hold what is no time", _AGAIN)
    whole: NDArray[np.int64] = np.rint(values).astype(np.int64)
    return whole


def _demand_time(
    samples: Mapping[str, NDArray[np.int64]],
    starts: Mapping[str, NDArray[np.int64]],
    series: Mapping[str, Series],
    profile: Profile,
    passed_seconds: float,
) -> None:
    """As many rounds and seconds as were asked for, by which the record is called, in no more time than there was."""
    fewest = min(array.size for array in samples.values())
    if fewest < profile.pairs:
        raise PostError(f"there are {fewest} rounds, {profile.pairs} were asked for", _AGAIN)
    span = max(float(array.max(initial=0)) for array in starts.values()) / 1e9
    if span < profile.seconds / _LENIENCE - _PAUSE_SECONDS:
        raise PostError(f"the rounds went on for {span:.1f} s, {profile.seconds:g} s were asked for", _AGAIN)
    taken = sum(float(samples[label].sum()) * each.inner for label, each in series.items()) / 1e9
    claimed = max(taken, span)
    if claimed > passed_seconds * _LENIENCE:
        raise PostError(f"it claims to have measured for {claimed:.1f} s; only {passed_seconds:.1f} s passed", _AGAIN)


def measurement(found: Answered, latency: Latency | None) -> Measurement:
    """The record of one artifact; a visitor's words are a stranger's, and become plain text here."""
    artifact = found.subject.artifact
    return cleaned(
        Measurement(
            schema=SCHEMA,
            edgepack=edgepack.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            target=found.target,
            scheme=artifact.scheme,
            artifact=artifact.file.sha256,
            device=found.device,
            truth=found.parity.truth,
            parity=found.parity,
            failures=found.failures,
            latency=latency,
            unit=found.subject.unit,
        )
    )


def answers_reply(found: Answered, due: Next) -> Reply:
    """What the visitor is told of an artifact's answers."""
    verdicts = tuple(OutputVerdict(each.name, each.sqnr_db, each.floor_db, each.non_finite) for each in found.parity.outputs)
    return Reply(due, truth=found.parity.truth, verdicts=verdicts, failures=found.failures)


def times_reply(measured: Sequence[Measurement], answered: Sequence[Answered], post: Times, due: Next) -> Reply:
    """What the visitor is told of a run."""
    told = {}
    for each, found, series in zip(measured, answered, post.series, strict=True):
        assert each.latency is not None
        told[str(found.subject.id)] = _verdict(each.latency, series.inner)
    return Reply(due, truth=measured[0].truth, latencies=told)


def _verdict(latency: Latency, inner: int) -> TimeVerdict:
    p50, p90, ratio = (_triple(each) for each in (latency.p50, latency.p90, latency.ratio_to_fp32))
    return TimeVerdict(p50, p90, ratio, latency.samples, inner, latency.invalid, latency.warnings)


def _triple(estimate: Estimate | None) -> tuple[float, float, float] | None:
    return None if estimate is None else (estimate.value, estimate.low, estimate.high)
