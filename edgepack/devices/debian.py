"""Debian packages of another architecture, downloaded and unpacked by this machine's own apt: no root, nothing installed.

apt gets package lists, a cache and an (empty) record of what is installed of its own; sources, keys and proxies stay the machine's.
"""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgepack.errors import DeviceError, is_out_of_space

# Seconds for one command: lists and packages come to 100 MB, twenty times what takes 7 s on a line of 100 Mbit/s.
_LIMIT = 300
# Characters of a command's last words that a failure quotes.
_QUOTE = 160
_OTHERWISE = "the emulated Pi is made of Debian 12's packages; elsewhere use a real Pi: ssh://user@host"


class EmulationError(DeviceError):
    """An emulated device that cannot be built here, or not be had."""


class Apt:
    """A private apt below ``folder``, which knows the packages of ``architectures`` beside this machine's own.

    Raises:
        EmulationError: from every method: apt is missing, the packages are not to be had, the disk is full.
    """

    def __init__(self, folder: Path, architectures: Sequence[str] = ()) -> None:
        self._archives = folder / "archives"
        for each in (folder / "lists" / "partial", self._archives / "partial"):
            each.mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        self._command = ["apt-get", "--quiet", *_options(folder, architectures)]

    def update(self) -> None:
        """Fetch the package lists. One source that is out of reach does not matter, unless it held what is wanted."""
        command(
            [*self._command, "update"], "reading the lists of Debian packages", "check the network; see 'apt-get update'", accept=(0, 100)
        )

    def download(self, names: Iterable[str]) -> list[Path]:
        """The .deb files of packages (``python3:arm64``) and of all that they depend on."""
        wanted = list(names)
        install = ["install", "--yes", "--download-only", "--no-install-recommends"]
        command([*self._command, *install, *wanted], f"downloading the Debian packages {', '.join(wanted)}", _OTHERWISE)
        return sorted(self._archives.glob("*.deb"))


def _options(folder: Path, architectures: Sequence[str]) -> list[str]:
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Acquire::Languages": "none",
        "Acquire::http::Timeout": "30",
        # The lock would be the system's; and root would hand downloads to a user who cannot write here.
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }
    pairs = [f"{name}={value}" for name, value in settings.items()] + [f"APT::Architectures::={each}" for each in architectures]
    return [word for pair in pairs for word in ("-o", pair)]


def unpack(package: Path, into: Path) -> None:
    """Every file of a package; folders that are links in ``into`` (``lib`` -> ``usr/lib``) stay links."""
    command(["dpkg-deb", "--extract", str(package), str(into)], f"unpacking {package.name}", _OTHERWISE)


def pick(package: Path, member: str, into: Path) -> None:
    """One file of a package, as the executable ``into``."""
    listing = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(listing, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            found = next((archive.extractfile(entry) for entry in archive if entry.name == f"./{member}"), None)
            if found is None:
                raise EmulationError(f"{package.name} holds no {member}", _OTHERWISE)
            into.write_bytes(found.read())
        process.kill()
    into.chmod(0o755)


def command(words: Sequence[str], doing: str, hint: str, environment: Mapping[str, str] | None = None, accept: Sequence[int] = (0,)) -> str:
    """Run a program to its end; what it printed.

    Args:
        doing: the action, as a failure names it.
        accept: exit codes that are no failure.

    Raises:
        EmulationError: it is missing, hung, or failed; its own last words are quoted.
    """
    try:
        ended = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_LIMIT, env=environment, check=False
        )
    except FileNotFoundError as error:
        raise EmulationError(f"{doing} needs {words[0]}, which this machine has not", _OTHERWISE) from error
    except subprocess.TimeoutExpired as error:
        raise EmulationError(f"{doing} took more than {_LIMIT} s", "check the network, then try again") from error
    if ended.returncode not in accept:
        raise _failure(doing, ended.stderr.strip() or ended.stdout.strip(), hint)
    return ended.stdout


def _failure(doing: str, words: str, hint: str) -> EmulationError:
    if is_out_of_space(words):
        return no_space(doing)
    last = (words.splitlines() or ["it said nothing"])[-1]
    return EmulationError(f"{doing} failed: {last[:_QUOTE]}", hint)


def no_space(doing: str) -> EmulationError:
    """The failure of a full disk."""
    return EmulationError(f"{doing} failed: the disk is full", "free 500 MB below ~/.cache, or name another disk in XDG_CACHE_HOME")
