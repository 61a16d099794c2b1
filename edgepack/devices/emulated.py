"""``qemu://pi5`` and ``qemu://pi4``: a Raspberry Pi's processor in qemu-user. What it computes counts; its times say nothing.

Programs are Python of the emulated system; they may fork, but execve leads nowhere (edgepack.devices.userland says why).
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edgepack.converter.process import kill_tree
from edgepack.devices.address import Address
from edgepack.devices.transport import RUNS, TransportError
from edgepack.devices.userland import Board, Progress, build

_CHUNK = 1 << 20
# What qemu says when it cannot load the program's dynamic loader (linux-user/elfload.c); of the program itself it says nothing.
_NOT_LOADED = re.compile(r"^qemu-aarch64-static: .*$", re.MULTILINE)


def connect(address: Address, progress: Progress = lambda *_: None) -> EmulatedPi:
    """The emulated Pi of an address, built first where it is not in the cache.

    Raises:
        EmulationError: it cannot be built here.
    """
    return EmulatedPi(build(progress=progress).board(address.place))


class EmulatedPi:
    """The transport to an emulated board. Its files are this machine's: paths below its root are the same on both sides."""

    emulated = True
    runs = RUNS

    def __init__(self, board: Board) -> None:
        self.address = Address("qemu", board.profile.name)
        self.site: Sequence[str] = (str(board.userland.site),)
        self._board = board
        self._started: list[subprocess.Popen[bytes]] = []

    def python(self, code: str) -> subprocess.Popen[bytes]:
        """Start ``python3 -c code``.

        Raises:
            TransportError: the build in the cache is damaged.
        """
        command = self._board.command("-c", code)
        try:
            self._board.python.stat()
            process = self._start(command)
        except OSError as error:
            raise self._damaged(str(error)) from error
        self._started = [each for each in self._started if each.poll() is None] + [process]
        return process

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._board.home,
            env=self._board.environment(),
            start_new_session=True,
            preexec_fn=_no_core_file,
        )

    def send(self, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Copy a file to an absolute path in the Pi's home."""
        target = Path(remote)
        if not target.is_relative_to(self._board.home) or ".." in target.parts:
            raise TransportError(f"'{remote}' is outside the emulated Pi's home", f"send to a path below {self._board.home}")
        try:
            _copy(local, target, progress)
        except OSError as error:
            raise TransportError(
                f"cannot copy {local} to the emulated Pi: {error.strerror}", "see that both paths exist and can be written"
            ) from error

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file of the Pi's home, or one of its system (/proc/cpuinfo)."""
        source = Path(remote)
        if not source.is_relative_to(self._board.root):
            source = self._board.root / remote.lstrip("/")
        try:
            shutil.copyfile(source, local)
        except OSError as error:
            raise TransportError(f"cannot copy {remote} from the emulated Pi: {error.strerror}", "see that it exists there") from error

    def explain(self, code: int, words: str) -> TransportError | None:
        """A build that qemu cannot load; a program killed by SIGILL or SIGSEGV is none of the connection's business."""
        said = _NOT_LOADED.search(words)
        return self._damaged(said.group()) if code and said else None

    def _damaged(self, words: str) -> TransportError:
        folder = self._board.userland.folder
        return TransportError(f"the emulated Pi does not start: {words}", f"remove {folder} and try again: it is built anew")

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._started:
            if process.poll() is None:
                kill_tree(process)
            process.wait()


def _copy(local: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    total = local.stat().st_size
    with local.open("rb") as source, target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
            progress(sink.tell(), total)


def _no_core_file() -> None:
    """qemu writes one of hundreds of megabytes into the home when the program dies of a signal."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
