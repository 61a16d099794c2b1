"""From an address to an open transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from edgepack.devices.address import Address
from edgepack.devices.transport import Transport


@contextmanager
def connected(address: Address) -> Iterator[Transport]:
    """A transport to a device that is ready to run; closed at the end.

    Raises:
        DeviceError: it cannot be reached, or lacks the runtimes.
    """
    transport = _OPENERS[address.transport](address)
    try:
        yield transport
    finally:
        transport.close()


def _local(address: Address) -> Transport:
    from edgepack.devices.local import Local

    return Local()


def _emulated(address: Address) -> Transport:
    from edgepack.devices.emulated import connect

    return connect(address)


def _ssh(address: Address) -> Transport:
    from edgepack.devices.setup import sites_of
    from edgepack.devices.ssh import Ssh

    transport = Ssh.open(address)
    try:
        transport.site = sites_of(transport)
    except BaseException:
        transport.close()
        raise
    return transport


def _adb(address: Address) -> Transport:
    from edgepack.devices.adb import Phone

    return Phone.open(address)


_OPENERS: Mapping[str, Callable[[Address], Transport]] = {"local": _local, "qemu": _emulated, "ssh": _ssh, "adb": _adb}
