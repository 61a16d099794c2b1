"""What every way to a device offers: start Python there, send files, fetch files. Who implements it: local, emulated, ssh."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edgepack.devices.address import Address
from edgepack.errors import DeviceError


class TransportError(DeviceError):
    """A device that cannot be reached, or a connection that broke."""


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
    def site(self) -> Sequence[str]:
        """Folders of the device that Python must find packages in, before its own; may be empty."""

    def python(self, code: str) -> subprocess.Popen[bytes]:
        """Start ``python3 -c code`` on the device, in the user's home, with three pipes. ``code`` may hold any character."""

    def send(self, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Copy one file, or go on where an earlier copy broke off. The folder it goes to exists; what arrived is checked by the caller."""

    def fetch(self, remote: str, local: Path) -> None:
        """Copy one file here."""

    def explain(self, code: int, words: str) -> TransportError | None:
        """What the end of a process started by ``python`` says of the connection; None when it says nothing of it."""

    def close(self) -> None:
        """End the connection and everything this side started for it."""
