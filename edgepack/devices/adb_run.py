"""A program on a phone while it runs: what it says, that both sides are there, and looks at the phone meanwhile."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

import msgspec

from edgepack.converter.process import kill_tree
from edgepack.devices import phone as phones
from edgepack.devices.adb import SIGNALLED, Phone
from edgepack.devices.probed import State
from edgepack.devices.tail import Tail
from edgepack.devices.transport import TransportError

# Seconds between looks at the phone during a run; a look starts some ten small programs on cores that the runner leaves free.
INTERVAL = 2.0
# Seconds that one look may take; after so many in a row that took longer, a phone that adb still lists is gone from its network.
LOOKING, _LOST_AFTER = 15.0, 2
# A network that is lost tells neither side: this one says every so many seconds that it is there, and the runner leaves after the longer
# time without a word. The same as edgepack.devices.session has.
BEAT, SILENCE = 10.0, 60.0
# Bytes of standard error that a failure can quote; of the runner's answer, whose warm-up may be long.
WORDS, _ANSWER = 4000, 2**24
# Seconds for pipes to close once adb has ended.
DRAINING = 5.0


@dataclass(frozen=True)
class Heard:
    """A runner's last line, the end of its words, its exit code (negative: a signal), and whether it was given up."""

    said: str
    words: str
    code: int
    late: bool


def hear(process: subprocess.Popen[bytes], seconds: float, progress: Callable[[int, int], None]) -> Heard:
    """Both streams to the end; its input stays open meanwhile, because the runner leaves when that ends."""
    assert process.stdout is not None and process.stderr is not None
    complained = _Complaints(process.stderr, progress)
    answered = Tail(process.stdout, _ANSWER)
    gone = threading.Event()

    def stop() -> None:
        gone.set()
        kill_tree(process)

    late = threading.Timer(seconds, stop)
    late.daemon = True
    late.start()
    try:
        code = process.wait()
    finally:
        late.cancel()
    lines = answered.words(DRAINING).strip().splitlines()
    return Heard(lines[-1] if lines else "", complained.words(), SIGNALLED - code if code > SIGNALLED else code, gone.is_set())


class _Complaints:
    """Reads standard error beside a run: progress goes on as it comes, of other words the end is kept."""

    def __init__(self, stream: IO[bytes], progress: Callable[[int, int], None]) -> None:
        self._stream, self._progress, self._kept = stream, progress, b""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with self._stream:
            while line := self._stream.readline(WORDS):
                told = _progress_of(line)
                if told is None:
                    self._kept = (self._kept + line)[-WORDS:]
                else:
                    self._progress(*told)

    def words(self) -> str:
        """What is kept, once the stream has ended."""
        self._thread.join(DRAINING)
        return self._kept.decode(errors="replace")


def _progress_of(line: bytes) -> tuple[int, int] | None:
    try:
        done, total = msgspec.json.decode(line, type=dict[str, tuple[int, int]])["progress"]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return None
    return done, total


@contextmanager
def beating(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Says to a program on the phone, now and then, that this side is there."""
    assert process.stdin is not None
    stdin, over = process.stdin, threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError, ValueError):
                stdin.write(b"\n")
                stdin.flush()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


class Watch:
    """Looks at the phone during a run; a look that fails is none, and the run's own failure tells why.

    Where looks go unanswered the phone is ``lost``, and the process that waits for it is ended.
    """

    def __init__(self, phone: Phone, runner: str, process: subprocess.Popen[bytes]) -> None:
        self.states: list[State] = []
        self.lost = False
        self._phone, self._runner, self._process = phone, runner, process
        self._over, self._wake, self._hurried = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def hurry(self) -> None:
        """Look now: a run shorter than the interval gets a look as well, once its rounds are known to have begun."""
        if not self._hurried:
            self._hurried = True
            self._wake.set()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join(INTERVAL)

    def _rested(self) -> bool:
        """Waits for the next look; whether there is none."""
        self._wake.wait(INTERVAL)
        self._wake.clear()
        return self._over.is_set()

    def _look(self) -> None:
        missed = 0
        while missed < _LOST_AFTER and not self._rested():
            started = time.monotonic()
            try:
                found = phones.state(self._phone, self._runner, LOOKING)
                missed = 0
                if not self._over.is_set():
                    self.states.append(found)
            except TransportError:
                missed += 1
            # A phone whose answers are slow is asked less often.
            self._over.wait(time.monotonic() - started)
        self.lost = missed >= _LOST_AFTER and not self._over.is_set()
        if self.lost:
            kill_tree(self._process)
