"""The JavaScript runtimes: from npm into the user's cache once, pruned to the files the page loads, each held to its pinned digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgepack.data import data_folder
from edgepack.errors import DeviceError, InputError

_PINS = "runtimes.json"
_NPM_FILES = ("package.json", "package-lock.json")
# 43 MB over a slow line, and npm's own start.
_NPM_SECONDS = 900.0
# LiteRT.js imports its helper by a bare name, which browsers resolve only with an inline import map; the policy of the page forbids such.
_BARE, _LINKED = b'"@litertjs/wasm-utils"', b'"/runtimes/@litertjs/wasm-utils/dist/index.js"'


class RuntimesError(InputError):
    """Runtimes that cannot be installed, or are not those that are pinned."""


class Pin(msgspec.Struct, frozen=True):
    """What one file must be."""

    bytes: int
    sha256: str


class _Package(msgspec.Struct, frozen=True):
    dependencies: dict[str, str]


class Runtimes:
    """The installed files; ``read`` gives one that is what it must be."""

    def __init__(self, folder: Path, pins: Mapping[str, Pin]) -> None:
        self._folder, self._pins = folder, pins

    def read(self, name: str) -> bytes:
        """A file by its path in node_modules, as the page loads it.

        Raises:
            KeyError: the page needs no such file. RuntimesError: it is not the one that is pinned.
        """
        pin = self._pins[name]
        content = _held(self._folder / name)
        if len(content) != pin.bytes or hashlib.sha256(content).hexdigest() != pin.sha256:
            raise RuntimesError(f"{name} in the cache is not the file that is pinned", f"remove {self._folder} and serve again")
        return content.replace(_BARE, _LINKED) if name.startswith("@litertjs/core/dist/") else content


def installed() -> Runtimes:
    """The runtimes, installed with npm where they are not in the cache yet; afterwards no network is needed.

    Raises:
        RuntimesError: npm is missing, or what it brought is not what is pinned. DeviceError: it failed.
    """
    source = _source()
    pins = msgspec.json.decode((source / _PINS).read_bytes(), type=dict[str, Pin])
    folder = _cache() / _key(source)
    if not folder.is_dir():
        _install(source, folder, pins)
    return Runtimes(folder, pins)


def versions() -> dict[str, str]:
    """Of the runtimes, by runner, as package.json names them exactly."""
    wanted = msgspec.json.decode((_source() / "package.json").read_bytes(), type=_Package).dependencies
    return {"ort": wanted["onnxruntime-web"], "litert": wanted["@litertjs/core"]}


def _source() -> Path:
    return data_folder("demo_app") / "web"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack" / "web"


def _key(source: Path) -> str:
    """Other pins or another lock make another folder."""
    held = b"".join((source / name).read_bytes() for name in (*_NPM_FILES, _PINS))
    return hashlib.sha256(held).hexdigest()[:16]


def _install(source: Path, folder: Path, pins: Mapping[str, Pin]) -> None:
    """Into a scratch folder beside it, and in place by one rename."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimesError("npm is not installed; it brings the JavaScript runtimes of the page", "install Node.js 18 or newer, once")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".installing-") as scratch:
        for name in _NPM_FILES:
            shutil.copy(source / name, scratch)
        _npm_ci(npm, Path(scratch))
        kept = Path(scratch) / "kept"
        for name in pins:
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(scratch) / "node_modules" / name, kept / name)
            Runtimes(kept, pins).read(name)
        if not folder.is_dir():
            kept.rename(folder)


def _npm_ci(npm: str, folder: Path) -> None:
    """Exactly what the lock names, by its digests; no script of a package runs."""
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"]
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"npm did not end within {_NPM_SECONDS:g} s", "check the network, then try again") from error
    if ended.returncode:
        words = [line for line in ended.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise DeviceError(f"npm could not bring the runtimes ({words[0][:200]})", "check the network and npm's registry, then try again")


def _held(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RuntimesError(f"{path} cannot be read ({error.strerror})", f"remove {path.parent} and serve again") from error
