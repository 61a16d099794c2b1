"""Digests and sizes of files and folders, as pack.json records them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from edgepack.converter.digest import held_at
from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import FileRecord


def file_record(pack: Path, path: Path) -> FileRecord:
    """The record of a file or a folder (an .mlpackage) of the pack at ``pack``.

    Raises:
        PackError: it is, or holds, a link, a pipe or a device, which are not followed and not opened.
    """
    plain_files(path)
    held = held_at(path)
    return FileRecord(path.relative_to(pack).as_posix(), held.bytes, held.sha256)


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
