"""A phone on a USB cable: ``adb reverse`` gives it this server as its own localhost, a secure origin without a certificate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from edgepack.errors import DeviceError

_SECONDS = 30.0


@contextmanager
def reversed_port(port: int, serial: str = "") -> Iterator[None]:
    """The phone's ``localhost:port`` is this machine's for as long as the block runs.

    Args:
        serial: of the phone, as ``adb devices`` lists it; "" where there is one alone.

    Raises:
        DeviceError: adb is missing, or reaches no phone.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise DeviceError("adb is not installed; it carries the page to a phone on USB", "install Android's platform tools, or use --host")
    command = [adb, *(("-s", serial) if serial else ()), "reverse"]
    _adb([*command, f"tcp:{port}", f"tcp:{port}"])
    try:
        yield
    finally:
        subprocess.run([*command, "--remove", f"tcp:{port}"], capture_output=True, timeout=_SECONDS, check=False)


def _adb(command: list[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"adb gave no answer within {_SECONDS:g} s", "plug the phone in again, and allow USB debugging") from error
    if ended.returncode:
        words = (ended.stderr.strip().splitlines() or ended.stdout.strip().splitlines() or ["it said nothing"])[-1][:200]
        raise DeviceError(f"adb reaches no phone ({words})", "allow USB debugging on the phone; with several phones give --usb-serial")
