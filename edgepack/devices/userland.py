"""An arm64 Debian with Python and the runtimes, in the user's cache, that qemu-user runs without root, chroot or binfmt_misc.

One userland serves every board: a board is a folder of links into it with /proc and /sys files of its own, which qemu (-L) puts before
the host's. qemu redirects only what exists in that folder; anything else is the host's. A new file under /home/pi would so be made on
the host: a board's home is therefore used under its real path, which is the same on both sides. The same cause forbids starting
programs in there: execve takes no heed of -L, and this machine cannot run what it would find.

Tested on Debian 12, x86-64. Memory pages have 4 KiB; those of a Pi 5's own kernel have 16.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgepack.devices import pi_files
from edgepack.devices.debian import Apt, EmulationError, command, no_space, pick, unpack
from edgepack.devices.pi_files import PROFILES, Profile
from edgepack.devices.there.unpack import unpack as unpack_wheels
from edgepack.devices.wheels import DevicePython, wanted, wheels
from edgepack.devices.whole import made
from edgepack.errors import is_out_of_space, one_line
from edgepack.runner.supervisor import LOCK, LOCK_VARIABLE

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]
# Part of the folder's name: raise it when what a build makes changes.
_FORMAT = 2
_QEMU = "qemu-aarch64-static"
_DEBIAN = ("python3:arm64", "libstdc++6:arm64", "base-files:arm64")
# Debian 12's.
_GLIBC = "2.36"
# Folders at the top that are links into usr, as Debian has them since 12; packages still name files by the old paths.
_MERGED = ("bin", "lib", "sbin")


@dataclass(frozen=True)
class Userland:
    """A finished build."""

    folder: Path

    @property
    def qemu(self) -> Path:
        """The emulator, a static program of this machine's."""
        return self.folder / _QEMU

    @property
    def root(self) -> Path:
        """The arm64 system."""
        return self.folder / "root"

    @property
    def site(self) -> Path:
        """Where Python finds the runtimes."""
        return self.folder / "site"

    def board(self, name: str) -> Board:
        """The board "pi4" or "pi5" that comes with the build."""
        return Board(self, PROFILES[name], self.folder / name)


@dataclass(frozen=True)
class Board:
    """One emulated Pi. ``root`` holds its own files and its home; a copy elsewhere (``make``) is another Pi of the same model."""

    userland: Userland
    profile: Profile
    root: Path

    @property
    def home(self) -> Path:
        """The user's home, here and as the Pi sees it."""
        return self.root / "home" / "pi"

    @property
    def python(self) -> Path:
        """The Pi's Python, here."""
        return self.root / "usr" / "bin" / "python3"

    def make(self) -> Board:
        """Write the board's folder: links that survive moving it together with the userland, files, an empty home."""
        self.home.mkdir(parents=True)
        for name in ("usr", "etc", *_MERGED):
            (self.root / name).symlink_to(os.path.relpath(self.userland.root / name, self.root))
        # No programs: whatever is started in there would be the host's.
        for name in ("tmp", "no-programs"):
            (self.root / name).mkdir()
        pi_files.write(self.profile, self.root)
        return self

    def command(self, *arguments: str) -> list[str]:
        """The command line here that runs ``python3`` with these arguments there."""
        options = ["-cpu", self.profile.cpu, "-r", self.profile.kernel, "-L", str(self.root)]
        return [str(self.userland.qemu), *options, str(self.python), *arguments]

    def environment(self) -> dict[str, str]:
        """Everything its programs find in their environment; nothing of the host's but who measures there: they share its processor.

        qemu finds no such lock below the board's root, and so takes the host's.
        """
        return {
            LOCK_VARIABLE: os.environ.get(LOCK_VARIABLE) or LOCK,
            "HOME": str(self.home),
            "USER": "pi",
            "LOGNAME": "pi",
            "LANG": "C.UTF-8",
            "PATH": str(self.root / "no-programs"),
            "TMPDIR": str(self.root / "tmp"),
            "ORT_DISABLE_TELEMETRY": "1",
        }


def default_cache() -> Path:
    """Where builds are kept, one for each set of versions."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack" / "emulated"


def build(cache: Path | None = None, progress: Progress = lambda *_: None) -> Userland:
    """The userland for the versions of this environment, from the cache or built now.

    A build appears whole or not at all; one that another process is making is waited for.

    Raises:
        EmulationError: it cannot be built here. DownloadError: a wheel cannot be had.
    """
    cache = (cache or default_cache()).absolute()
    userland = Userland(cache / _key())
    try:
        made(userland.folder, lambda folder: _fill(Userland(folder), progress))
    except OSError as error:
        if is_out_of_space(str(error)):
            raise no_space("building the emulated Pi") from error
        raise EmulationError(
            f"the emulated Pi cannot be built in {cache}: {one_line(error)}", "name a folder you can write to in XDG_CACHE_HOME"
        ) from error
    return userland


def _key() -> str:
    """Names a build by what goes into it."""
    return hashlib.sha256(json.dumps([_FORMAT, wanted()]).encode()).hexdigest()[:16]


def _fill(userland: Userland, progress: Progress) -> None:
    steps = {
        "downloading Debian packages": _debian,
        "downloading Python packages": _python_packages,
        "writing the boards": _boards,
        "trying it out": _try_out,
    }
    userland.folder.mkdir()
    for done, (doing, step) in enumerate(steps.items()):
        progress(doing, done, len(steps))
        step(userland)
    progress("done", len(steps), len(steps))


def _debian(userland: Userland) -> None:
    """The system and the emulator."""
    work = userland.folder / "apt"
    apt = Apt(work, ["arm64"])
    apt.update()
    packages = apt.download([*_DEBIAN, "qemu-user-static"])
    for name in _MERGED:
        (userland.root / "usr" / name).mkdir(parents=True)
        (userland.root / name).symlink_to(f"usr/{name}")
    for package in packages:
        if package.stem.endswith("_arm64"):
            unpack(package, userland.root)
        elif package.name.startswith("qemu-user-static_"):
            pick(package, f"usr/bin/{_QEMU}", userland.qemu)
    shutil.rmtree(work)
    _trim(userland.root)


def _trim(root: Path) -> None:
    for name in ("doc", "man", "locale", "zoneinfo", "perl", "lintian", "bug"):
        shutil.rmtree(root / "usr" / "share" / name, ignore_errors=True)
    # Empty rather than absent, or the dynamic loader would read the host's.
    for name in ("ld.so.cache", "ld.so.preload"):
        (root / "etc" / name).touch()


def _python_packages(userland: Userland) -> None:
    """The runtimes, chosen for the userland's own Python, not for the one that runs here."""
    minor = (userland.root / "usr" / "bin" / "python3").readlink().name.removeprefix("python")
    unpack_wheels([str(wheel.path) for wheel in wheels(DevicePython(minor, 64, "aarch64", _GLIBC))], userland.site)


def _boards(userland: Userland) -> None:
    for name in PROFILES:
        userland.board(name).make()


def _try_out(userland: Userland) -> None:
    """Import everything once, on the lesser processor; Python leaves compiled modules, which halve the start-up of every later run."""
    board = userland.board("pi4")
    code = f"import sys; sys.path.insert(0, {str(userland.site)!r}); import numpy, onnxruntime, ai_edge_litert.interpreter, PIL.Image"
    hint = "report it: the emulator does not run these versions"
    command(board.command("-c", code), "starting Python in the emulated Pi", hint, board.environment())
