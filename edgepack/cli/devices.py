"""``edgepack devices``: where artifacts can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepack.cli.build import Json
from edgepack.cli.device import AnswerOption

if TYPE_CHECKING:
    from edgepack.devices.listing import Listed


def command(timeout: AnswerOption = 3, json: Json = False) -> None:
    """List this machine, the emulated devices and those set up before, with what they are and whether they answer now."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import emit_json
    from edgepack.devices.listing import listed

    found = listed(timeout)
    if json:
        emit_json([{**msgspec.to_builtins(each.device), "state": each.state, "trouble": each.trouble} for each in found])
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("device", "state", "what", "python", "runtimes"):
        table.add_column(heading)
    for each in found:
        table.add_row(*_row(each))
    console = Console()
    console.print(table)
    console.print("another: edgepack device setup ssh://user@host", highlight=False)


_COLOURS = {"reachable": "green", "unreachable": "red"}


def _row(each: Listed) -> tuple[str, ...]:
    """Words of a device are a stranger's: shown, not obeyed."""
    from edgepack.cli.output import escaped
    from edgepack.text import plain

    device = each.device
    colour = _COLOURS.get(each.state, "default")
    state = f"[{colour}]{each.state}[/]" + (f"\n[dim]{escaped(plain(each.trouble))}[/]" if each.trouble else "")
    runtimes = "\n".join(escaped(plain(f"{name} {version}")) for name, version in device.runtimes.items())
    what = ", ".join(part for part in (device.model, device.machine) if part)
    return (escaped(device.address), state, *(escaped(plain(text)) for text in (what, device.python)), runtimes)
