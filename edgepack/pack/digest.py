"""Digests and sizes of files and folders, as pack.json records them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import FileRecord


def file_record(pack: Path, path: Path) -> FileRecord:
    """The record of a file or a folder (an .mlpackage) of the pack at ``pack``."""
    files = sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    digest, size = hashlib.sha256(), 0
    for file in files:
        content = file.read_bytes()
        size += len(content)
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return FileRecord(path.relative_to(pack).as_posix(), size, digest.hexdigest())


def intact(pack: Path, record: FileRecord) -> Path:
    """Where a recorded file lies; PackError when it is not there, or is not the one that was recorded."""
    path = inside(pack, record.path)
    if file_record(pack.resolve(), path).sha256 != record.sha256:
        raise PackError(f"{record.path} is not the file that was verified: its digest differs", "build the pack again, or copy it whole")
    return path
