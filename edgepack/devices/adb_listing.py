"""Phones that adb has, for ``edgepack devices``: what they are, or why they are not ready."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

from edgepack.devices import phone as phones
from edgepack.devices.adb import Attached, Phone, attached, ready
from edgepack.devices.address import Address
from edgepack.devices.known import Known, Listed, now
from edgepack.errors import EdgepackError

# adb starts its server when it is first asked, which takes some seconds.
_STARTING = 5.0


def phones_listed(timeout: float) -> list[Listed]:
    """Every phone that is connected, asked now; none where there is no adb, or it cannot say."""
    if shutil.which("adb") is None:
        return []
    try:
        found = attached(timeout + _STARTING)
    except EdgepackError as error:
        return [Listed(Known("adb"), "unreachable", error.cause)]
    if not found:
        return []
    with ThreadPoolExecutor(len(found)) as pool:
        return list(pool.map(_listed, found))


def _listed(found: Attached) -> Listed:
    try:
        facts, abi = phones.facts(Phone(Address("adb", ready(found).serial)))
    except EdgepackError as error:
        return Listed(Known(found.address, found.model), "unreachable", f"{error.cause} -> {error.hint}")
    model = f"{facts.board}, {facts.system}"
    return Listed(Known(found.address, model, abi or facts.machine, seen=now()), "emulated" if facts.virtual else "reachable")
