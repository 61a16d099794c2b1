"""Speaking the runner contract to a process: the request, its time limit, and the response checked against a schema."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgepack.converter.process import ended, ending, kill_tree
from edgepack.converter.step import Limits
from edgepack.converter.worker import limit_memory
from edgepack.devices import tflite_runtime
from edgepack.errors import StepError, is_out_of_memory, is_out_of_space
from edgepack.runner.bundle import PORTABLE, bundle
from edgepack.runner.contract import SCHEMA

# Characters of a runner's last words that a failure quotes.
_QUOTE = 200


class RunnerError(StepError):
    """A runner that reported a failure, crashed, hung or spoke out of turn."""


class Request(msgspec.Struct, frozen=True):
    """What a runner is asked (edgepack/runner/contract.py explains the fields)."""

    action: str
    artifacts: dict[str, str]
    inputs: str
    outputs: str
    threads: int = 1
    warm_up: int = 0
    pairs: int = 0
    seconds: float = 0.0
    warm_up_seconds: float = 0.0
    inner: int = 0
    unit: str = ""
    schema: int = SCHEMA
    tethered: bool = True
    state: dict[str, str] = {}
    starts: tuple[int, ...] = ()


class _Progress(msgspec.Struct, frozen=True):
    progress: tuple[int, int]


# Longer than any version; it is written into packs.
_Name = Annotated[str, msgspec.Meta(max_length=200)]


class Response(msgspec.Struct, frozen=True):
    """What a runner answers; fields of other actions are absent."""

    schema: int
    ok: bool
    runtime: _Name
    version: _Name
    truth: _Name
    machine: _Name = ""
    python: _Name = ""
    error: str = ""
    count: int = 0
    threads: int = 1
    session: dict[str, Any] = {}
    warm_up_ns: dict[str, list[int]] = {}
    load_average: float | None = None
    timer_resolution_ns: float = 0.0
    tick_ns: float = 0.0
    inner: dict[str, int] = {}
    began_s: float | None = None
    ended_s: float | None = None


def run_local(
    runner: str, request: Request, folder: Path, limits: Limits, progress: Callable[[int, int], None] = lambda *_: None
) -> Response:
    """Run a runner on this machine.

    Args:
        runner: "ort", "litert", "tflite_runtime" or "mil".
        folder: where the request and the bundled program are written.

    Raises:
        RunnerError: it failed; the message quotes its own words.
    """
    path = folder / "request.json"
    path.write_bytes(msgspec.json.encode(request))
    if runner == tflite_runtime.RUNNER:
        held = tflite_runtime.environment(progress)
        command = held.command(str(bundle(runner, folder / f"{runner}.pyz")), str(path))
        return converse(command, runner, limits, progress, held.variables())
    return converse([*_command(runner, folder), str(path)], runner, limits, progress)


def _command(runner: str, folder: Path) -> list[str]:
    if runner in PORTABLE:
        return [sys.executable, str(bundle(runner, folder / f"{runner}.pyz"))]
    # -P: a file of the user's that is called numpy.py must not be taken for the library.
    return [sys.executable, "-P", "-m", f"edgepack.runner.{runner}"]


def converse(
    command: list[str],
    runner: str,
    limits: Limits,
    progress: Callable[[int, int], None],
    variables: Mapping[str, str] = os.environ,
) -> Response:
    """Start the command, follow its progress, return its response; RunnerError when there is none or it is not ok."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**variables, "ORT_DISABLE_TELEMETRY": "1"},
        preexec_fn=partial(limit_memory, limits.bytes),
    )
    said, complained = _collect(process, runner, limits, progress)
    return respond(said.decode(errors="replace"), complained.decode(errors="replace"), process.returncode, runner)


def _collect(process: subprocess.Popen[bytes], runner: str, limits: Limits, progress: Callable[[int, int], None]) -> tuple[bytes, bytes]:
    """Both streams to the end of the process. Standard input stays open meanwhile: a tethered runner leaves when it closes."""
    assert process.stdout is not None and process.stderr is not None
    complained: list[bytes] = []
    follower = threading.Thread(target=_follow, args=(process.stderr, complained, progress), daemon=True)
    hung = threading.Event()

    def stop() -> None:
        hung.set()
        kill_tree(process)

    timer = threading.Timer(limits.seconds, stop)
    # A daemon: Ctrl-C must not wait for it.
    timer.daemon = True
    try:
        with ended(process):
            follower.start()
            timer.start()
            said = process.stdout.read()
            process.wait()
    finally:
        timer.cancel()
    follower.join(5)
    if hung.is_set():
        raise RunnerError(f"the {runner} runner hung: no answer after {limits.seconds:g} s", "raise --timeout, or run fewer samples")
    return said, b"".join(complained)


def _follow(stream: Any, complained: list[bytes], progress: Callable[[int, int], None]) -> None:
    for line in stream:
        try:
            done, total = msgspec.json.decode(line, type=_Progress).progress
        except (msgspec.MsgspecError, UnicodeDecodeError):
            complained.append(line)
        else:
            progress(done, total)


def respond(said: str, complained: str, code: int, runner: str) -> Response:
    """What a runner answered, from both of its streams and its exit code; RunnerError when it is no answer or not ok."""
    lines = said.strip().splitlines()
    try:
        response = msgspec.json.decode(lines[-1] if lines else "", type=Response)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        words = (complained.strip().splitlines() or ["it said nothing"])[-1][:_QUOTE]
        raise RunnerError(
            f"the {runner} runner crashed ({ending(code)}): {words}", _hint(words, "the artifact aborts its runtime; report it")
        ) from error
    if response.schema != SCHEMA:
        raise RunnerError(f"the {runner} runner answers in schema {response.schema}, not {SCHEMA}", "send it the runner of this edgepack")
    if not response.ok:
        words = response.error[:_QUOTE]
        raise RunnerError(f"the {runner} runner failed: {words}", _hint(words, "the artifact does not run; report it with the model"))
    return response


def _hint(words: str, otherwise: str) -> str:
    if is_out_of_space(words):
        return "free some space there"
    return "raise --memory, or use a smaller model" if is_out_of_memory(words) else otherwise


def artifact_feed(arrays: Mapping[str, Any], bindings: Any) -> dict[str, Any]:
    """Stacked samples in the student's terms -> in the artifact's: names, layouts, dtypes.

    Raises:
        RunnerError: integers that do not survive the artifact's dtype.
    """
    import numpy as np

    feed = {}
    for binding in bindings:
        stacked = np.asarray(arrays[binding.hub_name])
        permuted = stacked.transpose(0, *(axis + 1 for axis in binding.permutation)) if binding.permutation else stacked
        feed[binding.name] = np.ascontiguousarray(permuted, dtype=binding.dtype)
        if permuted.dtype.kind in "iu" and not np.array_equal(feed[binding.name], permuted):
            raise RunnerError(
                f"input '{binding.hub_name}' holds {permuted.dtype} numbers that the artifact's {binding.dtype} cannot",
                f"keep its values within {binding.dtype}",
            )
    return feed


def hub_arrays(arrays: Mapping[str, Any], bindings: Any) -> dict[str, Any]:
    """Stacked artifact outputs -> in the student's terms."""
    import numpy as np

    result = {}
    for binding in bindings:
        stacked = np.asarray(arrays[binding.name])
        inverse = np.argsort(binding.permutation) if binding.permutation else ()
        result[binding.hub_name] = stacked.transpose(0, *(int(axis) + 1 for axis in inverse)) if binding.permutation else stacked
    return result
