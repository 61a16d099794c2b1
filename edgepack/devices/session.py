"""One connection to a device with its supervisor running there: send files, run runners, bring results back.

The supervisor (``edgepack.runner.supervisor``) holds the device's lock and the run folder for as long as the connection lives, and
cleans up when it ends, however it ends.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from edgepack.arrays import Arrays, load_arrays, save_arrays
from edgepack.converter.step import Limits
from edgepack.devices import tflite_runtime
from edgepack.devices.probed import Facts, States
from edgepack.devices.runner_process import Request, Response, RunnerError, respond
from edgepack.devices.sending import Sent, verified_send
from edgepack.devices.tail import Tail
from edgepack.devices.transport import Transport, TransportError, on_our_disk
from edgepack.errors import DeviceError
from edgepack.runner.bundle import bundle, on_device

# Reads the modules it is sent, byte by byte up to their length so that nothing of what follows is swallowed, and serves.
_BOOT = """
import json, os, sys, types
def take(count):
    taken = b""
    while len(taken) < count:
        chunk = os.read(0, count - len(taken))
        if not chunk:
            sys.exit(1)
        taken += chunk
    return taken
length = b""
while not length.endswith(b"\\n"):
    length += take(1)
for name, source in json.loads(take(int(length))):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    exec(compile(source, name, "exec"), module.__dict__)
sys.exit(sys.modules["edgepack.runner.supervisor"].main())
"""
_SENT = ("edgepack.runner.probes", "edgepack.runner.supervisor")
# Beyond what a runner is given, for its messages to travel.
_GRACE_SECONDS = 30.0
# Transports to where a path of this machine leads to the same file.
_SHARES_FILES = ("local", "qemu")
# Bytes of standard error that a failure can quote.
_WORDS = 4000
# Bytes of one message: a day of looks at the device, one a second, takes 40 MB, and a runner's answer at most 16.
_LONGEST = 2**26
# A network that is lost tells neither side. Here ssh notices within 15 s; there nothing does, so that this side says every so many
# seconds that it is there, and the supervisor leaves after the longer time without a word: a slow network swallows no five of them.
_BEAT, _SILENCE = 10.0, 60.0
# What the session's progress is called while somebody else is measuring.
WAITING = "waiting for another bench"


_Part = TypeVar("_Part")
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class BusyError(DeviceError):
    """Somebody else is measuring on the device."""


class _Ready(msgspec.Struct, frozen=True):
    folder: Annotated[str, Meta(min_length=2, max_length=4096, pattern="^/")]
    facts: Facts


class Ending(msgspec.Struct, frozen=True):
    """How a runner ended on the device.

    Attributes:
        code: its exit code, negative for a signal. reason: "ended" or "hung". said: its last line; words: the end of its standard error.
        peak_bytes: the most memory it held, its interpreter and runtime included. cpu_seconds: of all its threads.
        states: what the device was like before, about every second, and after; two at least.
    """

    code: Annotated[int, Meta(ge=-64, le=255)]
    reason: str
    said: str
    words: str
    peak_bytes: _Count
    cpu_seconds: Annotated[float, Meta(ge=0, le=1e12)]
    states: States


@dataclass(frozen=True)
class Outcome:
    """What a runner answered, the arrays it wrote, and how it ended."""

    response: Response
    arrays: Arrays
    ending: Ending


Progress = Callable[[str, int, int], None]


@contextmanager
def opened(
    transport: Transport,
    *,
    exclusive: bool,
    wait: float = 0.0,
    seconds: float = 60.0,
    progress: Progress = lambda *_: None,
    otherwise: str = "try again when it has ended, or give --wait SECONDS",
) -> Iterator[Session]:
    """A session on a device.

    Args:
        exclusive: nobody else may measure there meanwhile.
        wait: seconds to wait for somebody who does; ``progress`` hears of it.
        seconds: that the device may take to answer at first.
        otherwise: what to do when somebody still is.

    Raises:
        BusyError: somebody is measuring there. TransportError: it cannot be reached, or the connection broke.
        OurDiskError: temporary files cannot be written here.
    """
    with _scratch() as scratch:
        talk = _Talk(transport.python(_BOOT), transport)
        try:
            talk.send_raw(_modules())
            talk.say({"folder": transport.runs, "exclusive": exclusive, "wait": wait, "silence": _SILENCE})
            talk.keep_alive()
            ready = _ready(talk, seconds + wait, otherwise, lambda done, total: progress(WAITING, done, total))
            yield Session(transport, talk, ready, scratch, progress)
        finally:
            talk.end()


@contextmanager
def _scratch() -> Iterator[Path]:
    with on_our_disk("a folder for temporary files"):
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as path:
        yield Path(path)


def _modules() -> bytes:
    """The supervisor's sources as one length-prefixed message; packages come first and are empty."""
    sources = [("edgepack", ""), ("edgepack.runner", "")]
    folder = resources.files("edgepack.runner")
    sources += [(name, (folder / f"{name.rpartition('.')[2]}.py").read_text(encoding="utf-8")) for name in _SENT]
    content = json.dumps(sources).encode()
    return b"%d\n%s" % (len(content), content)


def _ready(talk: _Talk, seconds: float, otherwise: str, waiting: Callable[[int, int], None]) -> _Ready:
    answer = talk.hear(("ready", "busy", "refused"), seconds, waiting)
    if "refused" in answer:
        why = talk.checked(answer["refused"], str)[:_QUOTE]
        raise TransportError(f"nothing can be run on {talk.name} ({why})", "see that its disk has room and that this can be written")
    if "busy" in answer:
        raise BusyError(f"{talk.name} is busy: {talk.checked(answer['busy'], str)[:_QUOTE]}", otherwise)
    return talk.checked(answer["ready"], _Ready)


# Characters of a device's words that a failure quotes.
_QUOTE = 200


class Session:
    """An open session; ``facts`` are the device's, ``folder`` is the run folder there."""

    def __init__(self, transport: Transport, talk: _Talk, ready: _Ready, scratch: Path, progress: Progress) -> None:
        self.transport, self.facts, self.folder = transport, ready.facts, ready.folder
        self._talk, self._scratch, self._progress = talk, scratch, progress
        self._there: dict[Path, str] = {}

    def run(self, runner: str, request: Request, artifacts: Mapping[str, Path], feed: Arrays, limits: Limits) -> Outcome:
        """Run an artifact there.

        Args:
            runner: the artifact's; of a Core ML package Core ML itself runs there what the MIL interpreter checks here.
            request: what is asked; its artifacts and files are filled in here.
            artifacts: label -> file, or folder, on this machine; sent once a session.
            feed: stacked inputs in the artifact's terms.

        Raises:
            RunnerError: the runner failed. TransportError: the connection did.
        """
        runner = on_device(runner)
        inputs = self._scratch / f"inputs-{len(self._there)}.npz"
        with on_our_disk("temporary files"):
            bundled = bundle(runner, self._scratch / f"{runner}.pyz")
            save_arrays(inputs, feed)
        names = {label: self._send(path) for label, path in artifacts.items()}
        program = self._send(bundled)
        asked = msgspec.structs.replace(request, artifacts=names, inputs=self._send(inputs), outputs="outputs.npz")
        ending = self._start(program, asked, limits, runner)
        response = respond(ending.said, ending.words, ending.code, runner)
        return Outcome(response, self._arrays(runner) if asked.action != "describe" else {}, ending)

    def _arrays(self, runner: str) -> Arrays:
        """What the runner wrote; a stranger's until it is read."""
        self.transport.fetch(f"{self.folder}/outputs.npz", self._scratch / "outputs.npz")
        try:
            return load_arrays(self._scratch / "outputs.npz")
        except Exception as error:
            raise RunnerError(f"the {runner} runner wrote outputs that cannot be read ({error})", "try again") from error

    def _start(self, program: str, request: Request, limits: Limits, runner: str) -> Ending:
        # A memory limit counts addresses, and an emulator takes as many as it likes.
        memory = None if self.transport.emulated else limits.bytes
        job = {"runner": program, "request": msgspec.to_builtins(request), "site": self._site(runner), "seconds": limits.seconds}
        self._talk.say({**job, "memory": memory})
        answer = self._talk.hear(
            ("ended",), limits.seconds + _GRACE_SECONDS, lambda done, total: self._progress(request.action, done, total)
        )
        ending = self._talk.checked(answer["ended"], Ending)
        if ending.reason == "hung":
            raise RunnerError(f"the {runner} runner hung: no answer after {limits.seconds:g} s", "raise --timeout, or run fewer samples")
        return ending

    def _site(self, runner: str) -> list[str]:
        """Where its Python finds packages: those of the device, or for the old runtime the folder that holds it alone."""
        return [old_site(self.transport)] if runner == tflite_runtime.RUNNER else list(self.transport.site)

    def _send(self, path: Path) -> str:
        """A file's name in the run folder, where it is whole; sent once a session."""
        if path not in self._there:
            file = self._archived(path) if path.is_dir() else path
            name = f"{len(self._there)}-{file.name}"
            told = lambda done, total: self._progress(f"sending {path.name}", done, total)  # noqa: E731
            verified_send(self.transport, [Sent(file, f"{self.folder}/{name}")], told, self._digests)
            self._there[path] = name
        return self._there[path]

    def _archived(self, folder: Path) -> Path:
        """A folder (an .mlpackage) as one file, which its runner unpacks."""
        archive = self._scratch / f"{len(self._there)}" / f"{folder.name}.zip"
        with on_our_disk("temporary files"):
            archive.parent.mkdir()
            # Reproducible copies date files to 1970, before a zip's first year.
            with zipfile.ZipFile(archive, "w", strict_timestamps=False) as held:
                for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                    held.write(path, path.relative_to(folder).as_posix())
        return archive

    def _digests(self, remotes: Sequence[str]) -> list[str]:
        """What ``edgepack.devices.sending`` asks, answered by the supervisor, which is there already."""
        self._talk.say({"digests": list(remotes)})
        return self._talk.checked(self._talk.hear(("digests",), _HASHING)["digests"], list[str])


def old_site(transport: Transport) -> str:
    """The packages of tflite-runtime for a device that shares our files, made on first need.

    Raises:
        DeviceError: the device is another machine, or there is no wheel for its Python.
    """
    from edgepack.devices.setup import facts

    if transport.address.transport not in _SHARES_FILES:
        raise DeviceError(
            f"tflite-runtime is not installed on {transport.address}: edgepack runs it here and in the emulated Pi",
            "measure with --device local, qemu://pi4 or qemu://pi5, or choose other targets with -t",
        )
    return str(tflite_runtime.site(facts(transport).interpreter))


# Seconds for hashing one file on the device.
_HASHING = 300.0


class _Talk:
    """Lines of JSON to and from a supervisor; every way it can fall silent or talk nonsense becomes one error."""

    def __init__(self, process: subprocess.Popen[bytes], transport: Transport) -> None:
        assert process.stderr is not None
        self._process, self._transport, self.name = process, transport, str(transport.address)
        self._complained = Tail(process.stderr, _WORDS)
        self._turn, self._over = threading.Lock(), threading.Event()

    def keep_alive(self) -> None:
        """From now on the other side hears now and then that this one is there; nothing else is to be sent raw."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        # What cannot be sent is told to whoever sends or hears next.
        with suppress(OSError, ValueError):
            while not self._over.wait(_BEAT):
                self._write(b"\n")

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        with self._turn:
            self._process.stdin.write(content)
            self._process.stdin.flush()

    def send_raw(self, content: bytes) -> None:
        """Bytes as they are."""
        try:
            self._write(content)
        except OSError as error:
            raise self._silence() from error

    def say(self, message: Mapping[str, Any]) -> None:
        """One message."""
        self.send_raw(json.dumps(message).encode() + b"\n")

    def hear(self, wanted: Sequence[str], seconds: float, progress: Callable[[int, int], None] = lambda *_: None) -> _Message:
        """The next message that has one of these keys; progress is passed on.

        Raises:
            TransportError: the connection ended, nothing came in that time, or what came has no end.
        """
        # The longest that a timer takes is 292 years.
        late = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._process.kill)
        late.daemon = True
        late.start()
        try:
            while line := self._line():
                message = _message(line)
                if "progress" in message:
                    _pass_on(message["progress"], progress)
                elif not message.keys().isdisjoint(wanted):
                    return message
        finally:
            on_time = late.is_alive()
            late.cancel()
        if not on_time:
            raise TransportError(f"{self.name} fell silent for {seconds:g} s", "see whether it is up and reachable, then try again")
        raise self._silence()

    def _line(self) -> bytes:
        """The next one, b"" at the end."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline(_LONGEST)
        if len(line) == _LONGEST and not line.endswith(b"\n"):
            raise TransportError(f"{self.name} answers without an end", "see what its login scripts print")
        return line

    def checked(self, content: msgspec.Raw, kind: type[_Part]) -> _Part:
        """A part of a message as the type it must be."""
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TransportError(f"{self.name} answers what is no answer ({error})", "see what its login scripts print") from error

    def _silence(self) -> DeviceError:
        """Why nothing more comes."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        words = self._complained.words(2)
        code = self._process.poll()
        explained = self._transport.explain(code if code is not None else -1, words)
        if explained is not None:
            return explained
        last = (words.strip().splitlines() or ["it said nothing"])[-1][:_QUOTE]
        return TransportError(f"{self.name} ended the run ({last})", "see whether its Python works: edgepack device setup")

    def end(self) -> None:
        """Close the input, which tells the supervisor to clean up, and wait for it; a connection that does not end is cut."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._over.set()
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLEANING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complained.words(2)
        self._process.stdout.close()


_Message = dict[str, msgspec.Raw]


def _message(line: bytes) -> _Message:
    """A line as a message; {} for what a login script prints."""
    try:
        return msgspec.json.decode(line, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _pass_on(content: msgspec.Raw, progress: Callable[[int, int], None]) -> None:
    """Progress that is none is a library's words, as edgepack.devices.runner_process has it too."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        progress(*msgspec.json.decode(content, type=tuple[_Count, _Count]))


# A supervisor removes one folder when its input closes.
_CLEANING_SECONDS = 20.0
