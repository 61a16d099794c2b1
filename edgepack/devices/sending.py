"""Files that arrive whole: a copy is compared with its original by sha256, on the device, whatever carried it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgepack.devices.ask import AnswerError, ask
from edgepack.devices.transport import Transport, TransportError

# Seconds for hashing on the device: a Pi reads 500 MB from its card in less.
_HASHING = 300.0


class DamagedError(TransportError):
    """A copy that is not its original, twice."""


class Files(msgspec.Struct, frozen=True):
    """Answer of the program "files": bytes (-1: no such file) and sha256 ("": not asked, or no file) by path; bytes left beside them."""

    sizes: list[Annotated[int, Meta(ge=-1, le=2**63 - 1)]]
    digests: list[str]
    free: Annotated[int, Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True)
class Sent:
    """A file here, and the path its copy has on a device."""

    local: Path
    remote: str


def digest(path: Path) -> str:
    """The sha256 of a file here."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The sha256 of files on a device, "" for one that is not there.
Digests = Callable[[Sequence[str]], list[str]]


def missing(transport: Transport, files: Sequence[Sent], make: str = "", digests: Digests | None = None) -> list[Sent]:
    """Those of the files whose copy is not on the device, or is another. ``make`` is a folder to create there first."""
    if not files:
        return []
    held = (digests or partial(_asked, transport, make))([file.remote for file in files])
    if len(held) != len(files):
        raise AnswerError(f"{transport.address} names {len(held)} of {len(files)} files", "see what its login shell prints or starts")
    return [file for file, there in zip(files, held, strict=True) if there != digest(file.local)]


def _asked(transport: Transport, make: str, remotes: Sequence[str]) -> list[str]:
    return ask(transport, "files", {"paths": list(remotes), "digest": True, "make": make}, Files, _HASHING).digests


def verified_send(
    transport: Transport,
    files: Sequence[Sent],
    progress: Callable[[int, int], None] = lambda *_: None,
    digests: Digests | None = None,
) -> list[Sent]:
    """Copy files to a device unless they are there already, and check what arrived. Those that were sent.

    An earlier copy that broke off is gone on with; where that was of another file the digest tells, and it is sent again whole. The
    device is asked about all files at once: its Python may take seconds to start.

    Args:
        progress: told (bytes that are across, bytes to send).
        digests: who says what is there, where somebody listens on the device; else its Python is started to say it.

    Raises:
        DamagedError: the second copy is no better.
        TransportError: the connection failed.
    """
    absent = missing(transport, files, digests=digests)
    _send(transport, absent, progress)
    damaged = missing(transport, absent, digests=digests)
    if damaged:
        remotes = [file.remote for file in damaged]
        ask(transport, "files", {"paths": remotes, "remove": remotes}, Files)
        _send(transport, damaged, progress)
        damaged = missing(transport, damaged, digests=digests)
    if damaged:
        raise DamagedError(
            f"{damaged[0].local.name} arrives damaged on {transport.address}, twice",
            "check the device's card or disk: it does not keep what is written",
        )
    return absent


def _send(transport: Transport, files: Sequence[Sent], progress: Callable[[int, int], None]) -> None:
    sizes = [file.local.stat().st_size for file in files]

    def tell(before: int, done: int, _: int) -> None:
        progress(before + done, sum(sizes))

    for index, file in enumerate(files):
        transport.send(file.local, file.remote, partial(tell, sum(sizes[:index])))
