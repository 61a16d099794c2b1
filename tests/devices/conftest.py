"""A device behind a real ssh server on loopback, and folders of the user's that are the test's own."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepack.devices.address import parse
from edgepack.devices.ssh import Ssh
from edgepack.devices.wheels import DevicePython, wheels
from tests.fakes.sshd import Server, UnavailableError, environment, serving
from tests.fakes.wheels import make_wheels, pip_settings

DEVICE = parse("ssh://device")


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        with serving(tmp_path_factory.mktemp("sshd")) as server:
            yield server
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The server with an empty home, its own python3, and a client that is configured for it."""
    for path in _server.home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _server.configure()
    _server.know()
    _server.python()
    for name, value in environment(_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("EDGEPACK_WHEELS", str(tmp_path / "wheels"))
    return _server


@pytest.fixture
def ssh(server: Server) -> Iterator[Ssh]:
    """An open transport."""
    transport = Ssh.open(DEVICE)
    yield transport
    transport.close()


PI = DevicePython("3.11.2", 64, "aarch64", "2.36")
# The device behind the server is this machine.
HERE = DevicePython(platform.python_version(), 64, platform.machine(), platform.libc_ver()[1])


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that pip finds wheels in, and nowhere else: one tiny wheel of everything. The user's cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheels(folder)
    monkeypatch.setenv("EDGEPACK_WHEELS", str(tmp_path / "wheels"))
    for name, value in pip_settings(folder).items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture(scope="session")
def _stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny wheels of a Pi and of this machine: pip takes a second for each."""
    folder, stock = tmp_path_factory.mktemp("index"), tmp_path_factory.mktemp("stock")
    make_wheels(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPACK_WHEELS", str(stock))
        for name, value in pip_settings(folder).items():
            patch.setenv(name, value)
        for python in (PI, HERE):
            wheels(python)
    return stock


@pytest.fixture
def stocked(_stock: Path, index: Path, tmp_path: Path) -> Path:
    """The user's cache, with all that ``index`` has."""
    return Path(shutil.copytree(_stock, tmp_path / "wheels"))
