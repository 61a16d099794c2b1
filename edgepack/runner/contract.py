"""The contract every runner speaks: one JSON request in, one JSON response out, tensors in .npz files.

This file and one runtime's adapter are bundled into a single-file program (``edgepack.runner.bundle``) that is sent to a device as it
is, so both import only the standard library, numpy and that runtime.

    python ort.pyz request.json     -> the response is the last line of standard output, exit code 0 when "ok"

Request: {"schema": 1, "action": "run" | "time" | "describe", "artifacts": {label: path}, "inputs": npz, "outputs": npz, "threads": n,
"warm_up": n, "warm_up_seconds": s, "pairs": n, "seconds": s, "inner": n, "unit": name, "state": {input: output}, "starts": [n]}.
``inputs`` holds one array for each artifact input, samples stacked on a new first axis. With a ``state`` the samples of a run are steps:
but for those that start a sequence (the first, and ``starts``) an input takes what the output gave. "run" takes one artifact and writes
outputs stacked the same way. The runner leaves when its standard input closes if "tethered" is true. "unit" is the compute unit that a
runtime with a choice of them is asked for; "" leaves it to the runtime.

"time" interleaves its artifacts ABBA on the first sample, at least "pairs" rounds and "seconds" long, after at least "warm_up" queries of
each and then more, for at most "warm_up_seconds", until their times have settled. It writes int64 nanoseconds a query, in the order taken,
under each label, and under label + "@start" when each query (of a batch: its first) started, nanoseconds since the first. "inner" queries
are timed as one, and the sample is their mean; 0 lets the runner choose: 1, or as many as the clock's step asks for, and so many that
"seconds" hold about a million rounds at most. "began_s" and "ended_s" of the response are when the rounds did, on ``time.monotonic``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import zipfile
from array import array as packed
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
# What the name of a label's start times ends in, in the file of samples; no label ends so.
START = "@start"

# Queries that are compared with as many before them to see whether times still fall: ten, so that one late query decides nothing.
WINDOW = 10

# A query, or a batch of them, spans at least so many steps of its clock: an error of one step is then at most 2 %.
FEWEST_TICKS = 50
# A batch is made for twice as many: times it is chosen by are not the fastest that will come.
_TICKS_AIMED_AT = 2 * FEWEST_TICKS
# More in a batch than any clock needs: 100 steps of 16 ms (the coarsest in use, of old Windows) hold as many queries of 1.5 us.
MOST_INNER = 2**20
# Rounds of a run that is as long as it is asked for: a thousand samples beyond p99.9, and some 50 MB an artifact with all copies.
MOST_ROUNDS = 1_000_000
# Rounds whose clock readings are looked through at once, an even number; bounds what that takes at 10 MB for six artifacts.
_SLICE = 2**16
# Steps of the clock that are looked at, and reads until it is given up: some 10 ms of a clock that never moves.
_STEPS, _READS = 16, 200_000

Query = Callable[[], None]
Arrays = dict[str, NDArray[Any]]


class Session(Protocol):
    """One loaded artifact. ``set_inputs`` and ``outputs`` copy; ``invoke`` is what gets timed."""

    def set_inputs(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Take one sample, by input name."""

    def invoke(self) -> None:
        """Compute."""

    def outputs(self) -> Arrays:
        """The results of the last ``invoke``, by output name."""

    def describe(self) -> dict[str, Any]:
        """Facts about the loaded artifact (partitions, delegates), as JSON data."""


class Runtime(Protocol):
    """What an adapter module provides.

    One whose time means nothing says why in an attribute ``no_latency``; "time" is then refused. One with a choice of compute units has a
    method ``on(unit)``: the runtime that uses these.
    """

    name: str
    version: str
    truth: str

    def load(self, artifact: str, threads: int) -> Session:
        """Open an artifact; ``threads`` >= 1."""


def main(runtime: Runtime, arguments: Sequence[str] | None = None) -> int:
    """Answer one request; every failure becomes a response with "ok": false."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print(f"usage: {runtime.name} request.json", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:  # noqa: PTH123 - devices may lack pathlib speed, and this file is sent as is
            request = json.load(file)
        response = {**_header(runtime), **_answer(runtime, request)}
    except Exception as error:
        response = {**_header(runtime), "ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(response), flush=True)
    return 0 if response["ok"] else 1


def _header(runtime: Runtime) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "runtime": runtime.name,
        "version": runtime.version,
        "truth": runtime.truth,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _answer(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    if request.get("schema") != SCHEMA:
        raise ValueError(f"request schema {request.get('schema')} is not {SCHEMA}")
    if request.get("tethered"):
        _leave_with_parent()
    if request["action"] not in _ACTIONS:
        raise ValueError(f"action '{request['action']}' is none of {', '.join(_ACTIONS)}")
    return {"ok": True, **_ACTIONS[request["action"]](_on_unit(runtime, request.get("unit", "")), request)}


def _on_unit(runtime: Runtime, unit: str) -> Runtime:
    if not unit:
        return runtime
    if not hasattr(runtime, "on"):
        raise ValueError(f"{runtime.name} has no compute units to choose from")
    chosen: Runtime = runtime.on(unit)
    return chosen


def _run(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    """All samples through one artifact."""
    ((_, artifact),) = request["artifacts"].items()
    session = runtime.load(artifact, int(request.get("threads", 1)))
    with np.load(request["inputs"], allow_pickle=False) as stacked:
        samples = {name: stacked[name] for name in stacked.files}
    count = _sample_count(samples)
    collected: dict[str, list[NDArray[Any]]] = {}
    state, starts = request.get("state") or {}, {0, *request.get("starts", ())}
    outputs: Arrays = {}
    for index in range(count):
        kept = {} if index in starts else {source: outputs[result] for source, result in state.items()}
        session.set_inputs({**{name: array[index] for name, array in samples.items()}, **kept})
        session.invoke()
        outputs = session.outputs()
        for name, array in outputs.items():
            collected.setdefault(name, []).append(array)
        _progress(index + 1, count)
    save_arrays(request["outputs"], {name: np.stack(arrays) for name, arrays in collected.items()})
    return {"count": count, "session": session.describe()}


def _time(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    """Interleaved ABBA queries of the artifacts on the first sample; nanoseconds, none dropped."""
    if getattr(runtime, "no_latency", ""):
        raise ValueError(f"there is nothing to time: {runtime.no_latency}")  # type: ignore[attr-defined]
    labels, pairs, seconds = list(request["artifacts"]), int(request["pairs"]), float(request.get("seconds", 0))
    if pairs < 1:
        raise ValueError(f"{pairs} pairs measure nothing")
    if any(label.endswith(START) for label in labels):
        raise ValueError(f"a label ends in '{START}', as the names of start times do")
    threads = int(request.get("threads", 1))
    queries = _loaded(runtime, request, threads)
    fewest, most = int(request["warm_up"]), float(request.get("warm_up_seconds", 0))
    warm_up = [settle(query, fewest, most) for query in queries]
    tick, asked = clock_step(), int(request.get("inner", 0))
    chosen = [batch_size(query, times, tick) for query, times in zip(queries, warm_up, strict=True)] if not asked else []
    inner = bounded(chosen, warm_up, seconds) or [asked] * len(queries)
    began = time.monotonic()
    starts, samples = interleave(queries, pairs, seconds, inner, _progress)
    ended = time.monotonic()
    named = dict(zip(labels, samples, strict=True))
    save_arrays(request["outputs"], {**named, **{label + START: taken for label, taken in zip(labels, starts, strict=True)}})
    return {
        "count": len(samples[0]),
        "warm_up_ns": dict(zip(labels, warm_up, strict=True)),
        "began_s": began,
        "ended_s": ended,
        "inner": dict(zip(labels, inner, strict=True)),
        "threads": threads,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "timer_resolution_ns": time.get_clock_info("perf_counter").resolution * 1e9,
        "tick_ns": tick,
    }


def _loaded(runtime: Runtime, request: dict[str, Any], threads: int) -> list[Query]:
    """What computes the first sample, for each artifact."""
    sessions = [runtime.load(path, threads) for path in request["artifacts"].values()]
    with np.load(request["inputs"], allow_pickle=False) as stacked:
        feed = {name: stacked[name][0] for name in stacked.files}
    for session in sessions:
        session.set_inputs(feed)
    return [session.invoke for session in sessions]


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz of arrays under their names, whatever these are (``numpy.savez`` takes no array called "file")."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def _describe(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    ((_, artifact),) = request["artifacts"].items()
    return {"session": runtime.load(artifact, int(request.get("threads", 1))).describe()}


_ACTIONS: dict[str, Callable[[Runtime, dict[str, Any]], dict[str, Any]]] = {"run": _run, "time": _time, "describe": _describe}


def interleave(
    queries: Sequence[Query], pairs: int, seconds: float, inner: Sequence[int], progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """A B, B A, A B, ...: at least ``pairs`` rounds and ``seconds`` long, so that drift falls on all alike.

    Args:
        queries: one for each artifact; inner: how many of each are timed as one.
        progress: told (done, pairs) after each of the first ``pairs`` rounds.

    Returns:
        For each artifact: start times, nanoseconds since the first; nanoseconds a query. Both (rounds,), in the order taken.

    Raises:
        ValueError: the clock went back.
    """
    starts, ends = [packed("q") for _ in queries], [packed("q") for _ in queries]
    forth = list(zip(queries, inner, starts, ends, strict=True))
    back, rounds = forth[::-1], 0
    now = time.perf_counter_ns()
    until = now + round(seconds * 1e9)
    while rounds < pairs or now < until:
        for query, count, started, ended in back if rounds % 2 else forth:
            start = time.perf_counter_ns()
            for _ in repeat(None, count):
                query()
            ended.append(time.perf_counter_ns())
            started.append(start)
        rounds += 1
        if rounds <= pairs:
            progress(rounds, pairs)
        before, now = now, time.perf_counter_ns()
        # At once: a clock that was set back by an hour would go on for one.
        _refuse_steps_back(now - before, rounds - 1)
    return _elapsed(np.asarray(starts), np.asarray(ends), np.asarray(inner))


def _elapsed(
    starts: NDArray[np.int64], ends: NDArray[np.int64], inner: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Clock readings (artifacts, rounds) -> start times and nanoseconds a query; ValueError when a later reading is the smaller one."""
    for first in range(0, starts.shape[1], _SLICE):
        # One round more than a slice: the step into the next one is looked at too.
        part = slice(first, first + _SLICE + 1)
        steps = np.diff(_in_order(starts[:, part], ends[:, part]))
        _refuse_steps_back(int(steps.min()), first + int(steps.argmin()) // (2 * len(starts)))
    return list(starts - starts.min()), list((ends - starts + inner[:, None] // 2) // inner[:, None])


def _in_order(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Clock readings (artifacts, rounds), from an even round on, as they were taken: every second round ran backwards."""
    taken = np.stack([starts, ends], axis=-1).swapaxes(0, 1)
    taken[1::2] = taken[1::2, ::-1].copy()
    return taken.ravel()


def _refuse_steps_back(step: int, rounds: int) -> None:
    if step < 0:
        raise ValueError(f"the clock went back {-step} ns after {rounds} rounds: no time of this run can be trusted")


def settle(query: Query, fewest: int, most_seconds: float) -> list[int]:
    """At least ``fewest`` queries, and then more until their times no longer fall or ``most_seconds`` are over; nanoseconds of each."""
    until = time.perf_counter_ns() + round(most_seconds * 1e9)
    times = [_query(query) for _ in range(fewest)]
    while most_seconds > 0 and not is_settled(times) and time.perf_counter_ns() < until:
        times += [_query(query) for _ in range(WINDOW)]
    return times


def is_settled(times: Sequence[int]) -> bool:
    """Whether the last ``WINDOW`` are no faster than the ``WINDOW`` before them; False where there are fewer.

    An earlier one is slower than a later one in at most half of all pairs: the Mann-Whitney statistic is not above the mean it has for
    equal windows (H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947) 50-60). It needs no scale and no distribution,
    and one late query moves it by a tenth. Of settled times half pass at each look, all but a thousandth within ten; while times fall by
    more than their noise, none does.
    """
    earlier, later = times[-2 * WINDOW : -WINDOW], times[-WINDOW:]
    return len(earlier) == WINDOW and sum((one > other) - (one < other) for one in earlier for other in later) <= 0


def clock_step() -> float:
    """Nanoseconds between readings of the clock that differ: its step, or the time of a reading where that is longer.

    The smallest of ``_STEPS``; what the platform reports is often 1 ns for clocks that step in microseconds.
    """
    last, steps = time.perf_counter_ns(), []
    for _ in repeat(None, _READS):
        now = time.perf_counter_ns()
        if now > last:
            steps.append(now - last)
            last = now
        if len(steps) == _STEPS:
            break
    return float(min(steps, default=0))


def batch_size(query: Query, warm_up: Sequence[int], tick_ns: float) -> int:
    """How many queries span twice ``FEWEST_TICKS`` steps of the clock; 1 when one does, or when none was run to tell.

    Doubled until the fastest of three batches does (the loop of ``timeit.Timer.autorange``).
    """
    needed, count = _TICKS_AIMED_AT * tick_ns, 1
    fastest = min(warm_up, default=needed)
    while fastest < needed and count < MOST_INNER:
        count *= 2
        fastest = min(_query(query, count) for _ in range(3))
    return count


def bounded(inner: Sequence[int], warm_up: Sequence[Sequence[int]], seconds: float) -> list[int]:
    """Batches so much larger, all by one factor, that ``seconds`` hold about ``MOST_ROUNDS`` rounds at most.

    By the fastest query of each warm-up, so that rounds are fewer rather than more.
    """
    round_ns = sum(count * min(times, default=0) for count, times in zip(inner, warm_up, strict=False))
    factor = max(1, -(-round(seconds * 1e9) // (MOST_ROUNDS * round_ns))) if round_ns else 1
    return [min(count * factor, MOST_INNER) for count in inner]


def _query(query: Query, count: int = 1) -> int:
    start = time.perf_counter_ns()
    for _ in repeat(None, count):
        query()
    return time.perf_counter_ns() - start


def _sample_count(samples: Arrays) -> int:
    """How many there are; an artifact without inputs has one answer."""
    counts = {len(array) for array in samples.values()}
    if len(counts) > 1:
        raise ValueError(f"inputs hold different numbers of samples: {sorted(counts)}")
    return counts.pop() if counts else 1


# Ten lines a run at most: progress is for people, and each line costs a write on a slow link.
_PROGRESS_LINES = 10


def _progress(done: int, total: int) -> None:
    if done * _PROGRESS_LINES // total != (done - 1) * _PROGRESS_LINES // total:
        print(json.dumps({"progress": [done, total]}), file=sys.stderr, flush=True)


def _leave_with_parent() -> None:
    """Exit when standard input reaches its end: the connection or the parent is gone."""

    def wait() -> None:
        # Not through sys.stdin: Python aborts at its end when a thread still holds that reader's lock.
        while os.read(0, 65536):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
