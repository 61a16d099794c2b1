"""Packs on disk: opened with every failure explained, and put in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgepack.errors import InputError
from edgepack.pack.manifest import SCHEMA, Pack

MANIFEST = "pack.json"


class PackError(InputError):
    """A folder that is not a pack, or a place where no pack can be written."""


def load_pack(folder: Path) -> Pack:
    """The manifest of the pack at ``folder``; PackError when it is none, is damaged or is of another schema."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("schema", msgspec.Raw(b"null"))
        if bytes(version) != str(SCHEMA).encode():
            raise PackError(f"{path} has schema {bytes(version).decode()}, this edgepack reads {SCHEMA}", "build the pack again")
        return msgspec.json.decode(content, type=Pack)
    except OSError as error:
        raise PackError(f"{folder} is not a pack ({MANIFEST}: {error.strerror})", "give the folder that edgepack build wrote") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PackError(f"{path} is damaged ({error})", "build the pack again") from error


def inside(folder: Path, name: str) -> Path:
    """A path that a manifest names; PackError when it leaves the pack or is not there."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PackError(f"{MANIFEST} names '{name}', outside the pack", "do not trust this pack")
    if not path.exists():
        raise PackError(f"the pack lacks {name}", "build the pack again, or copy it whole")
    return path


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A fresh folder that becomes ``folder`` when the block succeeds, and vanishes when it does not.

    Raises:
        PackError: the place is not writable, or holds something that is not a pack.
    """
    _refuse_unusable(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.resolve().parent))
    try:
        yield scratch
        scratch.chmod(0o777 & ~_umask())
        _swap(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_unusable(folder: Path) -> None:
    parent = folder.resolve().parent
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise PackError(f"{folder} exists and is not a pack", "choose another folder with -o")
    if not parent.is_dir():
        raise PackError(f"folder {parent} does not exist", "create it, or choose another place with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PackError(f"{parent} is not writable", "choose another place with -o")


def _swap(scratch: Path, folder: Path) -> None:
    """Two renames on one file system; the old pack is deleted only when the new one is in place."""
    old = scratch.with_name(scratch.name + ".old")
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
