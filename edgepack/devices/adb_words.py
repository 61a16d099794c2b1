"""What adb says when it fails, as one line with what to do."""

from __future__ import annotations

import re

from edgepack.devices.transport import TransportError
from edgepack.errors import is_out_of_space

# Characters of adb's own words that a failure quotes.
_QUOTE = 200


class PulledError(TransportError):
    """A phone that went while something ran on it."""


# Words of adb (and of the shell it starts) -> (cause, hint); {phone} is the address. In the order looked for.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"unauthorized",
        "{phone} does not trust this computer",
        "unlock the phone and allow USB debugging in the dialog; unplug it and plug it in again if none appears",
    ),
    (
        r"authorizing|connecting",
        "{phone} is not ready: adb is still connecting to it",
        "unlock the phone, then try again",
    ),
    (
        r"no permissions|insufficient permissions",
        "this user may not open {phone}'s USB device",
        "add the udev rules of the package android-sdk-platform-tools-common, and plug the phone in again",
    ),
    (
        r"device offline|device still (?:connecting|authorizing)|\boffline\b",
        "{phone} is offline",
        "plug it in again, or: adb reconnect offline",
    ),
    (r"more than one device", "several phones are connected", "name one: adb://SERIAL; edgepack devices lists them"),
    (r"no devices/emulators found", "no phone is connected", "plug one in and switch USB debugging on in its developer options"),
    (
        r"device '.*' not found|device not found",
        "{phone} is not connected",
        "plug it in and switch USB debugging on; edgepack devices lists what is",
    ),
    (
        r"cannot connect to daemon|failed to (?:check|start) (?:server|daemon)|could not (?:read ok|install \*smartsocket\*)",
        "the adb server does not start",
        "see what `adb devices` says; another program may hold its port",
    ),
    (
        r"No space left on device|Disk quota exceeded|not enough space",
        "{phone} has no room left",
        "free some space on it",
    ),
    (r"Read-only file system|couldn't create file: Permission denied", "{phone} does not take files in its /data/local/tmp", "restart it"),
    (
        r"\bclosed\b|protocol fault|device disconnected|connection reset|broken pipe|connect failed|EOF|no such transport",
        "the connection to {phone} broke",
        "see the cable and that the phone stays on, then try again",
    ),
)
# Of a server that was just started; no failure.
_SERVER_STARTS = re.compile(r"^\* daemon .*$", re.MULTILINE)


def explained(phone: str, words: str) -> TransportError | None:
    """The failure that adb's words tell of; None when they tell of none."""
    said = _SERVER_STARTS.sub("", words)
    for pattern, cause, hint in _KNOWN:
        if re.search(pattern, said, re.IGNORECASE):
            return TransportError(cause.format(phone=phone), hint)
    return None


def failed(phone: str, doing: str, words: str) -> TransportError:
    """The failure of one adb command."""
    known = explained(phone, words)
    if known is not None:
        return known
    last = (_SERVER_STARTS.sub("", words).strip().splitlines() or ["it said nothing"])[-1][:_QUOTE]
    hint = "free some space on the phone" if is_out_of_space(last) else "see what `adb devices` says, then try again"
    return TransportError(f"{doing} on {phone} failed: {last}", hint)


def pulled(phone: str) -> PulledError:
    """The phone went in mid-run."""
    return PulledError(
        f"the connection to {phone} broke while it ran",
        "plug the phone in again, keep it awake, and measure again; nothing of the broken run is kept",
    )
