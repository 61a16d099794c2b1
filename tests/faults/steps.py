"""Cheap steps of every shape, which behave or, when told, do not. ``mood`` and ``seconds`` are no part of their keys."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from edgepack.converter.plan import Plan
from edgepack.converter.step import Limits, Progress, Step

_ROOM = "tests.faults.steps:"
# Large enough that a small disk fills inside a step, small enough to cost nothing.
_BYTES = 48_000
_UNKEYED = frozenset({"mood", "seconds"})


def plan(
    number: int, told: Path, moods: dict[str, str], seconds: dict[str, float], limits: dict[str, Limits], random: bool = False
) -> Plan:
    """A diamond with a step of two outputs, one that writes a folder, one whose result cannot be known, and one with a runner."""

    def own(name: str) -> dict[str, object]:
        return {"mood": moods.get(name, ""), "seconds": seconds.get(name, 0.0)}

    def step(name: str, inputs: dict[str, object], parameters: dict[str, object], *outputs: str, cached: bool = True) -> Step:
        held = {**parameters, **own(name)}
        return Step(name, _ROOM + name, inputs, held, outputs, limits.get(name, Limits(60, 2**30)), _UNKEYED, cached=cached)  # type: ignore[arg-type]

    draw = step("draw", {}, {"number": number, "random": random}, "blob.bin", "small.txt")
    tell = step("tell", {}, {"told": str(told)}, "told.txt", cached=False)
    stretch = step("stretch", {"blob": draw["blob.bin"]}, {}, "left.bin")
    package = step("package", {"small": draw["small.txt"]}, {}, "model.pkg")
    join = step("join", {"left": stretch["left.bin"], "right": package["model.pkg"], "told": tell["told.txt"]}, {}, "joined.bin")
    run = step("run", {"joined": join["joined.bin"]}, {}, "run.txt")
    judge = step("judge", {"run": run["run.txt"], "small": draw["small.txt"]}, {}, "verdict.txt")
    return Plan.of([draw, tell, stretch, package, join, run, judge])


def draw(number: int, random: bool, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """Bytes that follow from ``number``, or other bytes each time."""
    _behave(mood, seconds, out / "blob.bin")
    start = os.urandom(8) if random else b"%d" % number
    (out / "blob.bin").write_bytes(_stream(start, _BYTES))
    (out / "small.txt").write_text(hashlib.sha256(start).hexdigest())


def tell(told: str, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """What a file outside says: no key knows."""
    _behave(mood, seconds, out / "told.txt")
    (out / "told.txt").write_bytes(Path(told).read_bytes())


def stretch(blob: Path, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """The bytes backwards, twice."""
    _behave(mood, seconds, out / "left.bin")
    (out / "left.bin").write_bytes(blob.read_bytes()[::-1] * 2)


def package(small: Path, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """A folder, as an .mlpackage is."""
    (out / "model.pkg" / "inner").mkdir(parents=True)
    _behave(mood, seconds, out / "model.pkg" / "weights.bin")
    content = _stream(small.read_bytes(), _BYTES)
    (out / "model.pkg" / "weights.bin").write_bytes(content)
    (out / "model.pkg" / "inner" / "manifest.txt").write_text(hashlib.sha256(content).hexdigest())


def join(left: Path, right: Path, told: Path, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """What the three say, in one file; refuses a package that is not whole, as a reader of such would."""
    _behave(mood, seconds, out / "joined.bin")
    weights = (right / "weights.bin").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == (right / "inner" / "manifest.txt").read_text(), "the package is torn"
    (out / "joined.bin").write_bytes(left.read_bytes() + weights + told.read_bytes())


# Ends with its standard input, as runners do.
_RUNNER = (
    "import hashlib, os, sys, threading, time\n"
    "threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()\n"
    "time.sleep(float(sys.argv[2]))\n"
    "print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest(), flush=True)\n"
    "os._exit(0)\n"
)


def run(joined: Path, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """The digest of a file, from a process in a session of its own."""
    _behave(mood, 0.0, out / "run.txt")
    command = [sys.executable, "-S", "-E", "-c", _RUNNER, str(joined), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as runner:
        assert runner.stdout is not None
        said = runner.stdout.read()
        if runner.wait() != 0:
            raise RuntimeError(f"the runner ended with {runner.returncode}")
    (out / "run.txt").write_bytes(said)


def judge(run: Path, small: Path, mood: str, seconds: float, out: Path, progress: Progress) -> None:
    """The last word."""
    _behave(mood, seconds, out / "verdict.txt")
    (out / "verdict.txt").write_bytes(run.read_bytes() + small.read_bytes())


def _stream(start: bytes, size: int) -> bytes:
    content = b""
    while len(content) < size:
        start = hashlib.sha256(start).digest()
        content += start
    return content[:size]


def _behave(mood: str, seconds: float, torn: Path) -> None:
    """Take a while, half of it with half a file written, and then whatever ``mood`` says."""
    if seconds:
        time.sleep(seconds / 2)
        torn.write_bytes(b"torn" * 100)
        time.sleep(seconds / 2)
    if mood:
        _MOODS[mood](torn)


def _leak(_: Path) -> None:
    held = []
    while True:
        held.append(bytearray(2**24))


def _leave_child(apart: bool) -> None:
    """A child that holds every descriptor and outlives its parent."""
    if os.fork() == 0:
        if apart:
            os.setsid()
        time.sleep(600)
        os._exit(0)


def _leave_daemon(_: Path) -> None:
    """The double fork of a daemon."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()


def _hang_with_family(_: Path) -> None:
    for apart in (False, True):
        subprocess.Popen(["sleep", "600"], start_new_session=apart)
    time.sleep(600)


def _deaf(_: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def _tear(torn: Path) -> None:
    torn.write_bytes(b"half")
    os._exit(0)


def _crash_with_child(_: Path) -> None:
    _leave_child(apart=False)
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise(_: Path) -> None:
    raise KeyError("weights")


def _babble(_: Path) -> None:
    os.write(1, os.urandom(200_000))


_MOODS = {
    "hang": lambda _: time.sleep(600),
    "hang with family": _hang_with_family,
    "deaf": _deaf,
    "leak": _leak,
    "never leave": lambda _: threading.Thread(target=time.sleep, args=(600,)).start(),
    "leave child": lambda _: _leave_child(apart=False),
    "leave child apart": lambda _: _leave_child(apart=True),
    "leave daemon": _leave_daemon,
    "crash with child": _crash_with_child,
    "abort": lambda _: os.abort(),
    "tear": _tear,
    "raise": _raise,
    "babble": _babble,
}
