"""Phones, over the user's own ``adb``: its keys, its server and what is connected to it hold here too.

Commands go through shell protocol v2, which returns exit codes and standard error apart; every phone since Android 7 speaks it. What adb
is given is a list of arguments, and one command line for the phone's shell in which every path is quoted.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepack.converter.process import ended, kill_tree
from edgepack.devices.adb_words import explained, failed
from edgepack.devices.address import Address
from edgepack.devices.tail import Tail
from edgepack.devices.transport import TransportError

# The one place that adb's user may write to and start programs in.
ROOT = "/data/local/tmp/edgepack"
# Seconds for a small command; a phone that sleeps takes one or two.
SECONDS = 20.0
# The slowest link worth waiting for: wireless debugging through walls, 0.5 MB/s.
_BYTES_PER_SECOND = 5e5
# adb's exit code for "the phone's shell ended by signal n" is 128 + n, as a shell's own.
SIGNALLED = 128
_LINE = re.compile(r"^(?P<serial>\S+)\s+(?P<state>no permissions.*|[a-z]+)(?P<rest>.*)$")


@dataclass(frozen=True)
class Attached:
    """One line of ``adb devices -l``. ``state`` is "device" when it is ready; ``model`` is adb's word for it."""

    serial: str
    state: str
    model: str = ""

    @property
    def address(self) -> str:
        """As a person types it."""
        return f"adb://{self.serial}"


@dataclass(frozen=True)
class Done:
    """How a command on the phone ended."""

    code: int
    said: str
    words: str


def program() -> str:
    """The adb binary; TransportError when there is none."""
    found = shutil.which("adb")
    if found is None:
        raise TransportError(
            "there is no adb on this computer", "install it: Debian's package adb, or Android's platform tools; then try again"
        )
    return found


def attached(seconds: float = SECONDS) -> list[Attached]:
    """What is connected, ready or not.

    Raises:
        TransportError: there is no adb, or its server does not start.
    """
    done = _call(["devices", "-l"], "adb", seconds)
    if done.code:
        raise failed("adb", "listing phones", done.words or done.said)
    return listed(done.said)


def listed(said: str) -> list[Attached]:
    """The lines of ``adb devices -l``."""
    _, _, lines = said.partition("List of devices attached")
    matches = (_LINE.match(line) for line in lines.splitlines())
    return [_attached(match) for match in matches if match]


def _attached(match: re.Match[str]) -> Attached:
    model = re.search(r"\bmodel:(\S+)", match["rest"])
    return Attached(match["serial"], match["state"].strip(), model[1].replace("_", " ") if model else "")


def chosen(address: Address) -> Attached:
    """The phone of an address, ready; of "adb" the only one there is.

    Raises:
        TransportError: it is not connected, or not ready, or there are several.
    """
    found = attached()
    if not address.place:
        return _only(found)
    named = next((each for each in found if each.serial == address.place), None)
    if named is None:
        raise failed(str(address), "", f"device '{address.place}' not found")
    return ready(named)


def _only(found: Sequence[Attached]) -> Attached:
    if not found:
        raise failed("adb", "", "no devices/emulators found")
    if len(found) > 1:
        names = ", ".join(each.address for each in found)
        raise TransportError(f"several phones are connected: {names}", "name one of them with --device")
    return ready(found[0])


def ready(phone: Attached) -> Attached:
    """The phone itself; TransportError unless commands can run on it."""
    if phone.state != "device":
        known = explained(phone.address, phone.state)
        raise known or TransportError(f"{phone.address} is in the state '{phone.state}'", "start Android on it, then try again")
    return phone


class Phone:
    """An open way to one phone (``edgepack.devices.transport.Transport``, but phones have no Python)."""

    site: Sequence[str] = ()

    def __init__(self, address: Address, emulated: bool = False) -> None:
        self.address, self.emulated = address, emulated
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def runs(self) -> str:
        """Where edgepack's things lie on a phone."""
        return ROOT

    @classmethod
    def open(cls, address: Address) -> Phone:
        """A phone that is connected and ready.

        Raises:
            TransportError: it is not, or speaks a shell protocol without exit codes.
        """
        phone = cls(Address("adb", chosen(address).serial))
        # adb's own name for the protocol; a Done of the first command would have lost its exit code.
        if "shell_v2" not in phone._adb(["features"], "asking what it can do", SECONDS).said.split():
            raise TransportError(f"{phone.address} returns no exit codes: its Android is older than 7", "use a newer phone")
        return phone

    def python(self, code: str) -> subprocess.Popen[bytes]:
        """Phones have no Python: always TransportError."""
        raise TransportError(f"{self.address} has no Python", "give the runtime that its runner should open: --runtime FILE")

    def shell(self, command: str, seconds: float = SECONDS) -> Done:
        """Run a line of the phone's shell; the code is its own.

        Raises:
            TransportError: the connection failed, or there is no answer in that time.
        """
        done = _call(["-s", self.address.place, "shell", "-T", "-n", command], str(self.address), seconds)
        # adb itself fails with 1 and "error: ..." before the phone's shell has said anything.
        if done.code and done.words.lstrip().startswith(("error:", "adb: ")):
            raise failed(str(self.address), "a command", done.words)
        return done

    def asked(self, command: str, doing: str, seconds: float = SECONDS) -> str:
        """What a line of the phone's shell says; TransportError when it fails."""
        done = self.shell(command, seconds)
        if done.code:
            raise failed(str(self.address), doing, done.words or done.said)
        return done.said

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a line of the phone's shell with three pipes; it finds the end of its input when the connection goes."""
        arguments = [program(), "-s", self.address.place, "shell", "-T", command]
        pipe = subprocess.PIPE
        process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        self._started = [each for each in self._started if each.poll() is None] + [process]
        return process

    def send(self, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Copy a file, in the mode it has here; its folder is there."""
        total = local.stat().st_size
        progress(0, total)
        self._adb(["push", str(local), remote], f"copying {local.name}", SECONDS + total / _BYTES_PER_SECOND)
        progress(total, total)

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file here."""
        self._adb(["pull", remote, str(local)], "copying a file back", _LONGEST_FETCH)

    def digest(self, remote: str) -> str:
        """The sha256 of a file there; "" when it is none."""
        done = self.shell(f"sha256sum {shlex.quote(remote)}", SECONDS + _HASHING)
        word = (done.said.split() or [""])[0]
        return word if done.code == 0 and re.fullmatch("[0-9a-f]{64}", word) else ""

    def is_there(self) -> bool:
        """Whether adb still reaches it."""
        with contextlib.suppress(TransportError):
            return _call(["-s", self.address.place, "get-state"], str(self.address), SECONDS).said.strip() == "device"
        return False

    def explain(self, code: int, words: str) -> TransportError | None:
        """What adb's end says of the connection."""
        return explained(str(self.address), words)

    def close(self) -> None:
        """End whatever this side still runs; the phone's side of it finds the end of its input."""
        for process in self._started:
            if process.poll() is None:
                kill_tree(process)
            process.wait()

    def _adb(self, arguments: list[str], doing: str, seconds: float) -> Done:
        done = _call(["-s", self.address.place, *arguments], str(self.address), seconds)
        if done.code:
            raise failed(str(self.address), doing, done.words or done.said)
        return done


# Seconds: a phone reads 500 MB from its storage in less than ten, hashing them takes as long again; outputs are small.
_HASHING = 60.0
# Bytes of what a phone says that are kept, the last: all its properties are 60 kB. Seconds for the pipes to close at its end: a server
# that adb starts holds none.
_LONGEST, _DRAINING = 2**20, 5.0
_LONGEST_FETCH = 300.0


def _call(arguments: list[str], phone: str, seconds: float) -> Done:
    """One adb command to its end. Its input is closed: adb would read the terminal's."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([program(), *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
    assert process.stdout is not None and process.stderr is not None
    said, words = Tail(process.stdout, _LONGEST), Tail(process.stderr, _LONGEST)
    try:
        with ended(process):
            process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise TransportError(
            f"{phone} does not answer: nothing after {seconds:.0f} s", "unlock it and see the cable, then try again"
        ) from error
    return Done(process.returncode, said.words(_DRAINING), words.words(_DRAINING))
