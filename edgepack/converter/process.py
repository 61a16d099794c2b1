"""Running one step: in a process of its own, under its limits, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from edgepack.converter.step import Step
from edgepack.errors import StepError, is_out_of_memory, is_out_of_space

# Seconds between looks at a process that says nothing.
_POLL = 0.5


class Watcher(Protocol):
    """Who is told how a plan advances (a progress bar, a test). Steps run beside each other; calls come from several threads."""

    def started(self, step: Step, index: int, total: int) -> None:
        """A step begins, the ``index``-th of the plan to do so."""

    def reused(self, step: Step, index: int, total: int) -> None:
        """A step need not run: the store holds its result."""

    def advanced(self, step: Step, done: int, total: int) -> None:
        """Work inside a step."""

    def finished(self, step: Step, seconds: float) -> None:
        """A step ended well."""


class StepFailedError(StepError):
    """A step that refused, crashed, hung or wrote less than it declared.

    Attributes:
        step: its name. ``exit_code`` is the refusal's own, 3 for a crash.
    """

    def __init__(self, step: str, cause: str, hint: str, exit_code: int = 3) -> None:
        super().__init__(cause, hint)
        self.step = step
        self.exit_code = exit_code


class Cancelled(BaseException):
    """The build is being given up; nobody reports a step that ended because of it."""


class Processes:
    """The worker processes of one build, so that all can be ended at once, from another thread."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.cancelled = False

    def cancel(self) -> None:
        """End what runs; nothing starts any more."""
        with self._lock:
            self.cancelled = True
            running = list(self._running)
        for process in running:
            kill_tree(process)

    @contextlib.contextmanager
    def holding(self, start: Callable[[], subprocess.Popen[bytes]]) -> Iterator[subprocess.Popen[bytes]]:
        """A process for as long as the block lasts; Cancelled when the build was given up."""
        with self._lock:
            self.refuse_when_cancelled()
            process = start()
            self._running.add(process)
        try:
            with ended(process):
                yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def refuse_when_cancelled(self) -> None:
        """Cancelled once the build was given up."""
        if self.cancelled:
            raise Cancelled


class Cost(msgspec.Struct, frozen=True):
    """What a step took, with everything it started: CPU-seconds, and the most memory one of its processes held, bytes."""

    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Place:
    """Where one step works: its outputs go to ``out``, its log is ``log``, what it needs meanwhile lies in ``scratch``."""

    root: Path

    @property
    def out(self) -> Path:
        """The folder of its outputs."""
        return self.root / "out"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.root / "log.txt"

    @property
    def scratch(self) -> Path:
        """The folder for temporary files, so that none outlives it."""
        return self.root / "tmp"


def run_step(step: Step, inputs: Mapping[str, Path], place: Place, watcher: Watcher, processes: Processes) -> Cost:
    """Run one step in its own process and check what it wrote.

    Args:
        inputs: argument name -> where it lies.
        place: an empty folder.

    Raises:
        StepFailedError: it refused, crashed, hung, or wrote less than it declared.
    """
    place.out.mkdir()
    place.scratch.mkdir()
    code, final = _work(step, inputs, place, watcher, processes)
    processes.refuse_when_cancelled()
    _judge(step, place, code, final)
    return Cost(**final["cost"])


# What a result may depend on without anyone asking for it is the same for every step: one thread a step (sums in another order round
# otherwise; steps run beside each other instead), the order of sets, language, time zone, encoding.
_FIXED = {
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


_CANNOT_START = "see whether this Python may run programs, and whether processes or memory ran out"


def _work(step: Step, inputs: Mapping[str, Path], place: Place, watcher: Watcher, processes: Processes) -> tuple[int, dict[str, Any]]:
    """The exit code and the final message of a worker."""
    read, write = os.pipe()
    call = {
        "function": step.function,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "parameters": dict(step.parameters),
        "out": str(place.out),
        "bytes": step.limits.bytes,
        "report": write,
    }
    with os.fdopen(read, "rb", buffering=0) as report, place.log.open("wb") as log:

        def start() -> subprocess.Popen[bytes]:
            # -P: a file of the user's that is called onnx.py must not be taken for the library.
            try:
                return subprocess.Popen(
                    [sys.executable, "-P", "-m", "edgepack.converter.worker"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[write],
                    start_new_session=True,
                    env={**os.environ, **_FIXED, "TMPDIR": str(place.scratch.resolve())},
                )
            except OSError as error:
                raise StepFailedError(step.name, f"it cannot be started ({error.strerror})", _CANNOT_START) from error

        try:
            held = contextlib.ExitStack()
            process = held.enter_context(processes.holding(start))
        finally:
            os.close(write)
        with held:
            assert process.stdin is not None
            # Standard input stays open: its end tells the worker that nobody waits for it any more. One that died at once is told by
            # its exit code and its log.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(call).encode() + b"\n")
                process.stdin.flush()
            final = _follow(report, process, step, watcher)
    return process.returncode, final


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leaves no process behind: when the block is left (also by Ctrl-C or a time limit), it and everything it started is killed."""
    try:
        yield
    finally:
        kill_tree(process)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process started in its own session: its group, and what it started in sessions of their own (a runner)."""
    import psutil

    started = []
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid).children(recursive=True)
    # macOS answers PermissionError for a group of which only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def _follow(report: IO[bytes], process: subprocess.Popen[bytes], step: Step, watcher: Watcher) -> dict[str, Any]:
    """The step's final message, {} when it ended without one; progress goes to the watcher. The process has ended on return."""
    deadline = time.monotonic() + step.limits.seconds
    final: dict[str, Any] = {}
    for line in _lines(report, process, deadline):
        message = _message(line, step)
        if "progress" not in message:
            final = message
            break
        watcher.advanced(step, *message["progress"])
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise StepFailedError(
            step.name, f"it hung: no end after {step.limits.seconds:g} s", "raise --timeout, or keep its log with --work FOLDER and look"
        ) from error
    return final


def _lines(report: IO[bytes], process: subprocess.Popen[bytes], deadline: float) -> Iterator[bytes]:
    """Whole lines, until the pipe closes, the time is up, or the process has ended though something it left holds the pipe open."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(min(left, _POLL)):
                if process.poll() is not None:
                    return
                continue
            chunk = report.read(65536)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            yield from lines


def _message(line: bytes, step: Step) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise StepFailedError(step.name, f"it said what is no message: {line[:80]!r}", "report this; the step has a defect")
    return message


def _judge(step: Step, place: Place, code: int, final: dict[str, Any]) -> None:
    error = final.get("error")
    if error:
        raise StepFailedError(step.name, error["cause"], error["hint"], error["exit_code"])
    if code != 0 or not final.get("ok"):
        words = "No space left on device" if _is_full(place) else _last_log_line(place.log)
        raise StepFailedError(step.name, f"it crashed ({ending(code)}): {words}", crash_hint(words))
    missing = [file for file in step.outputs if not (place.out / file).exists()]
    if missing:
        raise StepFailedError(step.name, f"it did not write {missing[0]}", "report this; the step has a defect")


# A disk with less room than this is full: a log of a traceback takes more.
_NO_ROOM = 2**16


def _is_full(place: Place) -> bool:
    """Whether a step had no room: its last words found none either."""
    return shutil.disk_usage(place.root).free < _NO_ROOM


def ending(code: int) -> str:
    """How a process ended, in words: "SIGSEGV", "exit code 3". Some numbers of signals have no name."""
    return {-each: each.name for each in signal.Signals}.get(code, f"signal {-code}" if code < 0 else f"exit code {code}")


def crash_hint(words: str) -> str:
    """What to do about a crash with these last words."""
    if is_out_of_memory(words):
        return "raise --memory, or use a smaller model"
    if is_out_of_space(words):
        return "free some space: edgepack cache prune, or another place with --store"
    return "keep its log with --work FOLDER and report it"


def _last_log_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")
