"""The folder an .mlpackage is, looked at before a library opens it: coremltools goes where the manifest and links lead."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from edgepack.mil.errors import MilError

_MANIFEST = "Manifest.json"
_LARGEST_MANIFEST = 2**20
# What protobuf can hold.
_LARGEST_MODEL = 2**31
# Files and folders of a package: a manifest, a model, a file of weights, and what an app may add.
_MOST_ENTRIES = 10_000


def refuse_unsafe_package(path: Path) -> None:
    """MilError for a package that holds links, pipes or devices, or whose manifest names a file outside its Data folder.

    A single file (.mlmodel) only has to be one.
    """
    try:
        _refuse_no_file(path, path)
        for count, entry in enumerate(path.rglob("*")):
            _refuse_no_file(entry, path)
            if count > _MOST_ENTRIES:
                raise MilError(f"{path} holds more than {_MOST_ENTRIES} files", "it is no package of a model")
    except (OSError, RecursionError) as error:
        raise MilError(f"{path} cannot be read as an ML Program package ({error})", "write it again") from error
    if not path.is_dir():
        return
    for name in _items(path / _MANIFEST):
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts or not (path / "Data" / name).exists():
            raise MilError(f"the manifest of {path} names {name[:80]!r}, which is not in its Data folder", "do not trust this package")


def _refuse_no_file(entry: Path, package: Path) -> None:
    mode = entry.lstat().st_mode
    # The package itself may be a link: its user made that one.
    kind = entry.stat().st_mode if entry == package else mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise MilError(f"'{entry.name}' of {package} is a link, a pipe or a device", "copy the files themselves into the package")
    if stat.S_ISREG(kind) and entry.suffix == ".mlmodel" and entry.stat().st_size > _LARGEST_MODEL:
        raise MilError(f"'{entry.name}' of {package} has more bytes than a Core ML model can", "write the package again")


def _items(manifest: Path) -> list[str]:
    """The paths of a package's items, relative to its Data folder."""
    try:
        if manifest.stat().st_size > _LARGEST_MANIFEST:
            raise ValueError("it is too large")
        held: Any = json.loads(manifest.read_bytes())
        entries = held["itemInfoEntries"]
        if held["rootModelIdentifier"] not in entries:
            raise ValueError("it names no root model")
        return [str(entry["path"]) for entry in entries.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MilError(f"the manifest of {manifest.parent} cannot be read ({error})", "write the package again") from error
