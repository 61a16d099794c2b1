"""``edgepack device``: make a device ready to run and time artifacts."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from edgepack.cli.build import Json

if TYPE_CHECKING:
    from edgepack.devices.address import Address
    from edgepack.devices.setup import Installed, Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

AnswerOption = Annotated[float, typer.Option("--timeout", min=1, max=600, help="Seconds to wait for a device that does not answer.")]

PythonOption = Annotated[str, typer.Option("--python", help="Over ssh: the Python there, such as ~/venv/bin/python3.")]


@app.command()
def setup(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="ssh://user@host[:port], qemu://pi5 or qemu://pi4.")],
    timeout: AnswerOption = 10,
    python: PythonOption = "",
    json: Json = False,
) -> None:
    """Put the runtimes on a device, in its user's cache: no root, no pip and no internet there. A second time sends nothing.

    A Mac gets nothing: install coremltools there, in a Python that --python names; it is remembered for bench.

    ssh must reach it without asking for a password. Your own ssh configuration counts; EDGEPACK_SSH_CONFIG names another file.
    """
    from edgepack.cli.output import Progress as Shown
    from edgepack.cli.output import emit_json
    from edgepack.devices.address import parse
    from edgepack.devices.known import with_python

    where = with_python(parse(address), python)
    with Shown(quiet=json) as shown:
        ready = _SETUPS[where.transport](where, timeout, shown.tell)
    if json:
        import msgspec

        emit_json({"ok": True, "address": str(where), **msgspec.to_builtins(ready)})
    else:
        typer.echo(_words(str(where), ready))


def _words(address: str, ready: Installed) -> str:
    from edgepack.text import plain

    runtimes = ", ".join(f"{name} {version}" for name, version in ready.runtimes.items())
    what = f"{ready.model or ready.machine}, Python {ready.python}"
    return plain(f"{address} is ready: {what}, {runtimes}; {ready.sent or 'no'} files sent")


def _ssh(address: Address, timeout: float, progress: Progress) -> Installed:
    from edgepack.devices.setup import setup as set_up
    from edgepack.devices.ssh import Ssh

    with closing(Ssh.open(address, timeout)) as transport:
        return set_up(transport, progress)


def _emulated(address: Address, timeout: float, progress: Progress) -> Installed:
    """Its packages are part of what is built."""
    from importlib import import_module

    from edgepack.devices.setup import checked

    with closing(import_module("edgepack.devices.emulated").connect(address, progress)) as transport:
        return checked(transport)


def _local(address: Address, timeout: float, progress: Progress) -> Installed:
    from edgepack.errors import InputError

    raise InputError("this machine needs no setup: its runtimes are those of this environment", "edgepack doctor checks them")


def _adb(address: Address, timeout: float, progress: Progress) -> Installed:
    from edgepack.errors import InputError

    raise InputError("a phone needs no setup: a bench brings what it needs", "edgepack bench PACK --device adb://serial --runtime FILE")


_SETUPS = {"ssh": _ssh, "qemu": _emulated, "local": _local, "adb": _adb}
