"""The environment of tflite-runtime 2.14, the last one that was released under this name: wheels in a folder of the user's cache.

Its extension modules load with numpy 1 alone, so it lives apart from ours, and what runs in it is always a process of its own. Its newest
wheels are for Python 3.11, on Linux with glibc: a Python that is the one running here, or a python3.11 beside it, without its packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgepack.devices.there.facts import glibc
from edgepack.devices.there.unpack import unpack
from edgepack.devices.transport import on_our_disk
from edgepack.devices.wheels import MACHINES, DevicePython, DownloadError, wheels
from edgepack.devices.whole import made
from edgepack.errors import DeviceError

RUNNER = "tflite_runtime"
# numpy 1.26 is the last of numpy 1.
VERSIONS = {"tflite-runtime": "2.14.0", "numpy": "1.26.4"}
PYTHON = "3.11"
# sha256 of the wheels of both for CPython 3.11, x86_64 and aarch64, as PyPI has them.
DIGESTS = frozenset(
    {
        "195ab752e7e57329a68e54dd3dd5439fad888b9bff1be0f0dc042a3237a90e4d",
        "ce9fa5d770a9725c746dcbf6f59f3178233b3759f09982e8b2db8d2234c333b0",
        "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5",
        "7ab55401287bfec946ced39700c053796e7cc0e3acbef09993a9ad2adba6ca6e",
    }
)


class NoRuntimeError(DeviceError):
    """A machine on which tflite-runtime 2.14 cannot be had."""


@dataclass(frozen=True)
class Environment:
    """A Python and the folder of packages it gets."""

    python: str
    site: Path

    def command(self, *arguments: str) -> list[str]:
        """Run ``python arguments`` with these packages and no others (-S)."""
        return [self.python, "-S", *arguments]

    def variables(self) -> dict[str, str]:
        """What its process finds in its environment."""
        return {**os.environ, "PYTHONPATH": str(self.site)}


def environment(progress: Callable[[int, int], None] = lambda *_: None) -> Environment:
    """The environment on this machine, made on first need.

    Args:
        progress: told (wheels that are here, wheels) while it is made.

    Raises:
        NoRuntimeError: there is no such Python or no wheel for this machine. DownloadError: a wheel cannot be had.
    """
    return Environment(_python(), site(_here(), progress))


def is_made() -> bool:
    """Whether ``environment`` has nothing left to make; errors as there."""
    _python()
    return _place(_here()).is_dir()


def _here() -> DevicePython:
    return DevicePython(PYTHON, 64, platform.machine(), glibc())


def site(python: DevicePython, progress: Callable[[int, int], None] = lambda *_: None) -> Path:
    """The folder of packages for a Python, here or emulated here; errors as ``environment``."""
    folder = _place(python)
    with on_our_disk("the environment of tflite-runtime"):
        return made(folder, lambda new: unpack([str(path) for path in _wheels(python, progress)], new))


def _place(python: DevicePython) -> Path:
    """Named by what goes into it."""
    if python.minor != PYTHON or python.machine not in MACHINES or not python.glibc:
        what = f"Python {python.version}, {python.machine}, {f'glibc {python.glibc}' if python.glibc else 'no glibc'}"
        raise NoRuntimeError(
            f"tflite-runtime {VERSIONS['tflite-runtime']} has no wheel for {what}",
            f"run it under Python {PYTHON} on 64-bit Linux with glibc, or leave the targets out that need it",
        )
    pinned = hashlib.sha256(json.dumps(sorted(DIGESTS)).encode()).hexdigest()[:12]
    return cache_folder() / f"tflite-runtime-{python.tag}-{python.machine}-{pinned}"


def _wheels(python: DevicePython, progress: Callable[[int, int], None]) -> list[Path]:
    chosen = wheels(python, progress, VERSIONS)
    for wheel in chosen:
        if wheel.sha256 not in DIGESTS:
            raise DownloadError(f"{wheel.path.name} is not the file that is pinned", "see where pip takes it from: pip config list")
    return [wheel.path for wheel in chosen]


def _python() -> str:
    """This Python where it is such a one, else the python3.11 of the search path."""
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        return sys.executable
    found = shutil.which(f"python{PYTHON}")
    if found is None:
        raise NoRuntimeError(
            f"tflite-runtime {VERSIONS['tflite-runtime']} runs under Python {PYTHON} at most, this is {platform.python_version()}",
            f"install python{PYTHON} beside it, or leave the targets out that need it",
        )
    return found


def cache_folder() -> Path:
    """$EDGEPACK_RUNTIMES, or the user's cache folder."""
    given = os.environ.get("EDGEPACK_RUNTIMES")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return Path(given) if given else base / "edgepack" / "runtimes"
