"""Wheels for a device, chosen and downloaded here: it needs no pip and no internet, only a Python that they fit.

They have the versions of this environment, so that a device runs what its artifacts were verified with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from edgepack.devices.sending import digest
from edgepack.devices.transport import on_our_disk
from edgepack.errors import DeviceError

# What a device imports, by distribution: the runtimes, and what an application reads its photographs with.
RUNTIMES = {"onnxruntime": "onnxruntime", "ai-edge-litert": "ai_edge_litert.interpreter"}
MODULES = {**RUNTIMES, "numpy": "numpy", "pillow": "PIL"}
# Distribution -> what it needs there. A test compares this with what the distributions declare.
NEEDS = {
    "onnxruntime": ("flatbuffers", "numpy", "packaging", "protobuf"),
    "ai-edge-litert": ("backports.strenum", "flatbuffers", "numpy", "protobuf", "typing-extensions"),
    "numpy": (),
    "pillow": (),
    "flatbuffers": (),
    "packaging": (),
    "protobuf": (),
    "typing-extensions": (),
    "backports.strenum": (),
}
# Declared, and not sent: only LiteRT's benchmark and compilers for NPUs (tqdm) and its zero-copy tensor buffers (ml-dtypes) import them,
# which no runner uses.
UNUSED = {"ai-edge-litert": ("ml-dtypes", "tqdm")}

# Pythons that every distribution above has wheels for, on both machines.
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("aarch64", "x86_64")
# The oldest glibc that a wheel may ask for by number (PEP 600); older ones have names of their own, of which manylinux2014 is 2.17.
_OLDEST = 17
# Seconds for one download; onnxruntime is 27 MB.
_SECONDS = 600
_INDEX = "wheels.json"


class UnfitError(DeviceError):
    """A device whose Python no wheel fits."""


class DownloadError(DeviceError):
    """A wheel that cannot be had."""


class DevicePython(msgspec.Struct, frozen=True):
    """The Python of a device. ``version`` is "3.11.2", ``bits`` of a pointer, ``glibc`` "2.36" or "" for another C library."""

    version: str
    bits: int
    machine: str
    glibc: str

    @property
    def minor(self) -> str:
        """ "3.11"."""
        return ".".join(self.version.split(".")[:2])

    @property
    def tag(self) -> str:
        """ "cp311"."""
        return f"cp{self.minor.replace('.', '')}"


@dataclass(frozen=True)
class Wheel:
    """A wheel in the cache: whose it is, its bytes as they are and unpacked, its sha256."""

    distribution: str
    version: str
    path: Path
    size: int
    unpacked: int
    sha256: str


class _Held(msgspec.Struct, frozen=True):
    """What the cache's index says of one wheel."""

    file: str
    sha256: str


def refuse_unfit(where: str, python: DevicePython) -> None:
    """Raise UnfitError for a Python that no wheel fits, with the reason.

    The pointer decides, not the machine's name: a Raspberry Pi 4 with a 32-bit system calls itself aarch64.
    """
    if python.bits != 64:
        raise UnfitError(
            f"{where} has a {python.bits}-bit Python, and onnxruntime and LiteRT are made for 64-bit ones",
            "install a 64-bit system there (Raspberry Pi OS 64-bit)",
        )
    if python.machine not in MACHINES:
        raise UnfitError(f"{where} is a {python.machine}, and wheels are made for {' and '.join(MACHINES)}", "use another device")
    if not python.glibc:
        raise UnfitError(
            f"{where} has no glibc (musl?), and the runtimes are made for it", "use a system with glibc: Debian, Raspberry Pi OS"
        )
    if python.minor not in PYTHONS:
        age = "old" if _numbers(python.version) < _numbers(PYTHONS[0]) else "new"
        raise UnfitError(
            f"python3 on {where} is {python.version}, too {age}: the runtimes are made for {PYTHONS[0]} to {PYTHONS[-1]}",
            f"install Python {PYTHONS[0]} to {PYTHONS[-1]} there (Raspberry Pi OS 12 or 13 has it)",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """ "1.32.0" -> (1, 32, 0); what follows the numbers does not count."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def is_older(version: str, than: str) -> bool:
    """Whether a release comes before another."""
    return _numbers(version) < _numbers(than)


def wanted() -> dict[str, str]:
    """The version of every distribution a device gets: this environment's.

    Raises:
        DownloadError: it lacks one.
    """
    try:
        return {distribution: metadata.version(distribution) for distribution in NEEDS}
    except metadata.PackageNotFoundError as error:
        raise DownloadError(
            f"{error.name} is not installed here, so that no version of it is the one to send", f"pip install {error.name}"
        ) from error


def cache_folder() -> Path:
    """$EDGEPACK_WHEELS, or the user's cache folder."""
    given = os.environ.get("EDGEPACK_WHEELS")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return Path(given) if given else base / "edgepack" / "wheels"


def wheels(
    python: DevicePython, progress: Callable[[int, int], None] = lambda *_: None, versions: Mapping[str, str] | None = None
) -> list[Wheel]:
    """The wheels for a Python that ``refuse_unfit`` accepts, from the cache or downloaded into it.

    A wheel of the cache that is not what was downloaded is downloaded again.

    Args:
        progress: told (wheels that are here, wheels) as they come.
        versions: by distribution; None for what every device gets.

    Raises:
        DownloadError: one cannot be had; the message quotes pip. OurDiskError: the cache cannot be written.
    """
    asked = wanted() if versions is None else versions
    folder = cache_folder() / f"{python.tag}-{python.machine}-glibc{python.glibc}"
    with on_our_disk("the cache of wheels"):
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: wheel for name, version in asked.items() if (wheel := _cached(folder, name, version))}
        for names in _together([name for name in asked if name not in found]):
            progress(len(found), len(asked))
            found |= _download(folder, python, {name: asked[name] for name in names})
    progress(len(asked), len(asked))
    return [found[name] for name in asked]


def _together(absent: Collection[str]) -> Iterator[list[str]]:
    """What is downloaded at once: each large one alone, so that a broken download costs one of them; the small ones in one go."""
    yield from ([name] for name in absent if name in MODULES)
    small = [name for name in absent if name not in MODULES]
    if small:
        yield small


def _cached(folder: Path, distribution: str, version: str) -> Wheel | None:
    """A wheel that is there and whole."""
    held = _index(folder).get(f"{distribution}=={version}")
    path = folder / held.file if held else folder
    if held is None or not path.is_file() or digest(path) != held.sha256:
        return None
    return _wheel(distribution, version, path, held.sha256)


def _wheel(distribution: str, version: str, path: Path, sha256: str) -> Wheel:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(each.file_size for each in archive.infolist())
    return Wheel(distribution, version, path, path.stat().st_size, unpacked, sha256)


def _download(folder: Path, python: DevicePython, versions: Mapping[str, str]) -> dict[str, Wheel]:
    """Some wheels by pip, into the cache and its index; each is there whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder) as place:
        _pip(Path(place), python, versions)
        got = {name: _of(Path(place), name) for name in versions}
        kept = {name: path.replace(folder / path.name) for name, path in got.items()}
    held = {name: _Held(path.name, digest(path)) for name, path in kept.items()}
    index = {**_index(folder), **{f"{name}=={versions[name]}": each for name, each in held.items()}}
    _write(folder / _INDEX, msgspec.json.encode(index))
    return {name: _wheel(name, versions[name], kept[name], held[name].sha256) for name in versions}


def _of(place: Path, name: str) -> Path:
    """The wheel of a distribution; in file names "-" and "." are "_" (the binary distribution format)."""
    (found,) = (path for path in place.glob("*.whl") if _normal(path.name.partition("-")[0]) == _normal(name))
    return found


def _normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub("[-_.]+", "-", name).lower()


def _pip(place: Path, python: DevicePython, versions: Mapping[str, str]) -> None:
    requirements = [f"{name}=={version}" for name, version in versions.items()]
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
        *("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python.minor),
        *(part for platform in platforms(python) for part in ("--platform", platform)),
        *("--dest", str(place), *requirements),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"downloading {requirements[0]} takes more than {_SECONDS} s", "try again on a faster network") from error
    if done.returncode:
        raise _explained(python, requirements, done.stderr)


def platforms(python: DevicePython) -> Iterator[str]:
    """pip's names of the platforms a Python can load from, the newest first: every glibc since 2.17 up to its own (PEP 600)."""
    newest = _numbers(python.glibc)[1]
    for minor in range(newest, _OLDEST - 1, -1):
        yield f"manylinux_2_{minor}_{python.machine}"
    yield f"manylinux2014_{python.machine}"


def _explained(python: DevicePython, requirements: Sequence[str], words: str) -> DownloadError:
    named = ", ".join(requirements)
    if "No module named pip" in words:
        return DownloadError(f"{named} cannot be downloaded: this environment has no pip", f"{sys.executable} -m ensurepip")
    unmatched = re.search(r"No matching distribution found for (\S+)", words)
    if unmatched:
        about = f"Python {python.minor}, {python.machine}, glibc {python.glibc}"
        return DownloadError(
            f"no wheel of {unmatched[1]} for {about} can be found",
            f"check the network here, and that pip download {unmatched[1]} works; an older system there needs updating",
        )
    lines = [line for line in words.strip().splitlines() if not line.startswith("WARNING")]
    last = (lines or ["it said nothing"])[-1][:200]
    return DownloadError(f"pip cannot download {named}: {last}", "mend what it names and run the same again: what is downloaded is kept")


def _index(folder: Path) -> dict[str, _Held]:
    """What the cache holds; a damaged index holds nothing."""
    try:
        return msgspec.json.decode((folder / _INDEX).read_bytes(), type=dict[str, _Held])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()


def set_digest(chosen: list[Wheel]) -> str:
    """Twelve hexadecimal digits that name a set of wheels by what they hold."""
    named = sorted((wheel.distribution, wheel.sha256) for wheel in chosen)
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:12]
