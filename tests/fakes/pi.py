"""Emulated Raspberry Pis as fixtures (a plugin of tests/conftest.py): ``pi5`` and ``pi4`` directly, ``ssh_pi`` behind a real sshd.

The userland is built once, in the user's cache, whatever number of test processes want it. Each process gets boards of its own, so
that a test may change their files (heat, throttling) and leave files in their homes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgepack.devices.emulated import EmulatedPi
from edgepack.devices.pi_files import PROFILES
from edgepack.devices.userland import Board, Userland, build, default_cache
from edgepack.errors import DeviceError
from tests.fakes import force_command
from tests.fakes.openssh import Server, ServerError, binaries, words


@pytest.fixture(scope="session")
def arm64() -> Userland:
    """The arm64 system with the runtimes; what needs it is skipped where its packages cannot be had."""
    try:
        return build()
    except DeviceError as error:
        pytest.skip(f"no emulated Pi: {error}")


@pytest.fixture(scope="session")
def pi4_board(arm64: Userland, tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(arm64, PROFILES["pi4"], tmp_path_factory.mktemp("pi4") / "root").make()


@pytest.fixture(scope="session")
def pi5_board(arm64: Userland, tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(arm64, PROFILES["pi5"], tmp_path_factory.mktemp("pi5") / "root").make()


@pytest.fixture(scope="session")
def pi4(pi4_board: Board) -> Iterator[EmulatedPi]:
    """An emulated Pi 4, as ``qemu://pi4`` opens one."""
    pi = EmulatedPi(pi4_board)
    yield pi
    pi.close()


@pytest.fixture(scope="session")
def pi5(pi5_board: Board) -> Iterator[EmulatedPi]:
    """An emulated Pi 5, as ``qemu://pi5`` opens one."""
    pi = EmulatedPi(pi5_board)
    yield pi
    pi.close()


class SshPi:
    """An emulated Pi 5 that is reached by the user's own ssh.

    Attributes:
        address: ``ssh://pi@127.0.0.1:PORT``.
        config: a file for ``ssh -F``, with the key and the host's key.
        environment: what makes edgepack use it.
        board: the Pi; ``board.home`` is its home, on both sides. Its Python has no packages, like a new Pi's; ``equip`` adds the runtimes.
        server: the sshd; ``stop``, ``start``, ``log``.
    """

    def __init__(self, board: Board, server: Server, extra: Path) -> None:
        self.board = board
        self.server = server
        self.address = f"ssh://pi@127.0.0.1:{server.port}"
        self.config = server.config
        self.environment = {"EDGEPACK_SSH_CONFIG": str(server.config)}
        self._extra = extra

    def ssh(self, command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """What ``ssh pi@... command`` says."""
        command_line = ["ssh", "-F", str(self.config), "-p", str(self.server.port), "-o", "BatchMode=yes", "pi@127.0.0.1", command]
        return subprocess.run(command_line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)

    def equip(self) -> None:
        """Give the Pi's Python the runtimes from now on, as if they had been installed."""
        self.set_environment(PYTHONPATH=str(self.board.userland.site))

    def set_environment(self, **variables: str) -> None:
        """Variables of all commands from now on, instead of those set before."""
        self._extra.write_text(json.dumps(variables), encoding="utf-8")

    def drop(self) -> None:
        """Break every connection; the server goes on listening. What the connections ran finds its standard input closed."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Every connection falls silent without breaking, as on a lost wireless network, until ``thaw``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Connections go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.server.connections():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def programs(self) -> list[psutil.Process]:
        """What runs on the Pi now."""
        return [process for process in self.server.processes() if words(process)[:1] == [str(self.board.userland.qemu)]]


@pytest.fixture(scope="session")
def ssh_server_pi(arm64: Userland, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshPi]:
    """The server of ``ssh_pi``, one for all tests of a process."""
    if shutil.which("ssh") is None or shutil.which("unshare") is None:
        pytest.skip("no ssh in front of an emulated Pi: ssh or unshare is missing (Debian packages openssh-client, util-linux)")
    folder = tmp_path_factory.mktemp("ssh-pi")
    board = Board(arm64, PROFILES["pi5"], folder / "root").make()
    try:
        pi = _serve(board, folder)
    except (DeviceError, ServerError) as error:
        pytest.skip(f"no ssh in front of an emulated Pi: {error}")
    yield pi
    pi.server.stop()


def _serve(board: Board, folder: Path) -> SshPi:
    programs = binaries(default_cache())
    extra, settings = folder / "extra.json", folder / "settings.json"
    known: force_command.Settings = {
        "home": str(board.home),
        "python": board.command(),
        "environment": board.environment(),
        "extra": str(extra),
        "sftp": [programs.sftp_server, "-d", str(board.home)],
        "sftp_environment": programs.environment,
    }
    settings.write_text(json.dumps(known), encoding="utf-8")
    forced = [sys.executable, "-I", force_command.__file__, str(settings)]
    server = Server(programs, folder, board.home, forced, force_command.SFTP)
    server.start()
    return SshPi(board, server, extra)


@pytest.fixture
def ssh_pi(ssh_server_pi: SshPi) -> SshPi:
    """An emulated Pi 5 behind a real OpenSSH server, listening again if an earlier test stopped it, its home empty."""
    ssh_server_pi.server.stop()
    for entry in ssh_server_pi.board.home.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    ssh_server_pi.set_environment()
    ssh_server_pi.server.start()
    return ssh_server_pi
