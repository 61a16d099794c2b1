"""Making a device ready: the runtimes in a folder of its user's cache, without root, pip or internet there.

The folder (a "site") is named by the Python and the wheels in it, built beside and renamed; setting up a second time finds it and sends
nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from typing import Annotated

import msgspec
from msgspec import Meta

from edgepack.devices.ask import SECONDS, AnswerError, ask
from edgepack.devices.known import Known, now, remember
from edgepack.devices.sending import Sent, missing, verified_send
from edgepack.devices.session import opened
from edgepack.devices.transport import Transport
from edgepack.devices.wheels import (
    MODULES,
    RUNTIMES,
    DevicePython,
    Wheel,
    is_older,
    refuse_unfit,
    set_digest,
    wanted,
    wheels,
)
from edgepack.errors import DeviceError

# Completes a site; its content is SiteRecord.
RECORD = "edgepack-site.json"
# Seconds for unpacking 200 MB onto a slow card, and for importing the runtimes; an emulated Pi takes a tenth.
_UNPACKING = 900.0
_IMPORTING = 300.0
# Bytes that must stay free besides: byte code of what is imported, runners and artifacts.
_SPARE = 2**26

Progress = Callable[[str, int, int], None]


class RoomError(DeviceError):
    """A device without the disk space."""


class MissingError(DeviceError):
    """A device that is not set up, or for an older edgepack."""


class SiteRecord(msgspec.Struct, frozen=True):
    """What a site was made of: versions by distribution, for one Python."""

    tag: str
    versions: dict[str, str]


class Site(msgspec.Struct, frozen=True):
    """A site on a device."""

    folder: str
    record: SiteRecord


class Facts(msgspec.Struct, frozen=True):
    """What a device says of itself. ``free`` bytes are left where sites go, ``base``; ``sites`` has the newest first.

    ``python`` and ``glibc`` become parts of file names here, and must be versions.
    """

    python: Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}[0-9A-Za-z.+~-]{0,40}$")]
    bits: int
    machine: str
    glibc: Annotated[str, Meta(pattern=r"^([0-9]{1,3}(\.[0-9]{1,6}){1,3})?$")]
    home: str
    base: str
    free: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    model: str
    executable: str
    sites: list[Site]
    system: str = ""

    @property
    def is_mac(self) -> bool:
        """Whether Core ML is there."""
        return self.system == "Darwin"

    @property
    def interpreter(self) -> DevicePython:
        """The Python that wheels must fit."""
        return DevicePython(self.python, self.bits, self.machine, self.glibc)


class Installed(msgspec.Struct, frozen=True):
    """A device that is ready. ``site`` is the folder its Python must find packages in; ``sent`` counts wheels that went there just now."""

    site: str
    python: str
    machine: str
    model: str
    runtimes: dict[str, str]
    sent: int = 0


def facts(transport: Transport, seconds: float = SECONDS) -> Facts:
    """Ask a device what it is.

    Raises:
        TransportError, AnswerError: it does not say.
    """
    return ask(transport, "facts", {"record": RECORD}, Facts, seconds)


def setup(transport: Transport, progress: Progress = lambda *_: None) -> Installed:
    """Make a device ready and check that it is, by importing the runtimes there; nobody measures on it meanwhile.

    Args:
        progress: told (what, done, total) as it goes on.

    Raises:
        UnfitError: its Python; RoomError: its disk; DownloadError: a wheel; TransportError: the connection; AnswerError: an import.
        BusyError: somebody measures there, or sets it up.
    """
    there = facts(transport)
    if there.is_mac:
        return _set_up_mac(transport, there)
    refuse_unfit(str(transport.address), there.interpreter)
    with opened(transport, exclusive=True, otherwise="set it up when that has ended"):
        site, versions, sent = _held(transport, there, progress) or _new(transport, there, progress)
        ask(transport, "clean", {"base": there.base, "keep": site, "wheels": _incoming(there)}, dict)
    installed = _installed(there, site, versions, sent)
    record(transport, installed)
    return installed


def checked(transport: Transport) -> Installed:
    """The same of a device that comes with its packages (an emulated one): the runtimes are imported, nothing is installed.

    Raises:
        AnswerError: they do not import.
    """
    there = facts(transport)
    (site,) = transport.site
    return _installed(there, site, _imported(transport, site, lambda *_: None), 0)


def record(transport: Transport, device: Installed) -> None:
    """Remember a device that answered."""
    address = transport.address
    remember(Known(str(address), device.model, device.machine, device.python, device.runtimes, now(), address.python))


def installed(transport: Transport) -> Installed:
    """What a device was set up with; nothing is imported there.

    Raises:
        MissingError: nothing, or runtimes older than this environment's: an artifact of today may not load there.
    """
    there = facts(transport)
    sites = [site for site in there.sites if site.record.tag == there.interpreter.tag]
    if not sites:
        raise MissingError(f"{transport.address} has no runtimes for edgepack", _hint(transport))
    # Another host's edgepack may have set it up later, for other versions.
    versions = wanted()
    site = next((site for site in sites if site.record.versions == versions), sites[0])
    _refuse_old(transport, site.record.versions)
    return _installed(there, site.folder, site.record.versions, 0)


def site_of(transport: Transport) -> str:
    """The folder on a device that its Python must find packages in: put it in ``transport.site``.

    Raises:
        MissingError: as ``installed``.
    """
    return installed(transport).site


def sites_of(transport: Transport) -> tuple[str, ...]:
    """The folders that a device's Python must find packages in, before its own: of a Mac none, whose user installs coremltools.

    Raises:
        MissingError: as ``installed``; a Mac without coremltools, or whose Python is too old.
    """
    there = facts(transport)
    if there.is_mac:
        _mac_runtimes(transport, there)
        return ()
    return (site_of(transport),)


def _set_up_mac(transport: Transport, there: Facts) -> Installed:
    """Nothing is sent: see that what is needed is there, and remember with which Python."""
    found = Installed("", there.python, there.machine, there.model, _mac_runtimes(transport, there))
    record(transport, found)
    return found


def _mac_runtimes(transport: Transport, there: Facts) -> dict[str, str]:
    """Versions of what the Core ML runner needs, from importing it there.

    Raises:
        MissingError: it is not there, or older than here.
    """
    python = transport.address.python
    here = metadata.version("coremltools")
    hint = f"run there: {python} -m pip install coremltools=={here} numpy; or name another Python: --python PATH"
    if is_older(there.python, _OLDEST_ON_MACS):
        cause = f"{python} on {transport.address} is Python {there.python}; {_OLDEST_ON_MACS} or newer is needed"
        raise MissingError(cause, "name another: --python /opt/homebrew/bin/python3")
    try:
        modules = {name: name for name in _ON_MACS}
        versions = ask(transport, "check", {"site": there.base, "modules": modules}, dict[str, str], _IMPORTING)
    except AnswerError as error:
        raise MissingError(f"coremltools does not import on {transport.address}: {error.cause}", hint) from error
    if is_older(versions["coremltools"], here):
        cause = f"coremltools on {transport.address} is {versions['coremltools']}, older than {here} here"
        raise MissingError(cause, hint)
    return {"coremltools": versions["coremltools"]}


# What the Core ML runner imports, and the first Python with hashlib.file_digest, which the supervisor uses.
_ON_MACS, _OLDEST_ON_MACS = ("coremltools", "numpy"), "3.11"


def _refuse_old(transport: Transport, versions: dict[str, str]) -> None:
    for runtime in RUNTIMES:
        here, there = wanted()[runtime], versions.get(runtime, "")
        if is_older(there, here):
            raise MissingError(f"{runtime} on {transport.address} is {there or 'missing'}, older than {here} here", _hint(transport))


def _hint(transport: Transport) -> str:
    return f"edgepack device setup {transport.address}"


def _held(transport: Transport, there: Facts, progress: Progress) -> tuple[str, dict[str, str], int] | None:
    """The site that holds exactly what is wanted, if it still imports; a damaged one is made again."""
    versions = wanted()
    for site in there.sites:
        if site.record.tag == there.interpreter.tag and site.record.versions == versions:
            with contextlib.suppress(AnswerError):
                return site.folder, _imported(transport, site.folder, progress), 0
    return None


def _new(transport: Transport, there: Facts, progress: Progress) -> tuple[str, dict[str, str], int]:
    """A site made now: its folder, what it imports, and how many wheels were sent."""
    chosen = wheels(there.interpreter, partial(progress, "downloading wheels"))
    site, sent = _install(transport, there, chosen, progress)
    return site, _imported(transport, site, progress), sent


def _install(transport: Transport, there: Facts, chosen: Sequence[Wheel], progress: Progress) -> tuple[str, int]:
    """Send what is not there yet and unpack it; the site, and how many wheels were sent."""
    folder = _incoming(there)
    files = [Sent(wheel.path, f"{folder}/{wheel.path.name}") for wheel in chosen]
    absent = missing(transport, files, make=folder)
    _refuse_full(transport, there, sum(file.local.stat().st_size for file in absent) + sum(wheel.unpacked for wheel in chosen))
    verified_send(transport, absent, partial(progress, "sending wheels"))
    site = f"{there.base}/site-{there.interpreter.tag}-{set_digest(list(chosen))}"
    versions = {wheel.distribution: wheel.version for wheel in chosen}
    asked = {
        "wheels": [file.remote for file in files],
        "site": site,
        "name": RECORD,
        "record": msgspec.to_builtins(SiteRecord(there.interpreter.tag, versions)),
    }
    progress("unpacking there", 0, 1)
    ask(transport, "unpack", asked, dict, _UNPACKING)
    progress("unpacking there", 1, 1)
    return site, len(absent)


def _refuse_full(transport: Transport, there: Facts, size: int) -> None:
    needed = size + _SPARE
    if there.free < needed:
        raise RoomError(
            f"{transport.address} has {there.free / 1e6:.0f} MB free in {there.home}, and the runtimes need {needed / 1e6:.0f} MB",
            "free some space on the device",
        )


def _imported(transport: Transport, site: str, progress: Progress) -> dict[str, str]:
    progress("importing the runtimes there", 0, 1)
    try:
        versions = ask(transport, "check", {"site": site, "modules": MODULES}, dict[str, str], _IMPORTING)
    except AnswerError as error:
        raise AnswerError(
            f"the runtimes do not import on {transport.address}: {error.cause}",
            "see what it names: a library its system lacks, or a processor too old for them",
        ) from error
    progress("importing the runtimes there", 1, 1)
    return versions


def _installed(there: Facts, site: str, versions: dict[str, str], sent: int) -> Installed:
    runtimes = {runtime: versions[runtime] for runtime in RUNTIMES if runtime in versions}
    return Installed(site, there.python, there.machine, there.model, runtimes, sent)


def _incoming(there: Facts) -> str:
    return f"{there.base}/wheels"
