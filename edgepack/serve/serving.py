"""``edgepack serve`` as a call: a pack, an address, and what is kept of what browsers found."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgepack.errors import InputError
from edgepack.latency import protocol
from edgepack.latency.on_device import OpenPack
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Measurement
from edgepack.pack.reported import keep
from edgepack.serve.certificate import certificate
from edgepack.serve.desk import Desk
from edgepack.serve.entrance import Entrance
from edgepack.serve.judging import Visitor
from edgepack.serve.runtimes import Runtimes, installed, versions
from edgepack.serve.server import Server
from edgepack.serve.subjects import Served, served
from edgepack.serve.usb import reversed_port

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where a pack is served.

    Attributes:
        host: an IPv4 address of this machine, or 0.0.0.0 for all; port: 0 for one that is free.
        tls: https; None for whatever makes the origin secure: not on this machine alone, and not over USB, which are so anyway.
        usb: also on the localhost of a phone on a cable. serial: which phone.
    """

    host: str = LOOPBACK
    port: int = 0
    tls: bool | None = None
    usb: bool = False
    serial: str = ""

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine, and a phone on its cable, comes in."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def is_https(self) -> bool:
        """Whether it is to be encrypted."""
        return not self.is_local if self.tls is None else self.tls

    @property
    def is_secure(self) -> bool:
        """Whether browsers will call the origin secure, and with it allow threads and cameras."""
        return self.is_https or self.is_local


@dataclass(frozen=True)
class Listeners:
    """Who hears what happens; each is called from the server's threads.

    Attributes:
        renewed: the address that opens next. measured: what a browser found, when the pack holds it. ended: a browser that has gone
            through all, with what failed there.
    """

    renewed: Callable[[str], None] = lambda _: None
    measured: Callable[[Visitor, Sequence[Measurement]], None] = lambda *_: None
    ended: Callable[[Sequence[str]], None] = lambda _: None


@dataclass(frozen=True)
class Serving:
    """A pack that is being served. ``address`` opens once; ``fingerprint`` is of the certificate, "" without one."""

    address: str
    fingerprint: str
    place: Place
    held: Served


@contextmanager
def serving(
    pack: Path | str,
    place: Place = Place(),
    *,
    targets: Sequence[str] = (),
    schemes: Sequence[str] = (),
    profile: str = "quick",
    threads: int = 1,
    save: bool = True,
    listeners: Listeners = Listeners(),
) -> Iterator[Serving]:
    """Serve a pack to browsers for as long as the block runs.

    Args:
        targets, schemes: which artifacts; empty for all that a browser or an app can run.
        profile: how much is measured; threads: of the runtimes, where the origin allows them.
        save: put measurements into the pack, and write its report again.

    Raises:
        EdgepackError: the pack, the address, npm, openssl or adb is not what it needs to be.
    """
    folder = Path(pack)
    shown, wanted, opened = _shown_address(place), protocol.profile(profile), OpenPack.at(folder, load_pack(folder))
    held = served(opened, targets, schemes, wanted, threads, versions())
    # An app brings its own.
    runtimes = installed() if held.subjects else Runtimes(folder, {})
    lock = threading.Lock()

    def keep_it(measured: Sequence[Measurement]) -> int:
        with lock:
            keep(folder, measured)
        return len(measured)

    desk = Desk(held, runtimes, keep_it if save else lambda _: 0, listeners.measured, listeners.ended)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        secured = certificate(scratch, shown) if place.is_https else None
        entrance = Entrance(lambda token: listeners.renewed(address(token)))
        server = stack.enter_context(_listening(place, desk, entrance, secured.context if secured else None))
        port = server.server_address[1]

        def address(token: str) -> str:
            return f"{'https' if place.is_https else 'http'}://{shown}:{port}/open/{token}"

        if place.usb:
            stack.enter_context(reversed_port(port, place.serial))
        yield Serving(address(entrance.token), secured.fingerprint if secured else "", place, held)


@contextmanager
def _listening(place: Place, desk: Desk, entrance: Entrance, context: ssl.SSLContext | None) -> Iterator[Server]:
    try:
        server = Server(place.host, place.port, desk, entrance, context)
    except OSError as error:
        raise InputError(
            f"{place.host}:{place.port} cannot be listened on ({error.strerror})", "give an address of this machine, and a free --port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _shown_address(place: Place) -> str:
    """What a phone is told: of all addresses the one that leads to the network."""
    try:
        held = ipaddress.IPv4Address(place.host)
    except ValueError as error:
        raise InputError(f"'{place.host}' is no IPv4 address", "give one of this machine's own, or 0.0.0.0 for all") from error
    return str(held) if not held.is_unspecified else _own_address()


def _own_address() -> str:
    """By asking the kernel for the way to an address of the documentation (RFC 5737); nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))
        except OSError as error:
            raise InputError("this machine has no network that a phone could be in", "give --host ADDRESS, or use --usb") from error
        return str(asking.getsockname()[0])
