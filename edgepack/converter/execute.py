"""Running a plan: each step in a process of its own, under its limits, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from edgepack.converter.plan import Plan
from edgepack.converter.step import Output, Step
from edgepack.errors import StepError, is_out_of_memory

# Seconds between looks at a process that says nothing.
_POLL = 0.5


class Watcher(Protocol):
    """Who is told how a plan advances (a progress bar, a test)."""

    def started(self, step: Step, index: int, total: int) -> None:
        """A step begins."""

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


@dataclass(frozen=True)
class Workspace:
    """Where the steps of one build write: a folder for each."""

    root: Path

    def folder(self, step: str) -> Path:
        """The folder of a step."""
        return self.root / "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in step)

    def path(self, output: Output | Path) -> Path:
        """Where an input really is."""
        return output if isinstance(output, Path) else self.folder(output.step) / output.file


def execute(plan: Plan, workspace: Workspace, watcher: Watcher) -> None:
    """Run all steps, one after the other.

    Raises:
        StepFailedError: the first step that did not succeed.
    """
    for index, step in enumerate(plan.steps):
        watcher.started(step, index, len(plan.steps))
        begun = time.monotonic()
        run_step(step, workspace, watcher)
        watcher.finished(step, time.monotonic() - begun)


def run_step(step: Step, workspace: Workspace, watcher: Watcher) -> None:
    """Run one step in its own process and check what it wrote; StepFailedError otherwise."""
    folder = workspace.folder(step.name)
    folder.mkdir(parents=True, exist_ok=True)
    for file in step.outputs:
        # A kept workspace may hold an earlier build's; they must not pass for this one's.
        (folder / file).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp.", dir=folder, ignore_cleanup_errors=True) as scratch:
        code, final = _work(step, workspace, scratch, watcher)
    _judge(step, folder, code, final)


def _work(step: Step, workspace: Workspace, scratch: str, watcher: Watcher) -> tuple[int, dict[str, Any]]:
    """The exit code and the final message of a worker; its own temporary files go to ``scratch``, so that none outlives it."""
    folder = workspace.folder(step.name)
    read, write = os.pipe()
    call = {
        "function": step.function,
        "inputs": {name: str(workspace.path(source)) for name, source in step.inputs.items()},
        "parameters": dict(step.parameters),
        "out": str(folder),
        "bytes": step.limits.bytes,
        "report": write,
    }
    with os.fdopen(read, "rb", buffering=0) as report, (folder / "log.txt").open("wb") as log:
        try:
            process = subprocess.Popen(
                # -P: a file of the user's that is called onnx.py must not be taken for the library.
                [sys.executable, "-P", "-m", "edgepack.converter.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[write],
                start_new_session=True,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(Path(scratch).resolve())},
            )
        finally:
            os.close(write)
        with ended(process):
            assert process.stdin is not None
            # A worker that died at once is told by its exit code and its log.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(call).encode())
            final = _follow(report, process, step, watcher)
    return process.returncode, final


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leaves no process behind: when the block is left (also by Ctrl-C or a time limit), it and everything it started is killed."""
    try:
        yield
    finally:
        kill_tree(process)


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


def _judge(step: Step, folder: Path, code: int, final: dict[str, Any]) -> None:
    error = final.get("error")
    if error:
        raise StepFailedError(step.name, error["cause"], error["hint"], error["exit_code"])
    if code != 0 or not final.get("ok"):
        words = _last_log_line(folder)
        hint = "raise --memory, or use a smaller model" if is_out_of_memory(words) else "keep its log with --work FOLDER and report it"
        raise StepFailedError(step.name, f"it crashed ({ending(code)}): {words}", hint)
    missing = [file for file in step.outputs if not (folder / file).exists()]
    if missing:
        raise StepFailedError(step.name, f"it did not write {missing[0]}", "report this; the step has a defect")


def ending(code: int) -> str:
    """How a process ended, in words: "SIGSEGV", "exit code 3"."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_log_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")
