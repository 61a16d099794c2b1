"""Digests and sizes of files and folders, as pack.json records them."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
