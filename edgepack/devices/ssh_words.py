"""What OpenSSH says when a connection fails, and what a person should do then: one table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgepack.devices.address import Address
from edgepack.devices.transport import TransportError

# ssh ends with this code for every failure of its own, and with the remote program's code otherwise.
SSH_FAILED = 255
# What shells answer for a program they do not find, or that is none (POSIX, 2.8.2).
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class CutError(TransportError):
    """A connection that was there and broke: worth another try."""


@dataclass(frozen=True)
class Trouble:
    """``pattern`` is looked for in each line; ``{host}`` and ``{ssh}`` (the command a person would type) are filled in."""

    pattern: str
    cause: str
    hint: str
    kind: type[TransportError] = TransportError


# Read from top to bottom: ssh's last line is often the general one ("Host key verification failed") and an earlier one says why.
TROUBLES = (
    Trouble(
        r"Could not resolve hostname|Name or service not known|Temporary failure in name resolution",
        "no host is called {host}",
        "check its name (a Pi is often raspberrypi.local) or write its IP address",
    ),
    Trouble(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "the host key of {host} is not the one this machine knows",
        "if the device was installed anew, forget the old key (ssh-keygen -R {known}) and run {ssh} once; if not, do not connect",
    ),
    Trouble(
        r"Host key verification failed|No .* host key is known",
        "the host key of {host} is not known here",
        "run {ssh} once and confirm its key",
    ),
    Trouble(
        r"Permission denied \(|Too many authentication failures|No supported authentication methods",
        "{host} accepts no key of this machine",
        "send it yours: ssh-copy-id {target}; then {ssh} must ask for nothing",
    ),
    Trouble(
        r"Connection refused",
        "{host} refuses the connection",
        "switch ssh on there (on a Pi: sudo raspi-config, Interface Options), and check the port",
    ),
    Trouble(
        r"No route to host|Network is unreachable|Host is down|Connection timed out|Operation timed out|timed out during banner",
        "{host} cannot be reached",
        "check that it is on and in this network: {ssh}",
    ),
    Trouble(
        r"Bad configuration option|[Bb]ad configuration options|Bad owner or permissions|Can't open user config file|"
        r"Permissions .* are too open|keyword .* extra arguments",
        "ssh does not accept its own configuration: {line}",
        "mend what it names; {ssh} must work",
    ),
    Trouble(
        r"[Cc]losed by|Connection closed|Connection reset|Broken pipe|not responding|kex_exchange_identification|"
        r"Connection to .* closed|mux_client|[Cc]ontrol master terminated|Connection to .* timed out|Connection timed out",
        "the connection to {host} broke",
        "see whether it is on and its network holds ({ssh}), and run the same again",
        CutError,
    ),
)
_UNKNOWN = Trouble("", "the connection to {host} failed: {line}", "see what {ssh} says")
_SILENT = Trouble("", "the connection to {host} broke", TROUBLES[-1].hint, CutError)
_NO_PYTHON = Trouble(
    r"python3.*(not found|No such file|[Uu]nknown command)|Unknown command.*python3",
    "{host} has no python3",
    "install it there: sudo apt install python3",
)


def typed(address: Address) -> str:
    """The command with which a person reaches the device."""
    return f"ssh {f'-p {address.port} ' if address.port else ''}{_target(address)}"


def explained(address: Address, code: int, words: str) -> TransportError | None:
    """What the end of an ssh process says of the connection, or of a python3 that is missing; None for the end of a program there."""
    if code in (_NOT_FOUND, _NOT_EXECUTABLE) and address.python != "python3":
        return TransportError(f"{address.host} has no {address.python}", "name a Python that is there: --python PATH")
    if code == _NOT_FOUND and any(re.search(_NO_PYTHON.pattern, line) for line in words.splitlines()):
        return _error(address, _NO_PYTHON, "")
    return lost(address, words) if code == SSH_FAILED else None


def lost(address: Address, words: str) -> TransportError:
    """Why there is no connection, from ssh's complaints."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    for trouble in TROUBLES:
        line = next((line for line in lines if re.search(trouble.pattern, line)), None)
        if line is not None:
            return _error(address, trouble, line)
    return _error(address, _UNKNOWN if lines else _SILENT, lines[-1] if lines else "")


def _error(address: Address, trouble: Trouble, line: str) -> TransportError:
    known = f"'[{address.host}]:{address.port}'" if address.port else address.host
    words = {"host": address.host, "ssh": typed(address), "target": _target(address, "-p "), "known": known, "line": line[:200]}
    return trouble.kind(trouble.cause.format(**words), trouble.hint.format(**words))


def _target(address: Address, port: str = "") -> str:
    """``-p 2222 pi@host`` with ``port``, ``pi@host`` without."""
    named = f"{address.user}@{address.host}" if address.user else address.host
    return f"{port}{address.port} {named}" if port and address.port else named
