"""One connection to a device with its supervisor running there: send files, run runners, bring results back.

The supervisor (``edgepack.runner.supervisor``) holds the device's lock and the run folder for as long as the connection lives, and
cleans up when it ends, however it ends.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgepack.arrays import Arrays, load_arrays, save_arrays
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, Response, RunnerError, respond
from edgepack.devices.transport import Transport, TransportError
from edgepack.errors import DeviceError
from edgepack.runner.bundle import bundle

# Where run folders live on a device; the supervisor expands it there.
RUNS = "~/.cache/edgepack/runs"
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
# Bytes of standard error that a failure can quote.
_WORDS = 4000


_Part = TypeVar("_Part")


class BusyError(DeviceError):
    """Somebody else is measuring on the device."""


class _Ready(msgspec.Struct, frozen=True):
    folder: str
    facts: dict[str, Any]
    free_bytes: int


class Ending(msgspec.Struct, frozen=True):
    """How a runner ended on the device.

    Attributes:
        code: its exit code, negative for a signal. reason: "ended" or "hung". said: its last line; words: the end of its standard error.
        peak_bytes: the most memory it held, its interpreter and runtime included. cpu_seconds: of all its threads.
        states: what the device was like before, about every second, and after (``edgepack.runner.probes.state``).
    """

    code: int
    reason: str
    said: str
    words: str
    peak_bytes: int
    cpu_seconds: float
    states: list[dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a runner answered, the arrays it wrote, and how it ended."""

    response: Response
    arrays: Arrays
    ending: Ending


Progress = Callable[[str, int, int], None]


@contextmanager
def opened(
    transport: Transport, *, exclusive: bool, wait: float = 0.0, seconds: float = 60.0, progress: Progress = lambda *_: None
) -> Iterator[Session]:
    """A session on a device.

    Args:
        exclusive: nobody else may measure there meanwhile.
        wait: seconds to wait for somebody who does.
        seconds: that the device may take to answer at first.

    Raises:
        BusyError: somebody is measuring there. TransportError: it cannot be reached, or the connection broke.
    """
    process = transport.python(_BOOT)
    talk = _Talk(process, transport)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            talk.send_raw(_modules())
            talk.say({"folder": RUNS, "exclusive": exclusive, "wait": wait})
            yield Session(transport, talk, _ready(talk, seconds + wait), Path(scratch), progress)
        finally:
            talk.end()


def _modules() -> bytes:
    """The supervisor's sources as one length-prefixed message; packages come first and are empty."""
    sources = [("edgepack", ""), ("edgepack.runner", "")]
    folder = resources.files("edgepack.runner")
    sources += [(name, (folder / f"{name.rpartition('.')[2]}.py").read_text(encoding="utf-8")) for name in _SENT]
    content = json.dumps(sources).encode()
    return b"%d\n%s" % (len(content), content)


def _ready(talk: _Talk, seconds: float) -> _Ready:
    answer = talk.hear(("ready", "busy", "refused"), seconds)
    if "refused" in answer:
        raise TransportError(
            f"nothing can be run on {talk.name} ({answer['refused']})", "see that its disk has room and its home can be written"
        )
    if "busy" in answer:
        raise BusyError(f"{talk.name} is busy: {answer['busy']}", "try again when it has ended, or give --wait SECONDS")
    return talk.checked(answer["ready"], _Ready)


class Session:
    """An open session; ``facts`` and ``free_bytes`` are the device's, ``folder`` is the run folder there."""

    def __init__(self, transport: Transport, talk: _Talk, ready: _Ready, scratch: Path, progress: Progress) -> None:
        self.transport, self.facts, self.free_bytes, self.folder = transport, ready.facts, ready.free_bytes, ready.folder
        self._talk, self._scratch, self._progress = talk, scratch, progress
        self._there: dict[Path, str] = {}

    def run(self, runner: str, request: Request, artifacts: Mapping[str, Path], feed: Arrays, limits: Limits) -> Outcome:
        """Run a portable runner there.

        Args:
            request: what is asked; its artifacts and files are filled in here.
            artifacts: label -> file on this machine; sent once a session.
            feed: stacked inputs in the artifact's terms.

        Raises:
            RunnerError: the runner failed. TransportError: the connection did.
        """
        names = {label: self._send(path) for label, path in artifacts.items()}
        program = self._send(bundle(runner, self._scratch / f"{runner}.pyz"))
        inputs = self._scratch / f"inputs-{len(self._there)}.npz"
        save_arrays(inputs, feed)
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
        job = {"runner": program, "request": msgspec.to_builtins(request), "site": list(self.transport.site), "seconds": limits.seconds}
        self._talk.say({**job, "memory": memory})
        answer = self._talk.hear(
            ("ended",), limits.seconds + _GRACE_SECONDS, lambda done, total: self._progress(request.action, done, total)
        )
        ending = self._talk.checked(answer["ended"], Ending)
        if ending.reason == "hung":
            raise RunnerError(f"the {runner} runner hung: no answer after {limits.seconds:g} s", "raise --timeout, or run fewer samples")
        return ending

    def _send(self, path: Path) -> str:
        """A file's name in the run folder, where it is whole: its digest there is that of here."""
        if path not in self._there:
            name = f"{len(self._there)}-{path.name}"
            for _ in range(_TRIES):
                self.transport.send(path, f"{self.folder}/{name}", lambda done, total: self._progress(f"sending {path.name}", done, total))
                if self._arrived(path, name):
                    break
            else:
                raise TransportError(
                    f"{path.name} does not arrive whole on {self._talk.name}", "check its disk and the network, then try again"
                )
            self._there[path] = name
        return self._there[path]

    def _arrived(self, path: Path, name: str) -> bool:
        self._talk.say({"digests": [name]})
        found = self._talk.hear(("digests",), _GRACE_SECONDS)["digests"]
        with path.open("rb") as file:
            return bool(found.get(name) == file_digest(file, "sha256").hexdigest())


# A file that arrives damaged is sent once more, whole: the transport overwrites what is as long as it should be.
_TRIES = 2


class _Talk:
    """Lines of JSON to and from a supervisor; every way it can fall silent becomes one error."""

    def __init__(self, process: subprocess.Popen[bytes], transport: Transport) -> None:
        self._process, self._transport, self.name = process, transport, str(transport.address)
        self._complained: list[bytes] = []
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def _follow(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._complained = [*self._complained, line[:_WORDS]][-20:]

    def send_raw(self, content: bytes) -> None:
        """Bytes as they are."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError as error:
            raise self._silence() from error

    def say(self, message: Mapping[str, Any]) -> None:
        """One message."""
        self.send_raw(json.dumps(message).encode() + b"\n")

    def hear(self, wanted: Sequence[str], seconds: float, progress: Callable[[int, int], None] = lambda *_: None) -> dict[str, Any]:
        """The next message that has one of these keys; progress is passed on.

        Raises:
            TransportError: the connection ended, or nothing came in that time.
        """
        assert self._process.stdout is not None
        late = threading.Timer(seconds, self._process.kill)
        late.daemon = True
        late.start()
        try:
            for line in self._process.stdout:
                message = self._message(line)
                if "progress" in message:
                    progress(*message["progress"])
                elif not message.keys().isdisjoint(wanted):
                    return message
        finally:
            on_time = late.is_alive()
            late.cancel()
        if not on_time:
            raise TransportError(f"{self.name} fell silent for {seconds:g} s", "see whether it is up and reachable, then try again")
        raise self._silence()

    def _message(self, line: bytes) -> dict[str, Any]:
        """A line as a message; {} for what a login script prints."""
        try:
            message = json.loads(line)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def checked(self, content: Any, kind: type[_Part]) -> _Part:
        """A part of a message as the type it must be."""
        try:
            return msgspec.convert(content, kind)
        except msgspec.ValidationError as error:
            raise TransportError(f"{self.name} answers what is no answer ({error})", "see what its login scripts print") from error

    def _silence(self) -> DeviceError:
        """Why nothing more comes."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._follower.join(2)
        words = b"".join(self._complained).decode(errors="replace")
        code = self._process.poll()
        explained = self._transport.explain(code if code is not None else -1, words)
        if explained is not None:
            return explained
        last = (words.strip().splitlines() or ["it said nothing"])[-1][:200]
        return TransportError(f"{self.name} ended the run ({last})", "see whether its Python works: edgepack device setup")

    def end(self) -> None:
        """Close the input, which tells the supervisor to clean up, and wait for it; a connection that does not end is cut."""
        assert self._process.stdin is not None and self._process.stdout is not None and self._process.stderr is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLEANING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._follower.join(2)
        self._process.stdout.close()


# A supervisor removes one folder when its input closes.
_CLEANING_SECONDS = 20.0
