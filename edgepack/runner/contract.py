"""The contract every runner speaks: one JSON request in, one JSON response out, tensors in .npz files.

This file and one runtime's adapter are bundled into a single-file program (``edgepack.runner.bundle``) that is sent to a device as it
is, so both import only the standard library, numpy and that runtime.

    python ort.pyz request.json     -> the response is the last line of standard output, exit code 0 when "ok"

Request: {"schema": 1, "action": "run" | "time" | "describe", "artifacts": {label: path}, "inputs": npz, "outputs": npz, "threads": n,
"warm_up": n, "pairs": n, "seconds": s}. ``inputs`` holds one array for each artifact input, samples stacked on a new first axis. "run"
takes one artifact and writes outputs stacked the same way. "time" interleaves its artifacts ABBA on the first sample and writes
nanoseconds for each query under each label. The runner leaves when its standard input closes if "tethered" is true.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
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
    """What an adapter module provides. One whose time means nothing says why in an attribute ``no_latency``; "time" is then refused."""

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
    return {"ok": True, **_ACTIONS[request["action"]](runtime, request)}


def _run(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    """All samples through one artifact."""
    ((_, artifact),) = request["artifacts"].items()
    session = runtime.load(artifact, int(request.get("threads", 1)))
    with np.load(request["inputs"], allow_pickle=False) as stacked:
        samples = {name: stacked[name] for name in stacked.files}
    count = _sample_count(samples)
    collected: dict[str, list[NDArray[Any]]] = {}
    for index in range(count):
        session.set_inputs({name: array[index] for name, array in samples.items()})
        session.invoke()
        for name, array in session.outputs().items():
            collected.setdefault(name, []).append(array)
        _progress(index + 1, count)
    save_arrays(request["outputs"], {name: np.stack(arrays) for name, arrays in collected.items()})
    return {"count": count, "session": session.describe()}


def _time(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    """Interleaved ABBA queries of one or two artifacts on the first sample; nanoseconds, none dropped."""
    if getattr(runtime, "no_latency", ""):
        raise ValueError(f"there is nothing to time: {runtime.no_latency}")  # type: ignore[attr-defined]
    if int(request["pairs"]) < 1:
        raise ValueError(f"{request['pairs']} pairs measure nothing")
    threads = int(request.get("threads", 1))
    sessions = [runtime.load(path, threads) for path in request["artifacts"].values()]
    with np.load(request["inputs"], allow_pickle=False) as stacked:
        feed = {name: stacked[name][0] for name in stacked.files}
    for session in sessions:
        session.set_inputs(feed)
    warm_up = [_query_many(session.invoke, int(request["warm_up"])) for session in sessions]
    samples = _interleave([session.invoke for session in sessions], int(request["pairs"]), float(request.get("seconds", 0)))
    labels = list(request["artifacts"])
    save_arrays(request["outputs"], dict(zip(labels, samples, strict=True)))
    return {
        "count": len(samples[0]),
        "warm_up_ns": dict(zip(labels, warm_up, strict=True)),
        "threads": threads,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "timer_resolution_ns": time.get_clock_info("perf_counter").resolution * 1e9,
    }


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


def _interleave(queries: list[Callable[[], None]], pairs: int, seconds: float) -> list[NDArray[np.int64]]:
    """A B, B A, A B, ...: at least ``pairs`` rounds and ``seconds`` long, so that drift falls on all alike."""
    rows: list[list[int]] = []
    end = time.perf_counter() + seconds
    while len(rows) < pairs or time.perf_counter() < end:
        order = range(len(queries)) if len(rows) % 2 == 0 else range(len(queries) - 1, -1, -1)
        row = [0] * len(queries)
        for index in order:
            row[index] = _query(queries[index])
        rows.append(row)
        if len(rows) <= pairs:
            _progress(len(rows), pairs)
    return list(np.asarray(rows, np.int64).T)


def _query(invoke: Callable[[], None]) -> int:
    start = time.perf_counter_ns()
    invoke()
    return time.perf_counter_ns() - start


def _query_many(invoke: Callable[[], None], count: int) -> list[int]:
    return [_query(invoke) for _ in range(count)]


def _sample_count(samples: Arrays) -> int:
    counts = {len(array) for array in samples.values()}
    if len(counts) != 1:
        raise ValueError(f"inputs hold different numbers of samples: {sorted(counts)}")
    return counts.pop()


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
