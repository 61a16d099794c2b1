"""A phone that is none: a mini adbd that the real adb connects to, whose shell runs the cross-compiled runner under qemu.

Speaks what adb 29 to 36 ask of a device: CNXN, OPEN, OKAY, WRTE, CLSE; shell protocol v2; the file sync of push and pull. Its paths are
this machine's, and edgepack's folder on it is one of the test's (``edgepack.devices.adb.ROOT``), because qemu makes new files
where the host has them. Its libraries are the emulated Raspberry Pi's, so runtimes are those of aarch64 Linux wheels. ``sh`` and small
tools are this machine's, with those of tests/fakes/phone in front. It says of itself that it is emulated.

Unlike a shell's parent on this machine, adbd leaves a program alone when the connection goes: that finds the end of its input.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgepack.devices import adb as adb_module
from edgepack.devices.native import NativeError, compile_runner
from edgepack.devices.userland import Board

_CNXN, _OPEN, _OKAY, _WRTE, _CLSE = (int.from_bytes(word, "little") for word in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))
# Without checksums of payloads from this version on.
_VERSION = 0x01000001
_MOST = 256 * 1024
# Ids of the packets of shell protocol v2.
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_TOOLS = Path(__file__).parent / "phone"
# The names under which edgepack keeps programs on a phone; this machine cannot run them itself.
_PROGRAM = re.compile(r"(?P<path>\S*/[0-9a-f]{16}-edgepack-runner)(?= (?:answer|hold|clocks)\b)")


class _Stream:
    """One open service. Each write waits for the other side's OKAY, as adb demands."""

    def __init__(self, connection: _Connection, local: int, remote: int) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self.inbox: queue.Queue[bytes | None] = queue.Queue()
        self.acknowledged = threading.Semaphore(0)
        self.closed = False
        self._pending = b""
        self._writing = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._writing:
            for start in range(0, len(data), self.connection.most):
                if self.closed:
                    raise BrokenPipeError
                self.connection.send(_WRTE, self.local, self.remote, data[start : start + self.connection.most])
                self.acknowledged.acquire()

    def read(self, count: int) -> bytes:
        while len(self._pending) < count:
            chunk = self.inbox.get()
            if chunk is None:
                self.inbox.put(None)
                raise EOFError
            self._pending += chunk
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    def end(self) -> None:
        """The other side is gone."""
        self.closed = True
        self.inbox.put(None)
        self.acknowledged.release(100)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):
                self.connection.send(_CLSE, self.local, self.remote)
            self.connection.streams.pop(self.local, None)


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def setup(self) -> None:
        self.sending, self.streams, self.opened, self.most, self.plain = threading.Lock(), dict[int, _Stream](), 0, 4096, False
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connections.append(self.request)

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        self.server.phone.in_reach.wait()
        checksum = 0 if self.plain else sum(data) & 0xFFFFFFFF
        with self.sending:
            self.request.sendall(struct.pack("<6I", command, first, second, len(data), checksum, command ^ 0xFFFFFFFF) + data)

    def _receive(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            chunk = self.request.recv(count - len(taken))
            if not chunk:
                raise EOFError
            self.server.phone.in_reach.wait()
            taken += chunk
        return taken

    def handle(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                command, first, second, length, _, _ = struct.unpack("<6I", self._receive(24))
                self._take(command, first, second, self._receive(length))
        for stream in list(self.streams.values()):
            stream.end()

    def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == _CNXN:
            self.most, self.plain = min(second, _MOST), first >= _VERSION
            self.send(_CNXN, min(first, _VERSION), _MOST, self.server.phone.banner())
        elif command == _OPEN:
            self.opened += 1
            stream = self.streams[self.opened] = _Stream(self, self.opened, first)
            threading.Thread(target=self._serve, args=(stream, data.rstrip(b"\0").decode()), daemon=True).start()
        elif stream := self.streams.get(second):
            self._tell(stream, command, data)

    def _tell(self, stream: _Stream, command: int, data: bytes) -> None:
        if command == _WRTE:
            stream.inbox.put(data)
            self.send(_OKAY, stream.local, stream.remote)
        elif command == _OKAY:
            stream.acknowledged.release()
        elif command == _CLSE:
            self.streams.pop(stream.local, None)
            stream.end()

    def _serve(self, stream: _Stream, name: str) -> None:
        kind, _, rest = name.partition(":")
        kinds = kind.split(",")
        services: dict[str, Callable[[], None]] = {"shell": lambda: self._shell(stream, rest), "sync": lambda: self._sync(stream)}
        try:
            if kinds[0] not in services:
                stream.closed = True
                self.send(_CLSE, 0, stream.remote)
                return
            self.send(_OKAY, stream.local, stream.remote)
            services[kinds[0]]()
        except (EOFError, OSError):
            pass
        finally:
            stream.close()

    def _shell(self, stream: _Stream, command: str) -> None:
        phone = self.server.phone
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            ["/bin/sh", "-c", phone.translated(command)],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=phone.root,
            env=phone.environment(),
            start_new_session=True,
        )
        phone.started.append(process)
        threading.Thread(target=_feed, args=(stream, process), daemon=True).start()
        pumps = [threading.Thread(target=_pump, args=(stream, pair)) for pair in ((process.stdout, _STDOUT), (process.stderr, _STDERR))]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        code = process.wait()
        stream.write(struct.pack("<BIB", _EXIT, 1, code if code >= 0 else 128 - code))

    def _sync(self, stream: _Stream) -> None:
        while True:
            request, length = struct.unpack("<4sI", stream.read(8))
            if request == b"QUIT":
                return
            path = stream.read(length).decode()
            {b"STAT": self._stat, b"SEND": self._send_file, b"RECV": self._receive_file}[request](stream, path)

    def _stat(self, stream: _Stream, path: str) -> None:
        try:
            found = Path(path).stat()
            stream.write(struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)))
        except OSError:
            stream.write(struct.pack("<4s3I", b"STAT", 0, 0, 0))

    def _send_file(self, stream: _Stream, described: str) -> None:
        path, _, mode = described.rpartition(",")
        content, trouble = b"", ""
        while True:
            part, length = struct.unpack("<4sI", stream.read(8))
            if part == b"DONE":
                break
            content += stream.read(length)
        if len(content) > self.server.phone.room:
            trouble = "No space left on device"
        else:
            trouble = self.server.phone.take(path, content, int(mode) & 0o777)
        words = trouble.encode()
        stream.write(struct.pack("<4sI", b"FAIL", len(words)) + words if trouble else struct.pack("<4sI", b"OKAY", 0))

    def _receive_file(self, stream: _Stream, path: str) -> None:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            words = (error.strerror or "").encode()
            stream.write(struct.pack("<4sI", b"FAIL", len(words)) + words)
            return
        for start in range(0, len(content), 65536):
            part = content[start : start + 65536]
            stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
        stream.write(struct.pack("<4sI", b"DONE", 0))


def _feed(stream: _Stream, process: subprocess.Popen[bytes]) -> None:
    """Standard input, until the other side closes it or is gone."""
    assert process.stdin is not None
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, length = struct.unpack("<BI", stream.read(5))
            data = stream.read(length)
            if kind == _CLOSE_STDIN:
                break
            if kind == _STDIN:
                process.stdin.write(data)
                process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()


def _pump(stream: _Stream, source: tuple[Any, int]) -> None:
    file, kind = source
    while chunk := os.read(file.fileno(), 32768):
        with contextlib.suppress(OSError):
            stream.write(struct.pack("<BI", kind, len(chunk)) + chunk)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True

    def __init__(self, phone: FakePhone) -> None:
        self.phone, self.connections = phone, list[socket.socket]()
        super().__init__(("127.0.0.1", phone.port), _Connection)


@dataclass
class FakePhone:
    """The phone.

    Attributes:
        root: its storage. board: its Linux. features: what adb is told it can do. room: bytes that a file may have.
        damaged: files sent from now on arrive with their first byte changed, so many times.
    """

    root: Path
    board: Board
    features: str = "shell_v2"
    room: int = 2**30
    damaged: int = 0
    port: int = 0
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    in_reach: threading.Event = field(default_factory=threading.Event)
    _server: _Server | None = None

    @property
    def serial(self) -> str:
        """As adb lists it."""
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """As edgepack takes it."""
        return f"adb://{self.serial}"

    @property
    def folder(self) -> Path:
        """Where edgepack keeps its things on it."""
        return self.root / "edgepack"

    def banner(self) -> bytes:
        return f"device::ro.product.name=fake;ro.product.model=Fake_Phone;ro.product.device=fake;features={self.features}".encode()

    def translated(self, command: str) -> str:
        """A line of the phone's shell for this machine's: its programs run under qemu."""
        emulator = [str(self.board.userland.qemu), "-cpu", self.board.profile.cpu, "-L", str(self.board.root)]
        return _PROGRAM.sub(lambda match: f"{' '.join(emulator)} {match['path']}", command)

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{_TOOLS}:/usr/bin:/bin", "HOME": str(self.root), "FAKE_PHONE": str(self.root)}

    def take(self, path: str, content: bytes, mode: int) -> str:
        """Write a file that is pushed; words when it cannot be."""
        if self.damaged and content:
            self.damaged -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        target = Path(path)
        try:
            target.write_bytes(content)
            target.chmod(mode)
        except OSError as error:
            return f"couldn't create file: {error.strerror}"
        return ""

    def start(self) -> None:
        """Be there: adb can connect."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.in_reach.set()
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def pull_cable(self) -> None:
        """Go at once. What runs on the phone goes on, and finds the end of its input."""
        assert self._server is not None
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def leave_network(self) -> None:
        """Fall silent without a word, as a phone does that leaves its wireless network, until ``stop``."""
        self.in_reach.clear()

    @property
    def is_there(self) -> bool:
        """Whether its cable is plugged in."""
        return self._server is not None

    def running(self) -> list[subprocess.Popen[bytes]]:
        """What runs on it now."""
        return [process for process in self.started if process.poll() is None]

    def folders(self) -> list[str]:
        """Run folders that are there now."""
        return sorted(path.name for path in self.folder.glob("run-*"))

    def stop(self) -> None:
        self.in_reach.set()
        if self._server is not None:
            self.pull_cable()
        for process in self.running():
            process.kill()
            process.wait()


def adb(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What adb says."""
    merged = {**os.environ, **(environment or {})}
    done = subprocess.run(
        ["adb", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False, env=merged
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An adb server of the tests' own, on a port of its own: the environment that reaches it."""
    if shutil.which("adb") is None:
        pytest.skip("no adb here (Debian package adb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"ANDROID_ADB_SERVER_PORT": str(port)}
    # The server alone reads and writes keys, in the home.
    started = {**environment, "HOME": str(tmp_path_factory.mktemp("adb-home")), "ADB_MDNS": "0"}
    said = adb("start-server", environment=started)
    if "successfully" not in said:
        pytest.skip(f"adb's server does not start: {said}")
    yield environment
    adb("kill-server", environment=environment)


@pytest.fixture(scope="session")
def native_runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C runner for aarch64 Linux."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("no C compiler for aarch64 here (Debian package gcc-aarch64-linux-gnu)")
    target = tmp_path_factory.mktemp("runner") / "edgepack-runner"
    try:
        compile_runner([compiler], target)
    except NativeError as error:
        pytest.fail(str(error))
    return target


@pytest.fixture
def adb_phone(
    adb_server: dict[str, str], native_runner: Path, pi5_board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakePhone]:
    """A phone that adb is connected to, with the runner for it."""
    for name, value in {**adb_server, "EDGEPACK_RUNNER": str(native_runner)}.items():
        monkeypatch.setenv(name, value)
    phone = FakePhone(tmp_path / "phone", pi5_board)
    monkeypatch.setattr(adb_module, "ROOT", str(phone.folder))
    phone.start()
    said = adb("connect", phone.serial)
    assert "connected" in said, said
    yield phone
    adb("disconnect", phone.serial)
    phone.stop()
