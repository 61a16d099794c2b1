"""What every way to a device offers: start Python there, send files, fetch files. Who implements it: local, emulated, ssh."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from edgepack.devices.address import Address
from edgepack.errors import DeviceError, is_out_of_space

# Where run folders live on a device that is a user's own.
RUNS = "~/.cache/edgepack/runs"


class TransportError(DeviceError):
    """A device that cannot be reached, or a connection that broke."""


class OurDiskError(DeviceError):
    """This machine's own disk, which keeps files on their way to a device."""


@contextmanager
def on_our_disk(what: str) -> Iterator[None]:
    """Around what is written on this machine and named ``what``: OSError becomes OurDiskError."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        hint = "free some space here" if is_out_of_space(str(error)) else "see that it can be written; $TMPDIR names another place for some"
        raise OurDiskError(f"{what} cannot be written on this machine:{where} ({error.strerror or error})", hint) from error


class Transport(Protocol):
    """An open way to one device.

    Paths on the device are POSIX text, absolute as the device's own Python sees them. Every method raises TransportError when the
    connection fails, in one line with what to do.
    """

    @property
    def address(self) -> Address:
        """As the user named it."""

    @property
    def emulated(self) -> bool:
        """Whether results count and times do not."""

    @property
    def runs(self) -> str:
        """The folder of the device that run folders are made in, made when it is not there; ``~`` is the home there."""

    @property
    def site(self) -> Sequence[str]:
        """Folders of the device that Python must find packages in, before its own; may be empty."""

    def python(self, code: str) -> subprocess.Popen[bytes]:
        """Start ``python3 -c code`` on the device, in a folder of the user's, with three pipes. ``code`` may hold any character."""

    def send(self, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Copy one file, or go on where an earlier copy broke off. The folder it goes to exists; what arrived is checked by the caller."""

    def fetch(self, remote: str, local: Path) -> None:
        """Copy one file here."""

    def explain(self, code: int, words: str) -> TransportError | None:
        """What the end of a process started by ``python`` says of the connection; None when it says nothing of it."""

    def close(self) -> None:
        """End the connection and everything this side started for it."""
