"""Every device there is to choose from: this machine, the emulated ones, and those set up before, asked now whether they answer."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib import metadata

from edgepack.devices.adb_listing import phones_listed
from edgepack.devices.address import of_python, parse
from edgepack.devices.known import Known, Listed, known, now, remember
from edgepack.devices.setup import facts
from edgepack.devices.ssh import Ssh
from edgepack.devices.wheels import RUNTIMES
from edgepack.errors import EdgepackError

# Devices asked at once; each costs a process here.
_AT_ONCE = 16
EMULATED = ("qemu://pi4", "qemu://pi5")


def listed(timeout: float) -> list[Listed]:
    """All of them; devices behind ssh are asked at the same time, each for about ``timeout`` seconds, and so are phones that adb has."""
    emulated = [Listed(Known(address), "emulated") for address in EMULATED]
    return [Listed(_here(), "here"), *emulated, *_asked(known(), timeout), *phones_listed(timeout)]


def _here() -> Known:
    return Known("local", platform.system(), platform.machine(), platform.python_version(), dict(_versions_here()), now())


def _versions_here() -> Iterator[tuple[str, str]]:
    for runtime in RUNTIMES:
        with suppress(metadata.PackageNotFoundError):
            yield runtime, metadata.version(runtime)


def _asked(devices: Sequence[Known], timeout: float) -> list[Listed]:
    behind_ssh = [device for device in devices if device.address.startswith("ssh://")]
    if not behind_ssh:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(behind_ssh))) as pool:
        answers = list(pool.map(lambda device: _ask(device, timeout), behind_ssh))
    for answer in answers:
        if answer.state == "reachable":
            remember(answer.device)
    return answers


def _ask(device: Known, timeout: float) -> Listed:
    """What it says of itself now; what is remembered of it when it says nothing."""
    try:
        with closing(Ssh.open(of_python(parse(device.address), device.command), timeout)) as transport:
            there = facts(transport, 2 * timeout)
    except EdgepackError as error:
        return Listed(device, "unreachable", error.cause)
    if there.is_mac:
        # Importing coremltools takes longer than a list may.
        return Listed(Known(device.address, there.model, there.machine, there.python, device.runtimes, now(), device.command), "reachable")
    versions = next((site.record.versions for site in there.sites if site.record.tag == there.interpreter.tag), {})
    runtimes = {runtime: versions[runtime] for runtime in RUNTIMES if runtime in versions}
    return Listed(Known(device.address, there.model, there.machine, there.python, runtimes, now(), device.command), "reachable")
