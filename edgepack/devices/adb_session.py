"""A session on a phone: the C runner holds the phone and its run folder for as long as the connection lives, and answers requests.

What a session leaves on a phone is a cache of the runner and the runtimes, by digest, in /data/local/tmp/edgepack/cache; models, inputs
and outputs lie in a run folder that the runner removes when its input ends: at the session's end, or when the cable is pulled.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgepack.arrays import Arrays
from edgepack.converter.process import ended, kill_tree
from edgepack.converter.step import Limits
from edgepack.devices import adb_run
from edgepack.devices import phone as phones
from edgepack.devices.adb import Done, Phone
from edgepack.devices.adb_words import PulledError, failed, pulled
from edgepack.devices.address import Address
from edgepack.devices.native import runner_for, runner_of, runtime_library
from edgepack.devices.native_request import Answer, answer_of, input_bytes, output_arrays, paths, request_lines
from edgepack.devices.probed import Facts
from edgepack.devices.runner_process import Request, Response, RunnerError, respond
from edgepack.devices.sending import digest
from edgepack.devices.session import BusyError, Ending, Outcome, Progress, Session
from edgepack.devices.tail import Tail
from edgepack.devices.transport import TransportError, on_our_disk
from edgepack.errors import InputError

# Seconds for the phone to answer at first, and for the runner to clean up.
_ANSWERING, _CLEANING = 30.0, 20.0
# Bytes of what the holder of a phone says first.
_LONGEST_LINE = 2**14
# A file that arrives damaged is sent once more.
_TRIES = 2


@dataclass(frozen=True)
class Runtime:
    """What runs the artifacts on a phone.

    Attributes:
        library: a .so file, an AAR or a wheel, for the phone's ABI.
        version: as the user knows it; "" for what the runtime says, or the digest of its library.
    """

    library: Path
    version: str = ""


@contextmanager
def opened(address: Address, runtime: Runtime, *, wait: float = 0.0, progress: Progress = lambda *_: None) -> Iterator[AdbSession]:
    """A session on a phone; nobody else measures there meanwhile.

    Args:
        wait: seconds to wait for somebody who does.

    Raises:
        BusyError: somebody is measuring there. TransportError: it cannot be reached. InputError, NativeError: no runtime or runner for it.
    """
    with closing(Phone.open(address)) as phone, _scratch() as scratch:
        facts, abi = phones.facts(phone)
        # Android's own emulator: what it answers counts, its times do not.
        phone.emulated = facts.virtual
        library = runtime_library(runtime.library, abi, scratch)
        kinds = (runner_of(library), runtime.version or f"sha256 {digest(library)[:12]}")
        phone.asked(f"mkdir -p {phone.runs}/cache", "making a folder")
        runner = installed(phone, runner_for(abi), "edgepack-runner", progress)
        there = installed(phone, library, library.name, progress)
        with _held(phone, runner, wait) as held:
            whole = msgspec.structs.replace(facts, page_bytes=held.ready.page_bytes or facts.page_bytes)
            yield AdbSession(phone, held, whole, _Programs(runner, there, *kinds), scratch, progress)


@contextmanager
def _scratch() -> Iterator[Path]:
    with on_our_disk("a folder for temporary files"):
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as path:
        yield Path(path)


@dataclass(frozen=True)
class _Programs:
    """Paths on the phone; which artifacts the library runs, and what to call its version where it does not say."""

    runner: str
    library: str
    kind: str
    version: str


def installed(phone: Phone, local: Path, name: str, progress: Progress) -> str:
    """The path of a file in the phone's cache, where it is whole: its digest there is that of here."""
    wanted = digest(local)
    path = f"{phone.runs}/cache/{wanted[:16]}-{name}"
    if phone.digest(path) == wanted:
        return path
    # Another session may be sending the same.
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}"
    _send(phone, local, beside, wanted, progress)
    phone.asked(f"chmod 755 {shlex.quote(beside)} && mv -f {shlex.quote(beside)} {shlex.quote(path)}", f"keeping {name}")
    return path


def _send(phone: Phone, local: Path, remote: str, wanted: str, progress: Progress) -> None:
    """Copy a file and see that it is whole; what is left of one that is not goes."""
    try:
        for _ in range(_TRIES):
            phone.send(local, remote, lambda done, total: progress(f"sending {local.name}", done, total))
            if phone.digest(remote) == wanted:
                return
    except TransportError:
        with suppress(TransportError):
            phone.shell(f"rm -f {shlex.quote(remote)}")
        raise
    raise TransportError(
        f"{local.name} does not arrive whole on {phone.address}", "see the cable, and the room on the phone, then try again"
    )


_Line = Annotated[str, Meta(max_length=300)]


class _Ready(msgspec.Struct, frozen=True):
    folder: Annotated[str, Meta(min_length=2, max_length=4096, pattern="^/")]
    page_bytes: Annotated[int, Meta(ge=0, le=2**31)] = 0


class _Said(msgspec.Struct, frozen=True):
    """The first line of the runner that holds a phone: one of these."""

    ready: _Ready | None = None
    busy: _Line = ""
    refused: _Line = ""
    why: _Line = ""


@dataclass(frozen=True)
class _Held:
    """A phone's lock and run folder; both go when ``process`` does."""

    process: subprocess.Popen[bytes]
    ready: _Ready

    @property
    def lives(self) -> bool:
        return self.process.poll() is None


@contextmanager
def _held(phone: Phone, runner: str, wait: float) -> Iterator[_Held]:
    process = phone.start(f"exec {shlex.quote(runner)} hold {phone.runs} {wait:g} {adb_run.SILENCE:g}")
    try:
        with adb_run.beating(process):
            yield _Held(process, _ready(phone, process, wait))
    finally:
        _let_go(process)


def _ready(phone: Phone, process: subprocess.Popen[bytes], wait: float) -> _Ready:
    assert process.stdout is not None and process.stderr is not None
    words = Tail(process.stderr, adb_run.WORDS)
    late = threading.Timer(wait + _ANSWERING, kill_tree, (process,))
    late.daemon = True
    late.start()
    line = process.stdout.readline(_LONGEST_LINE)
    late.cancel()
    try:
        said = msgspec.json.decode(line, type=_Said)
    except msgspec.MsgspecError:
        kill_tree(process)
        raise failed(str(phone.address), "holding it", words.words(adb_run.DRAINING) or line.decode(errors="replace")) from None
    if said.busy:
        raise BusyError(f"{phone.address} is busy: {said.busy}", "try again when it has ended, or give --wait SECONDS")
    if said.ready is None:
        raise failed(str(phone.address), f"making a folder in {said.refused}", said.why)
    return said.ready


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which tells the runner to clean up, and wait for it."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_CLEANING)
    if process.poll() is None:
        kill_tree(process)
    process.wait()


# The C library of TensorFlow Lite that an app of 2.14 ships is opened as LiteRT's is, and runs what was made for it.
_KINDS = {"tflite_runtime": "litert"}


class AdbSession(Session):
    """An open session on a phone: what ``edgepack.devices.session.Session`` is where there is a Python.

    It shares that class's use and none of its parts: no supervisor runs on a phone.
    """

    def __init__(self, phone: Phone, held: _Held, facts: Facts, programs: _Programs, scratch: Path, progress: Progress) -> None:
        self.transport, self.facts = phone, facts
        self.folder = held.ready.folder
        self._phone, self._held, self._programs = phone, held, programs
        self._scratch, self._progress = scratch, progress
        self._names: dict[Path, str] = {}
        self._runs = 0

    def run(self, runner: str, request: Request, artifacts: Mapping[str, Path], feed: Arrays, limits: Limits) -> Outcome:
        """Run the C runner there.

        Args:
            runner: "ort", "litert" or "tflite_runtime", as the artifact needs; the runtime of the session must be one.
            request: what is asked; its artifacts and files are filled in here.
            artifacts: label -> file on this machine; sent once a session.
            feed: stacked inputs in the artifact's terms.

        Raises:
            InputError: the runtime is another. RunnerError: the runner failed. TransportError: the connection did.
        """
        kind = _KINDS.get(runner, runner)
        if kind != self._programs.kind:
            raise InputError(
                f"the runtime on {self._phone.address} runs no {kind} artifacts",
                f"name one of {kind} with --runtime, or other artifacts",
            )
        try:
            return self._run(kind, request, artifacts, feed, limits)
        except (TransportError, RunnerError) as error:
            self._refuse_gone(error)
            raise

    def tool(self, program: Path) -> str:
        """The path of a program of the user's on the phone, kept there like the runner."""
        return installed(self._phone, program, program.name, self._progress)

    def artifact(self, path: Path) -> str:
        """The path of a file in the run folder; sent once a session."""
        return self._sent(path)

    def shell(self, command: str, seconds: float) -> Done:
        """Run a line of the phone's shell in this session.

        Raises:
            TransportError: the connection failed.
        """
        try:
            return self._phone.shell(command, seconds)
        except TransportError as error:
            self._refuse_gone(error)
            raise

    def _refuse_gone(self, error: TransportError | RunnerError) -> None:
        """PulledError when the phone went: whatever a command says then, that it went is the cause."""
        if not isinstance(error, PulledError) and not (self._held.lives and self._phone.is_there()):
            raise pulled(str(self._phone.address)) from error

    def _run(self, runner: str, request: Request, artifacts: Mapping[str, Path], feed: Arrays, limits: Limits) -> Outcome:
        self._runs += 1
        there = {label: self._sent(path) for label, path in artifacts.items()}
        asked = paths(there, request, self._remote("inputs"), self._remote("outputs"))
        asked_there = self._written("request", request_lines(asked, self._programs.library, feed, adb_run.SILENCE))
        self._written("inputs", input_bytes(feed))
        ending = self._started(asked_there, asked, limits, runner)
        response = self._named(respond(ending.said, ending.words, ending.code, runner))
        answer = answer_of(ending.said)
        arrays = self._outputs(asked.outputs, answer) if asked.action != "describe" else {}
        return Outcome(response, arrays, _with_use(ending, answer))

    def _remote(self, name: str) -> str:
        return f"{self.folder}/{self._runs}-{name}"

    def _sent(self, path: Path) -> str:
        if path not in self._names:
            remote = f"{self.folder}/artifact-{len(self._names)}{path.suffix}"
            _send(self._phone, path, remote, digest(path), self._progress)
            self._names[path] = remote
        return self._names[path]

    def _written(self, name: str, content: bytes) -> str:
        local, remote = self._scratch / name, self._remote(name)
        with on_our_disk("temporary files"):
            local.write_bytes(content)
        _send(self._phone, local, remote, digest(local), lambda *_: None)
        return remote

    def _named(self, response: Response) -> Response:
        """LiteRT's new interface has no function that says its version."""
        known = response.version not in ("", "unknown")
        return response if known else msgspec.structs.replace(response, version=self._programs.version)

    def _outputs(self, remote: str, answer: Answer) -> Arrays:
        local = self._scratch / "outputs"
        self._phone.fetch(remote, local)
        return output_arrays(answer, local.read_bytes())

    def _started(self, request: str, asked: Request, limits: Limits, runner: str) -> Ending:
        before = phones.state(self._phone, self._programs.runner, adb_run.LOOKING)
        process = self._phone.start(f"{self._limit(limits)}exec {shlex.quote(self._programs.runner)} answer {shlex.quote(request)}")
        watch = adb_run.Watch(self._phone, self._programs.runner, process)
        with watch, ended(process), adb_run.beating(process):
            heard = adb_run.hear(process, limits.seconds, lambda done, total: self._advanced(watch, asked.action, done, total))
        if heard.late:
            raise RunnerError(f"the {runner} runner hung: no answer after {limits.seconds:g} s", "raise --timeout, or run fewer samples")
        if watch.lost or (not _is_answer(heard.said) and not (self._held.lives and self._phone.is_there())):
            raise pulled(str(self._phone.address))
        after = phones.state(self._phone, self._programs.runner, adb_run.LOOKING)
        return Ending(heard.code, "ended", heard.said, heard.words, 0, 0.0, [before, *watch.states, after])

    def _advanced(self, watch: adb_run.Watch, action: str, done: int, total: int) -> None:
        watch.hurry()
        self._progress(action, done, total)

    def _limit(self, limits: Limits) -> str:
        """A limit on addresses, in KiB; an emulator takes as many as it likes."""
        return "" if self._phone.emulated else f"ulimit -v {limits.bytes // 1024}; "


def _is_answer(said: str) -> bool:
    try:
        return isinstance(json.loads(said), dict)
    except ValueError:
        return False


def _with_use(ending: Ending, answer: Answer) -> Ending:
    return msgspec.structs.replace(ending, peak_bytes=answer.peak_bytes, cpu_seconds=answer.cpu_seconds)
