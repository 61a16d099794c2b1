"""Digests and sizes of files and folders, as pack.json records them."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import FileRecord

# Read at a time: large enough that hashing is the cost.
_CHUNK = 2**20


def file_record(pack: Path, path: Path) -> FileRecord:
    """The record of a file or a folder (an .mlpackage) of the pack at ``pack``.

    Raises:
        PackError: it is, or holds, a link, a pipe or a device, which are not followed and not opened.
    """
    digest, size = hashlib.sha256(), 0
    for file in plain_files(path):
        length = file.stat().st_size
        size += length
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{length}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return FileRecord(path.relative_to(pack).as_posix(), size, digest.hexdigest())


def plain_files(path: Path) -> list[Path]:
    """The file itself, or every file of a folder, sorted; PackError when one is a link, a pipe or a device."""
    return sorted(_files(path))


def _files(path: Path) -> Iterator[Path]:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for inner in path.iterdir():
            yield from _files(inner)
    elif stat.S_ISREG(mode):
        yield path
    else:
        raise PackError(f"'{path.name}' of the pack is a link, a pipe or a device", "copy the files themselves into the pack")


def intact(pack: Path, record: FileRecord) -> Path:
    """Where a recorded file lies; PackError when it is not there, or is not the one that was recorded."""
    path = inside(pack, record.path)
    try:
        size = sum(file.lstat().st_size for file in plain_files(path))
        if size != record.bytes:
            cause = f"{record.path} is not the file that was verified: it has {size} bytes, not {record.bytes}"
            raise PackError(cause, "build the pack again, or copy it whole")
        found = file_record(pack.resolve(), path)
    except (OSError, RecursionError) as error:
        raise PackError(f"{record.path} of the pack cannot be read ({error})", "copy the pack whole") from error
    if found.sha256 != record.sha256:
        raise PackError(f"{record.path} is not the file that was verified: its digest differs", "build the pack again, or copy it whole")
    return path
