"""A real OpenSSH server that nobody installed: its binaries, and one server in namespaces of its own."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgepack.devices.debian import Apt, unpack
from tests.fakes.sshd import name_of

_SFTP_SERVER = "usr/lib/openssh/sftp-server"
# Seconds a server has until it greets.
_START = 15


class ServerError(Exception):
    """A server that does not start here; the text says why."""


@dataclass(frozen=True)
class Binaries:
    """sshd and sftp-server, with the folder of the libraries that this machine may lack."""

    root: Path

    @property
    def sshd(self) -> str:
        return str(self.root / "usr" / "sbin" / "sshd")

    @property
    def sftp_server(self) -> str:
        return str(self.root / _SFTP_SERVER)

    @property
    def environment(self) -> dict[str, str]:
        folders = [str(path) for path in (self.root / "lib", self.root / "usr" / "lib") for path in path.glob("*-linux-gnu")]
        return {"PATH": "/usr/bin:/bin", **({} if self.root == Path("/") else {"LD_LIBRARY_PATH": ":".join(folders)})}


def binaries(cache: Path) -> Binaries:
    """This machine's own, else Debian's unpacked in the cache.

    Raises:
        EmulationError: the packages cannot be had.
    """
    if Path("/usr/sbin/sshd").exists() and Path("/", _SFTP_SERVER).exists():
        return Binaries(Path("/"))
    cache.mkdir(parents=True, exist_ok=True)
    found = Binaries(cache / "openssh")
    with (cache / "openssh.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.root.is_dir():
            _download(found.root)
    return found


def _download(root: Path) -> None:
    beside = root.with_suffix(".part")
    shutil.rmtree(beside, ignore_errors=True)
    apt = Apt(beside / "apt")
    apt.update()
    for package in apt.download(["openssh-server", "openssh-sftp-server"]):
        # Programs and libraries only, and the C library is this machine's: two of them in one process do not go together.
        if package.name.startswith(("openssh-", "lib")) and not package.name.startswith(("libc6_", "libperl")):
            unpack(package, beside)
    shutil.rmtree(beside / "apt")
    beside.rename(root)


class Server:
    """An sshd on a loopback port, for one user "pi" whose home is ``home``.

    It runs as an unprivileged user of its own user namespace, so it needs neither root nor /run/sshd, with its own /etc/passwd, and as
    the first process of its own process namespace, so that everything started through it dies with it.

    Args:
        folder: where its keys, configuration and log go.
        forced: the command it runs whatever is asked for.
        subsystem: what the forced command is told when a client asks for sftp.

    Raises:
        ServerError: from ``start``: this machine forbids namespaces, or sshd does not come up.
    """

    def __init__(self, binaries: Binaries, folder: Path, home: Path, forced: list[str], subsystem: str) -> None:
        self._binaries = binaries
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        _keys(folder)
        (folder / "passwd").write_text(f"root:x:0:0::/:/bin/sh\npi:x:1000:1000::{home}:/bin/sh\n", encoding="utf-8")
        (folder / "sshd_config").write_text(_server_settings(folder, self.port, forced, subsystem), encoding="utf-8")
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {_public(folder, 'host_key')}\n", encoding="utf-8")
        self.config = folder / "ssh_config"
        self.config.write_text(_client_settings(folder), encoding="utf-8")

    @property
    def log(self) -> str:
        return (self._folder / "sshd.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        passwd, own = shlex.quote(str(self._folder / "passwd")), "--user --map-user=1000 --map-group=1000"
        sshd = shlex.join([self._binaries.sshd, "-D", "-e", "-f", str(self._folder / "sshd_config")])
        script = f"mount --bind {passwd} /etc/passwd && exec unshare {own} {sshd}"
        # Both options of killing: nothing is left when the test process itself is killed.
        apart = ["setpriv", "--pdeathsig", "KILL", "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]
        with (self._folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*apart, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._binaries.environment,
                start_new_session=True,
            )
        self._wait_for_greeting()

    def _wait_for_greeting(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _START
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        self.stop()
        raise ServerError(f"sshd does not start: {(self.log.splitlines() or ['it said nothing'])[-1]}")

    def stop(self) -> None:
        """End the server, its connections, and everything started through them. ``start`` brings it back on the same port."""
        if self._process is not None:
            # The first of a process namespace is gone only when all others are; unshare waits for it.
            for first in self.processes()[:1]:
                first.kill()
            self._process.wait()
            self._process = None

    def processes(self) -> list[psutil.Process]:
        """sshd and all below it: orphans too, since it is the first process of their namespace."""
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self._process.pid).children(recursive=True))
        return []

    def connections(self) -> list[psutil.Process]:
        """The processes of the connections, two for each: before and after it gave up its privileges."""
        return [process for process in self.processes() if name_of(process) == "sshd"][1:]


def words(process: psutil.Process) -> list[str]:
    """Its command line; none when it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _keys(folder: Path) -> None:
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edgepack-test", "-f", str(folder / name)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def _public(folder: Path, key: str) -> str:
    return (folder / f"{key}.pub").read_text(encoding="ascii").strip()


def _server_settings(folder: Path, port: int, forced: list[str], subsystem: str) -> str:
    return f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
LogLevel VERBOSE
Subsystem sftp {subsystem}
ForceCommand {shlex.join(forced)}
"""


def _client_settings(folder: Path) -> str:
    return f"""\
Host *
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
"""
