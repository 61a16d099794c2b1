"""Running a plan: each step in a process of its own, under its limits, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgepack.converter.plan import Plan
from edgepack.converter.step import Output, Step
from edgepack.errors import StepError

# Lines of a crashed step's log that its failure points to.
_LOG_TAIL = 20


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
    read, write = os.pipe()
    call = {
        "function": step.function,
        "inputs": {name: str(workspace.path(source)) for name, source in step.inputs.items()},
        "parameters": dict(step.parameters),
        "out": str(folder),
        "bytes": step.limits.bytes,
        "report": write,
    }
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgepack.converter.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[write],
            start_new_session=True,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"},
        )
        os.close(write)
        with ended(process):
            assert process.stdin is not None
            process.stdin.write(json.dumps(call).encode())
            process.stdin.close()
            last = _follow(read, process, step, watcher)
    _judge(step, folder, process.returncode, last)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leaves no process behind: when the block is left (Ctrl-C, a time limit), it and everything it started is killed."""
    try:
        yield
    finally:
        if process.poll() is None:
            kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process started in its own session, with everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _follow(pipe: int, process: subprocess.Popen[bytes], step: Step, watcher: Watcher) -> dict[str, Any]:
    """The step's final message; progress goes to the watcher. Ends when the pipe closes or the time is up."""
    final: dict[str, Any] = {}
    for line in _lines(pipe, step):
        message = json.loads(line)
        if "progress" in message:
            watcher.advanced(step, *message["progress"])
        else:
            final = message
    process.wait()
    return final


def _lines(pipe: int, step: Step) -> Iterator[bytes]:
    deadline, pending = time.monotonic() + step.limits.seconds, b""
    with selectors.DefaultSelector() as selector, os.fdopen(pipe, "rb", buffering=0) as stream:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise StepFailedError(step.name, f"it hung: no end after {step.limits.seconds:g} s", "raise --timeout, or look at its log")
            chunk = stream.read(65536)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            yield from lines


def _judge(step: Step, folder: Path, code: int, final: dict[str, Any]) -> None:
    error = final.get("error")
    if error:
        raise StepFailedError(step.name, error["cause"], error["hint"], error["exit_code"])
    if code != 0 or not final.get("ok"):
        raise StepFailedError(
            step.name, f"it crashed ({_ending(code)}): {_last_log_line(folder)}", "see its log with --log; report it with the model"
        )
    missing = [file for file in step.outputs if not (folder / file).exists()]
    if missing:
        raise StepFailedError(step.name, f"it did not write {missing[0]}", "report this; the step has a defect")


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_log_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_TAIL:]
    return lines[-1][:200] if lines else "it said nothing"
