"""How a person names a device: ``local``, ``qemu://pi5``, ``ssh://user@host:port``, ``adb://serial``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from edgepack.errors import InputError

EXAMPLES = "local, qemu://pi5, qemu://pi4, ssh://user@host[:port] or adb://serial"
# A host of ~/.ssh/config, a name or an address (IPv6 in brackets); none may begin with "-", which ssh would take for an option.
_SSH = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(?::(?P<port>\d{1,5}))?/?"
)

# The Python of a device: a name, or a path that no shell reads as more than that; ``~`` is the home there.
_PYTHON = re.compile(r"~?[A-Za-z0-9_./+-]{1,300}")

# What `adb devices` lists: a USB serial, host:port, or a name of wireless debugging (adb-XXXX._adb-tls-connect._tcp).
_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]()-]*")


@dataclass(frozen=True)
class Address:
    """One device. ``place`` is the part behind ``transport://``; the others are of ssh alone. ``python``: how its Python is started."""

    transport: str
    place: str = ""
    user: str = ""
    host: str = ""
    port: int | None = None
    python: str = "python3"

    def __str__(self) -> str:
        return f"{self.transport}://{self.place}" if self.place else self.transport


def parse(text: str) -> Address:
    """An address as typed.

    Raises:
        InputError: it is none.
    """
    transport, found, place = text.partition("://")
    if transport == "local" and not place:
        return Address("local")
    if transport == "qemu" and place in ("pi4", "pi5"):
        return Address("qemu", place)
    if transport == "ssh" and found:
        return _ssh(place, text)
    if transport == "adb" and (not place or _SERIAL.fullmatch(place)):
        return Address("adb", place)
    raise InputError(f"'{text}' is no device", f"use {EXAMPLES}")


def _ssh(place: str, text: str) -> Address:
    match = _SSH.fullmatch(place)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 2**16):
        raise InputError(
            f"'{text}' is no ssh address", "write ssh://user@host or ssh://user@host:port; paths and options have no place in it"
        )
    return Address("ssh", place.rstrip("/"), match["user"] or "", match["host"].strip("[]"), port)


def of_python(address: Address, python: str) -> Address:
    """The same device, whose Python is another than its python3.

    Raises:
        InputError: the device is not behind ssh, or that is no path.
    """
    if address.transport != "ssh":
        raise InputError(f"--python is for devices behind ssh, and {address} is none", "leave it out")
    if not _PYTHON.fullmatch(python) or python.startswith("-"):
        raise InputError(f"'{python}' is no path of a Python", "give one of letters, digits and ._/+-, such as ~/venv/bin/python3")
    return replace(address, python=python)
