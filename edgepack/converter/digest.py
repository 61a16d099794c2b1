"""Digests of what lies on disk: of a file its bytes, of a folder the sorted names, sizes and bytes in it. Times and places do not count."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import msgspec

# Bytes read at a time.
_CHUNK = 2**20


class Held(msgspec.Struct, frozen=True):
    """What lies at a path: bytes (of a folder: of all its files) and sha256."""

    bytes: int
    sha256: str


def held_at(path: Path) -> Held:
    """The digest of a file, or of a folder and everything in it.

    Raises:
        OSError: it is not there, cannot be read, or is neither file nor folder.
    """
    if path.is_dir():
        return _folder(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is neither file nor folder", str(path))
    return _file(path)


def digest_of(*words: str) -> str:
    """sha256 of strings, each told apart from the next."""
    digest = hashlib.sha256()
    for word in words:
        content = word.encode("utf-8", "surrogateescape")
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def _file(path: Path) -> Held:
    with path.open("rb") as file:
        return Held(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _folder(path: Path) -> Held:
    digest, size = hashlib.sha256(), 0
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        with file.open("rb") as opened:
            length = os.fstat(opened.fileno()).st_size
            digest.update(f"{file.relative_to(path).as_posix()}\0{length}\0".encode())
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
        size += length
    return Held(size, digest.hexdigest())
