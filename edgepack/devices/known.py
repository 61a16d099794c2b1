"""The devices this user has set up: what they are and when they were last seen. A convenience; a damaged file is an empty one."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
from pathlib import Path

import msgspec

from edgepack.devices.address import Address, of_python


class Known(msgspec.Struct, frozen=True):
    """One device. ``runtimes`` are versions by distribution; ``seen`` is when it last answered, UTC; ``command`` starts its Python."""

    address: str
    model: str = ""
    machine: str = ""
    python: str = ""
    runtimes: dict[str, str] = {}
    seen: str = ""
    command: str = "python3"


class Listed(msgspec.Struct, frozen=True):
    """One device as it is now. ``state`` is "here", "emulated", "reachable" or "unreachable"; ``trouble`` says why it is not reached."""

    device: Known
    state: str
    trouble: str = ""


def now() -> str:
    """This second as ``seen`` has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def place() -> Path:
    """The file, in the user's state folder."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
    return base / "edgepack" / "devices.json"


def known() -> list[Known]:
    """Every device, by address."""
    try:
        found = msgspec.json.decode(place().read_bytes(), type=list[Known])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    return sorted(found, key=lambda each: each.address)


def with_python(address: Address, python: str = "") -> Address:
    """A device with the Python that is named, or that it was set up with.

    Raises:
        InputError: see ``edgepack.devices.address.of_python``.
    """
    if python:
        return of_python(address, python)
    if address.transport != "ssh":
        return address
    held = next((each.command for each in known() if each.address == str(address)), address.python)
    return of_python(address, held)


def remember(device: Known) -> None:
    """Add or replace a device, where the file can be written: a convenience ends nothing."""
    with contextlib.suppress(OSError):
        _write([*(each for each in known() if each.address != device.address), device])


def _write(devices: list[Known]) -> None:
    """Addresses are the user's own business: nobody else may read the file."""
    path = place()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp gives mode 600.
    handle, new = tempfile.mkstemp(prefix="devices-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(devices), indent=1))
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
