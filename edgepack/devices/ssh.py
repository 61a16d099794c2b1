"""Devices over the user's own ``ssh`` and ``sftp``: their configuration, agent, jump hosts and known hosts hold here too.

One connection is shared (ControlMaster) by everything a session asks, so that a question costs a tenth of a second and not a handshake.
Its socket lies in a private folder, because a socket's path has room for about 104 bytes.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import resource
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from edgepack.converter.process import ended, kill_tree
from edgepack.devices.address import Address
from edgepack.devices.ask import ask, program, question
from edgepack.devices.sending import Files
from edgepack.devices.ssh_words import SSH_FAILED, CutError, explained, lost, typed
from edgepack.devices.tail import Tail
from edgepack.devices.transport import RUNS, TransportError, on_our_disk
from edgepack.errors import InputError

# Names a file that ssh and sftp read instead of ~/.ssh/config.
CONFIG = "EDGEPACK_SSH_CONFIG"
# Seconds to wait for a device that does not answer.
TIMEOUT = 10.0
# Where sockets lie, whatever TMPDIR says: the folders it names on a Mac are too long.
_SOCKETS = "/tmp"
# Seconds the shared connection outlives its last use, so that one whose owner was killed ends by itself.
_PERSIST = 120
# A dead connection is noticed after three unanswered questions, 15 s.
_ALIVE = ("ServerAliveInterval=5", "ServerAliveCountMax=3")
# Seconds between tries of a broken transfer. A Pi that lost its wireless network is back within about ten.
_PAUSES = (1.0, 3.0, 8.0)
# Seconds for ``ssh -O exit``, which only speaks to a local socket.
_CLOSING = 5.0
# Progress of a copy costs a process on the device; below this many bytes it is over before that has started.
_WATCHED = 2**22
# Asking how much of a file is there costs a process too; a shorter file is sent whole.
_RESUMED = 2**20
# Seconds between looks at a copy that goes on, and bytes a second below which it stands still: the slowest mobile network has ten times.
_LOOK, _SLOWEST = 60.0, 1000
# Bytes that sftp and the device can complain in.
_COMPLAINTS = 2**16
# Bytes of the largest file that comes back: sixteen golden samples of a mask of 21 classes at 1024 x 1024 have 1.4 GB.
_LARGEST = 2**31
# Bytes that one argument of a process may have on Linux (MAX_ARG_STRLEN), less what stands around the program.
_LONGEST = 2**17 - 2**10


class FullError(TransportError):
    """A device's disk that has no room for a file."""


class Ssh:
    """An open way to a device behind ssh (``edgepack.devices.transport.Transport``); ``Ssh.open`` makes one."""

    emulated = False
    runs = RUNS

    @classmethod
    def open(cls, address: Address, timeout: float = TIMEOUT) -> Ssh:
        """Connect.

        Args:
            timeout: seconds for the device to answer.

        Raises:
            TransportError: it cannot be reached.
        """
        transport = cls(address, timeout)
        try:
            transport.reach()
        except BaseException:
            transport.close()
            raise
        return transport

    def __init__(self, address: Address, timeout: float = TIMEOUT) -> None:
        self.address = address
        self.site: Sequence[str] = ()
        self._timeout = timeout
        self._folder = _private_folder()
        self._options = _options(address, timeout, self._folder)
        # Also at the end of this process, should nobody close it.
        self._finish = weakref.finalize(self, _close, self._folder, [*self._options, "--", address.host])

    def reach(self) -> None:
        """Open the shared connection unless it is open.

        Raises:
            TransportError: the device cannot be reached.
        """
        if any(self._folder.iterdir()):
            return
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPersist={_PERSIST}"]
        command = ["ssh", *shared, *self._options, "--", self.address.host, "exit 0"]
        # A file and no pipe: the shared connection would hold the pipe open.
        with on_our_disk("a temporary file"), tempfile.TemporaryFile() as complaints:
            process = _started(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints)
            self._wait(process)
            complaints.seek(0)
            words = complaints.read().decode(errors="replace")
        # Any other code is a login shell's, to which the connection led.
        if process.returncode == SSH_FAILED:
            raise lost(self.address, words)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """To the end of the first ssh. ConnectTimeout does not reach what stands before: a jump host or a proxy command."""
        try:
            process.wait(2 * self._timeout + 5)
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"{self.address.host} does not answer", f"see what {typed(self.address)} does") from error
        finally:
            if process.poll() is None:
                kill_tree(process)

    def python(self, code: str) -> subprocess.Popen[bytes]:
        """Start ``python3 -c code`` there, in the user's home, with three pipes, in a process group of its own here.

        The address may name another Python.
        """
        self.reach()
        command = ["ssh", "-o", "ControlMaster=no", *self._options, "--", self.address.host, _shell_line(code, self.address.python)]
        return _started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def send(self, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Copy one file, or go on where an earlier copy broke off; a connection that breaks is tried again.

        Raises:
            FullError: the device has no room for it; what was copied of it is removed.
            TransportError: the connection fails for good, or the device refuses the file.
        """
        total = local.stat().st_size
        progress(0, total)
        self._persist(lambda: self._put(local, remote, total, progress), lambda: self._size(remote))
        progress(total, total)

    def _put(self, local: Path, remote: str, total: int, progress: Callable[[int, int], None]) -> None:
        held = self._size(remote) if total >= _RESUMED else 0
        verb, begun = ("reput", held) if 0 < held < total else ("put", 0)
        with self._watched(remote, total, progress):
            code, words = self._sftp(f"{verb} {quoted(str(local))} {quoted(remote)}", begun, lambda: self._size(remote))
        if code:
            raise self._refused(code, words, remote, total)

    def fetch(self, remote: str, local: Path) -> None:
        """Copy one file here; ``local`` is there only when it is whole.

        Raises:
            TransportError: the connection fails for good, or the file is larger than what a runner writes.
        """
        part = local.with_name(f"{local.name}.part")
        with on_our_disk(local.name):
            part.unlink(missing_ok=True)
            self._persist(lambda: self._get(remote, part), lambda: _held(part))
            part.replace(local)

    def _get(self, remote: str, part: Path) -> None:
        verb = "reget" if part.exists() else "get"
        code, words = self._sftp(f"{verb} {quoted(remote)} {quoted(str(part))}", _held(part), lambda: _held(part))
        if _held(part) >= _LARGEST:
            part.unlink()
            raise TransportError(
                f"{Path(remote).name} of {self.address.host} has more than {_megabytes(_LARGEST)}", "use a smaller model, or fewer samples"
            )
        if code:
            raise self._refused(code, words, remote, 0)

    def _persist(self, copy: Callable[[], None], held: Callable[[], int]) -> None:
        """Copy, again after a break, until it is done or as many tries as there are pauses bring nothing more across."""
        pauses, before = list(_PAUSES), 0
        while True:
            try:
                copy()
                return
            except CutError:
                if not pauses:
                    raise
            time.sleep(pauses.pop(0))
            with contextlib.suppress(TransportError):
                now = held()
                if now > before:
                    pauses, before = list(_PAUSES), now

    def explain(self, code: int, words: str) -> TransportError | None:
        """What the end of a process started by ``python`` says of the connection; None when it says nothing of it."""
        return explained(self.address, code, words)

    def close(self) -> None:
        """End the shared connection and remove its folder."""
        self._finish()

    def _size(self, remote: str) -> int:
        return next(iter(ask(self, "files", {"paths": [remote]}, Files).sizes), -1)

    def _sftp(self, line: str, begun: int, held: Callable[[], int]) -> tuple[int, str]:
        """Run one line of sftp: its exit code and complaints. (Its -q would hide those of ssh.)

        Args:
            begun: how many bytes are there already; held: how many now.

        Raises:
            CutError: it stands still: sftp itself waits for ever for a server that does not answer.
        """
        self.reach()
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        command = ["sftp", "-b", "-", "-o", "ControlMaster=no", *self._options, "--", host]
        pipe = subprocess.PIPE
        process = _started(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, preexec_fn=_no_larger_files)
        assert process.stdin is not None and process.stderr is not None
        complaints = Tail(process.stderr, _COMPLAINTS)
        with ended(process):
            # One that died at once is told by its exit code and its words.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line.encode() + b"\n")
                process.stdin.close()
            self._wait_for_copy(process, begun, held)
        return process.returncode, complaints.words(_CLOSING)

    def _wait_for_copy(self, process: subprocess.Popen[bytes], before: int, held: Callable[[], int]) -> None:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
                return
            now = held()
            if now < before + _LOOK * _SLOWEST:
                raise CutError(f"the copy to or from {self.address.host} stands still", "see whether its disk and its network work")
            before = now

    def _refused(self, code: int, words: str, remote: str, total: int) -> TransportError:
        """Why sftp failed: the login shell, the connection, a full disk (which its protocol has no word for), or what it says itself."""
        if "Received message too long" in words:
            return TransportError(
                f"the login shell of {self.address.host} prints text where sftp speaks", "keep its .bashrc silent when nobody sits there"
            )
        # A negative code: sftp dies of the pipe to its ssh when that is gone.
        if code == SSH_FAILED or code < 0 or re.search("^Connection closed", words, re.MULTILINE):
            return lost(self.address, words)
        if total and re.search(r": Failure\b|No space|[Qq]uota", words):
            free = ask(self, "files", {"paths": [remote], "remove": [remote]}, Files).free
            if free < total:
                return FullError(
                    f"the disk of {self.address.host} is full: {_megabytes(free)} are free, {Path(remote).name} needs {_megabytes(total)}",
                    "free some space on the device and run the same again",
                )
        last = (words.strip().splitlines() or ["it said nothing"])[-1][:200]
        return TransportError(f"sftp to {self.address.host} failed: {last}", "see whether the folder is there and yours")

    @contextlib.contextmanager
    def _watched(self, remote: str, total: int, progress: Callable[[int, int], None]) -> Iterator[None]:
        """Progress while the block runs. sftp shows it only on a terminal, so the device is asked how long the file is."""
        if total < _WATCHED:
            yield
            return
        process = self.python(program("watch"))
        follower = threading.Thread(target=_follow, args=(process, {"path": remote}, total, progress), daemon=True)
        with ended(process):
            follower.start()
            yield
        follower.join(1)


def _follow(process: subprocess.Popen[bytes], asked: dict[str, str], total: int, progress: Callable[[int, int], None]) -> None:
    """Lines that are no number, or a pipe that breaks, end the progress and not the copy."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        process.stdin.write(question(asked))
        process.stdin.flush()
        for line in process.stdout:
            progress(min(int(line), total), total)


def _held(path: Path) -> int:
    """Bytes of a file here, 0 when there is none."""
    return path.stat().st_size if path.exists() else 0


def _no_larger_files() -> None:
    """Whatever a device sends: the system ends an sftp that would write more."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST if most == resource.RLIM_INFINITY else min(most, _LARGEST), most))


def _private_folder() -> Path:
    """A new one with this process's number in its name. Those that a killed process left go, once the connection in them has ended."""
    for left in Path(_SOCKETS).glob("edgepack-ssh-*-*"):
        with contextlib.suppress(OSError, ValueError):
            if not psutil.pid_exists(int(left.name.split("-")[2])):
                left.rmdir()
    with on_our_disk("a folder for the connection"):
        return Path(tempfile.mkdtemp(prefix=f"edgepack-ssh-{os.getpid()}-", dir=_SOCKETS))


def _options(address: Address, timeout: float, folder: Path) -> list[str]:
    """What ssh and sftp are both told. Of the user's settings only those are overruled that would stand between two programs."""
    config = os.environ.get(CONFIG)
    settings = [
        "BatchMode=yes",
        f"ConnectTimeout={math.ceil(timeout)}",
        *_ALIVE,
        "LogLevel=ERROR",
        "RequestTTY=no",
        "RemoteCommand=none",
        "ClearAllForwardings=yes",
        f"ControlPath={folder}/%C",
        *([f"User={address.user}"] if address.user else []),
        *([f"Port={address.port}"] if address.port else []),
    ]
    return [*(["-F", config] if config else []), *(part for setting in settings for part in ("-o", setting))]


def _started(command: list[str], **pipes: object) -> subprocess.Popen[bytes]:
    """Start ssh or sftp apart from this program's group, so that Ctrl-C reaches it through us, in order."""
    try:
        return subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]
    except FileNotFoundError as error:
        raise TransportError(f"this machine has no {command[0]}", "install OpenSSH's client: sudo apt install openssh-client") from error


def _shell_line(code: str, python: str) -> str:
    """The program as one line that every login shell reads alike (csh and fish quote otherwise): letters, digits, ``+/=``.

    Raises:
        ValueError: it is longer than an argument may be.
    """
    packed = base64.b64encode(zlib.compress(code.encode(), 9)).decode()
    line = f"exec {python} -c 'import base64,zlib;exec(zlib.decompress(base64.b64decode(\"{packed}\")))'"
    if len(line) > _LONGEST:
        raise ValueError(f"a program of {len(code)} characters is too long for a command line; send it as a file")
    return line


def quoted(path: str) -> str:
    """A path as sftp's batch language takes it: inside quotes a backslash guards a quote and itself, and nothing is a pattern.

    Raises:
        InputError: no line can hold it.
    """
    if "\n" in path or "\r" in path or "\0" in path:
        raise InputError(f"the file name {path!r} has a line break in it", "rename it")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _close(folder: Path, options: list[str]) -> None:
    """Tell the shared connection to end, wait until it has, and remove its folder; also called when this process ends."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    ["ssh", "-O", "exit", *options], capture_output=True, timeout=_CLOSING, check=False, stdin=subprocess.DEVNULL
                )
            deadline = time.monotonic() + _CLOSING
            while any(folder.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
