"""A real OpenSSH server on loopback, in front of this machine: own keys, a home that the test gives, a python3 that the test chooses.

It is Debian's sshd, installed or unpacked from its package into a cache folder without installing it. As root it runs in a mount
namespace of its own, in which /etc/passwd has the user that sshd separates its privileges with; nothing outside is changed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# No name of a host: a label has at most 63 letters (RFC 1035), so that the resolver refuses it without asking anybody.
NO_HOST = "x" * 64
_PACKAGES = ("openssh-server", "openssh-sftp-server", "libwrap0")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack-tests" / "sshd"
_NAMESPACE = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
mount --bind {passwd} /etc/passwd
exec "$@"
"""


class UnavailableError(Exception):
    """There is no server to be had here, and why."""


@dataclass(frozen=True)
class Server:
    """A server that runs, and a client's configuration for it under the host name ``device``.

    Attributes:
        home: the folder that a session takes for its home.
        bin: the folder that a session finds its programs in; ``python3`` is one.
    """

    root: Path
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def config(self) -> Path:
        return self.root / "ssh_config"

    def configure(self, **changes: str) -> None:
        """Write the client's configuration, with some settings other than those that work."""
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.root / "client"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.root / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "ask",
        }
        lines = [f"  {name} {value}" for name, value in {**settings, **changes}.items()]
        self.config.write_text("\n".join(["Host device", *lines]) + "\n")

    def know(self, key: str = "host") -> None:
        """Make one of the keys the one that the client knows the server by; "" forgets it."""
        public = (self.root / f"{key}.pub").read_text() if key else ""
        (self.root / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}" if key else "")

    def python(self, before: str = "") -> None:
        """Give sessions a python3 that runs ``before`` first, for a device that is other than this machine."""
        (self.root / "site").mkdir(exist_ok=True)
        (self.root / "site" / "sitecustomize.py").write_text(before)
        base = getattr(sys, "_base_executable", sys.executable)
        self.program("python3", f'PYTHONPATH={shlex.quote(str(self.root / "site"))} exec {shlex.quote(base)} -s "$@"')

    def program(self, name: str, script: str) -> None:
        """Put a program into the folder that sessions look in."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def apart(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the server sees its files: as root that is a mount namespace of its own."""
        inside = ["nsenter", "--mount", "--target", str(self.process.pid)] if os.geteuid() == 0 else []
        return subprocess.run([*inside, *command], capture_output=True, text=True, check=False)

    def sessions(self) -> list[psutil.Process]:
        """The server's processes of open connections."""
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if "sshd" in name_of(child)]

    def logins(self) -> int:
        """How many connections it has let in."""
        return (self.root / "sshd.log").read_text().count("Accepted publickey")

    def freeze(self) -> None:
        """Every open connection falls silent without breaking, as when a wireless network is lost; ``cut`` ends them."""
        for each in self.sessions():
            each.suspend()

    def cut(self) -> int:
        """Break every open connection, as a lost network does; how many processes that took."""
        found = self.sessions()
        for each in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        return len(found)


def name_of(process: psutil.Process) -> str:
    """Its name; "" when it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    """A server with its files in the empty folder ``root``.

    Raises:
        UnavailableError: none can be had here.
    """
    sshd, sftp, libraries = _binaries()
    for name in ("host", "other", "client", "stranger"):
        _keygen(root / name)
    for name in ("home", "bin"):
        (root / name).mkdir()
    port = _free_port()
    _write_server_files(root, port, sftp)
    command = [*_bound(), *_apart(root), str(sshd), "-D", "-e", "-f", str(root / "sshd_config")]
    with (root / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "LD_LIBRARY_PATH": libraries}, start_new_session=True
        )
    server = Server(root, port, process)
    try:
        _wait_for(server)
        server.configure()
        server.know()
        server.python()
        yield server
    finally:
        server.cut()
        process.terminate()
        process.wait()


def _write_server_files(root: Path, port: int, sftp: Path) -> None:
    shutil.copy(root / "client.pub", root / "authorized_keys")
    home, bin_ = shlex.quote(str(root / "home")), shlex.quote(str(root / "bin"))
    session = root / "session"
    session.write_text(
        "#!/bin/sh\n"
        f"export HOME={home} PATH={bin_} EDGEPACK_LOCK={home}/measuring.lock\n"
        "unset PYTHONPATH XDG_CACHE_HOME LD_LIBRARY_PATH\n"
        'cd "$HOME" && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    session.chmod(0o755)
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nPidFile none\nAuthorizedKeysFile {root}/authorized_keys\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPrintMotd no\nPermitRootLogin yes\n"
        f"Subsystem sftp {sftp}\nForceCommand {session}\n"
    )


def _binaries() -> tuple[Path, Path, str]:
    """sshd, sftp-server, and the folder of libraries that an unpacked sshd needs."""
    installed, sftp = Path("/usr/sbin/sshd"), Path("/usr/lib/openssh/sftp-server")
    if installed.is_file() and sftp.is_file():
        return installed, sftp, ""
    if not (_CACHE / "usr" / "sbin" / "sshd").is_file():
        _unpack_packages()
    libraries = next(iter((_CACHE / "usr" / "lib").glob("*-linux-gnu")), _CACHE)
    return _CACHE / "usr/sbin/sshd", _CACHE / "usr/lib/openssh/sftp-server", str(libraries)


def _unpack_packages() -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise UnavailableError("there is no sshd here, and no apt to fetch one with")
    new = _CACHE.with_name(f"new-{os.getpid()}")
    new.mkdir(parents=True)
    try:
        done = subprocess.run(["apt-get", "download", "-qq", *_PACKAGES], cwd=new, capture_output=True, text=True, check=False, timeout=120)
        packages = list(new.glob("*.deb"))
        if len(packages) < len(_PACKAGES):
            raise UnavailableError(f"there is no sshd here, and apt-get download fails: {done.stderr.strip()[-200:]}")
        for package in packages:
            subprocess.run(["dpkg", "-x", package, new / "root"], check=True)
        shutil.rmtree(_CACHE, ignore_errors=True)
        (new / "root").rename(_CACHE)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _bound() -> list[str]:
    """What ends a server together with the tests, should these be killed."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _apart(root: Path) -> list[str]:
    """What stands before the command: as root a mount namespace with the account that sshd asks for, otherwise nothing."""
    if os.geteuid() != 0:
        return []
    lines = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in lines if not line.startswith("sshd:")]
    (root / "passwd").write_text("\n".join([*others, "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin"]) + "\n")
    script = _NAMESPACE.format(passwd=shlex.quote(str(root / "passwd")))
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        raise UnavailableError("root may make no mount namespace here, and sshd needs an account of its own")
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path], check=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(server: Server) -> None:
    for _ in range(200):
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        time.sleep(0.05)
    raise UnavailableError(f"sshd does not start: {(server.root / 'sshd.log').read_text()[-300:]}")


def environment(server: Server) -> Mapping[str, str]:
    """What makes edgepack's ssh find the server as ``ssh://device``."""
    return {"EDGEPACK_SSH_CONFIG": str(server.config)}
