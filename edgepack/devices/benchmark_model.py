"""Google's ``benchmark_model`` on a phone, where the user has it: driven, read, and held against our own times.

A cross-check by another hand: it times the same file on the same phone in another way (all queries in a row, random inputs, its own
build of LiteRT, a clock of microseconds), so it confirms the order of our times and no more. What it says is of the same kind of truth
as the session it ran in. Options and output: tflite/tools/benchmark of LiteRT's public repository.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgepack.devices.adb import SECONDS
from edgepack.devices.adb_session import AdbSession
from edgepack.devices.runner_process import RunnerError
from edgepack.pack.manifest import Truth

# Queries and seconds at least; the tool's own defaults are 50 and 1.
_RUNS, _LEAST_SECONDS, _MOST_SECONDS = 50, 1.0, 60.0
# It is built apart from the runtime: a factor between the two medians within which they tell of the same work.
APART = 1.25
_COUNTS = re.compile(r"\bcount=(\d+)\b(.*)")
_FIGURE = re.compile(r"\b(first|curr|min|max|avg|std|p5|median|p95)=([0-9.e+]+)")
_TIMINGS = re.compile(
    r"Inference timings in us: Init: ([0-9.e+]+), First inference: ([0-9.e+]+), Warmup \(avg\): ([0-9.e+]+), Inference \(avg\): ([0-9.e+]+)"
)
_MEMORY = re.compile(r"Memory footprint delta from the start of the tool \(MB\): init=([0-9.e+-]+) overall=([0-9.e+-]+)")

_Time = Annotated[float, Meta(ge=0, le=1e15)]


class BenchmarkModel(msgspec.Struct, frozen=True):
    """What the tool found. Times are milliseconds a query, memory is the growth of its own process in MB.

    Attributes:
        truth: of the phone it ran on: "emulated" where that is none, else "measured" or "host" as the session's own times.
        init_ms, first_ms, warm_up_ms: loading, the first query, the mean of the warm-up.
        count, mean_ms, least_ms, most_ms: of the measured queries. median_ms: None where the tool is too old to say.
    """

    truth: Truth
    init_ms: _Time
    first_ms: _Time
    warm_up_ms: _Time
    mean_ms: _Time
    count: int
    least_ms: _Time
    most_ms: _Time
    median_ms: _Time | None = None
    memory_mb: float | None = None

    @property
    def typical_ms(self) -> float:
        """The median, or the mean where there is none."""
        return self.mean_ms if self.median_ms is None else self.median_ms


def benchmark_model(session: AdbSession, program: Path, artifact: Path, truth: Truth, *, threads: int = 1) -> BenchmarkModel:
    """Run the tool on an artifact in a session, so that nobody else measures meanwhile.

    Args:
        program: the tool, built for the phone. artifact: a .tflite file.
        truth: of the session's own times.

    Raises:
        RunnerError: it failed, or says what is no result. TransportError: the connection failed.
    """
    tool, model = session.tool(program), session.artifact(artifact)
    options = {
        "graph": model,
        "num_threads": threads,
        "num_runs": _RUNS,
        "min_secs": _LEAST_SECONDS,
        "max_secs": _MOST_SECONDS,
        "use_xnnpack": "true",
    }
    line = " ".join([shlex.quote(tool), *(shlex.quote(f"--{name}={value}") for name, value in options.items())])
    done = session.shell(line, _MOST_SECONDS + 2 * SECONDS)
    said = f"{done.said}\n{done.words}"
    if done.code:
        last = (said.strip().splitlines() or ["it said nothing"])[-1][:200]
        raise RunnerError(
            f"benchmark_model failed ({done.code}): {last}", "see that it is built for this phone, and knows the artifact's operators"
        )
    return read(said, truth)


def read(said: str, truth: Truth) -> BenchmarkModel:
    """What its output says; the last ``count=`` line is of the measured queries, the one before of the warm-up.

    Raises:
        RunnerError: it is none.
    """
    timings, counts, memory = _TIMINGS.search(said), _COUNTS.findall(said), _MEMORY.search(said)
    if timings is None or not counts:
        raise RunnerError("benchmark_model says no times", "take a benchmark_model of LiteRT; others print in another form")
    count, rest = counts[-1]
    try:
        figures = {name: float(value) / 1000 for name, value in _FIGURE.findall(rest)}
        init, first, warm_up, mean = (float(word) / 1000 for word in timings.groups())
        found = {
            "truth": truth,
            "init_ms": init,
            "first_ms": first,
            "warm_up_ms": warm_up,
            "mean_ms": mean,
            "count": int(count),
            "least_ms": figures["min"],
            "most_ms": figures["max"],
            "median_ms": figures.get("median"),
            "memory_mb": float(memory[2]) if memory else None,
        }
        return msgspec.convert(found, BenchmarkModel)
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise RunnerError(f"benchmark_model says what is no time ({error})", "take a benchmark_model of LiteRT") from error


def cross_check(found: BenchmarkModel, ours_ms: float) -> str:
    """One line that holds our median against the tool's, whatever kind of truth the two are."""
    ratio = found.typical_ms / ours_ms if ours_ms > 0 else float("inf")
    verdict = "agrees" if 1 / APART <= ratio <= APART else "does not agree"
    what = "mean" if found.median_ms is None else "median"
    figures = f"its {what} is {found.typical_ms:.3g} ms over {found.count} queries, {ratio:.2f} of ours ({found.truth})"
    return f"benchmark_model {verdict}: {figures}"
