"""``edgepack devices``: where artifacts can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepack.cli.build import Json
from edgepack.cli.device import AnswerOption

if TYPE_CHECKING:
    from edgepack.devices.known import Listed


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
    for heading in ("device", "state", "what", "runtimes"):
        # An address that is cut cannot be copied.
        table.add_column(heading, no_wrap=heading != "what", overflow="fold")
    for each in found:
        table.add_row(*_row(each))
    console = Console()
    console.print(table)
    for each in found:
        if each.trouble:
            console.print(_trouble(each), highlight=False, soft_wrap=True)
    console.print("another: edgepack device setup ssh://user@host, or a phone that adb knows", highlight=False, soft_wrap=True)


# Of a Mac: docs/apple.md.
_UNTRIED = "runner untested on hardware"
_COLOURS = {"reachable": "green", "unreachable": "red"}


def _row(each: Listed) -> tuple[str, ...]:
    device = each.device
    colour = _COLOURS.get(each.state, "default")
    what = (device.model, device.machine, f"Python {device.python}" if device.python else "")
    lines = [f"{name} {version}" for name, version in device.runtimes.items()]
    lines += [_UNTRIED] if "coremltools" in device.runtimes else []
    runtimes = "\n".join(map(_shown, lines))
    return _shown(device.address), f"[{colour}]{each.state}[/]", _shown(", ".join(filter(None, what))), runtimes


def _trouble(each: Listed) -> str:
    seen = f" (last seen {each.device.seen})" if each.device.seen else ""
    return f"[dim]{_shown(f'{each.device.address}: {each.trouble}{seen}')}[/]"


def _shown(text: str) -> str:
    """Words of a device are a stranger's: shown, not obeyed."""
    from edgepack.cli.output import escaped
    from edgepack.text import plain

    return escaped(plain(text))
