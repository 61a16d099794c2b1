"""``edgepack doctor``: what of the environment works."""

from __future__ import annotations

import typer

from edgepack.cli.build import Json

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def command(json: Json = False) -> None:
    """Check Python, the runtimes and what is known to break them. Exit code 1 when something needed does not work."""
    from dataclasses import asdict

    from rich.console import Console

    from edgepack.cli.output import emit_json
    from edgepack.doctor import checks

    found = checks()
    failed = any(check.level == "error" for check in found)
    if json:
        emit_json({"ok": not failed, "checks": [asdict(check) for check in found]})
    else:
        console = Console()
        for check in found:
            step = f" -> next: {check.next_step}" if check.next_step else ""
            console.print(f"[{_COLOURS[check.level]}]{check.level:8}[/]{check.name}: {check.found}{step}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
