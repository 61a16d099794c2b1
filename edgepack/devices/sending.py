"""Files that arrive whole: a copy is compared with its original by sha256, on the device, whatever carried it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgepack.devices.ask import ask
from edgepack.devices.transport import Transport, TransportError

# Seconds for hashing on the device: a Pi reads 500 MB from its card in less.
_HASHING = 300.0


class DamagedError(TransportError):
    """A copy that is not its original, twice."""


class Files(msgspec.Struct, frozen=True):
    """Answer of the program "files": bytes (-1: no such file) and sha256 ("": not asked, or no file) by path; bytes left beside them."""

    sizes: list[int]
    digests: list[str]
    free: int


def digests_there(transport: Transport, paths: Sequence[str], make: str = "") -> list[str]:
    """The sha256 of files on a device, "" where there is none. ``make`` is a folder to create there first."""
    return ask(transport, "files", {"paths": list(paths), "digest": True, "make": make}, Files, _HASHING).digests if paths else []


def digest(path: Path) -> str:
    """The sha256 of a file here."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified_send(transport: Transport, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> bool:
    """Copy a file to a device unless it is there already, and check what arrived. Whether anything was sent.

    An earlier copy that broke off is gone on with; where that was of another file the digest tells, and it is sent again whole.

    Raises:
        DamagedError: the second copy is no better.
        TransportError: the connection failed.
    """
    wanted = digest(local)
    if digests_there(transport, [remote]) == [wanted]:
        return False
    for _ in range(2):
        transport.send(local, remote, progress)
        if digests_there(transport, [remote]) == [wanted]:
            return True
        ask(transport, "files", {"paths": [remote], "remove": [remote]}, Files)
    raise DamagedError(
        f"{local.name} arrives damaged on {transport.address}, twice", "check the device's card or disk: it does not keep what is written"
    )
