"""``edgepack gate``: whether a pack keeps its budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepack.cli.build import Json
from edgepack.cli.run import PackSchemeOption, PackTargetOption

if TYPE_CHECKING:
    from edgepack.latency.gate import Checks

BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="NAME=VALUE", help="In place of a target's own: latency_p90_ms=20, TARGET:size_bytes=5e6; repeat."),
]


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    target: PackTargetOption = None,
    scheme: PackSchemeOption = None,
    budget: BudgetOption = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write the checks as JUnit XML.")] = None,
    require_measured: Annotated[bool, typer.Option("--require-measured", help="A budget without a measurement fails.")] = False,
    json: Json = False,
) -> None:
    """Check PACK, with what edgepack bench measured of it, against the budgets of its targets: latency p90 (the upper end of its interval,
    measured on the target's own device), size, memory, accuracy, parity. Exit code 1 names the first check that fails."""
    import msgspec

    from edgepack.api import gate
    from edgepack.cli.output import emit_json

    found = gate(pack, parsed(budget or ()), targets=target or (), schemes=scheme or ())
    if junit is not None:
        write_junit(junit, found, pack, require_measured)
    failing = found.failing(require_measured)
    if json:
        emit_json({"ok": not failing, "pack": str(pack), "checks": [msgspec.to_builtins(check) for check in found]})
        raise typer.Exit(1 if failing else 0)
    _show(found)
    found.demand(require_measured)


def parsed(given: list[str] | tuple[str, ...]) -> dict[str, float]:
    """``["latency_p90_ms=20"]`` as a mapping; InputError where one is no NAME=VALUE."""
    from edgepack.errors import InputError

    budgets = {}
    for text in given:
        name, found, value = text.rpartition("=")
        try:
            budgets[name.strip()] = float(value)
        except ValueError:
            found = ""
        if not found:
            raise InputError(f"'{text}' is no budget", "write NAME=VALUE, for example latency_p90_ms=20")
    return budgets


def write_junit(path: Path, found: Checks, pack: Path, require_measured: bool = False) -> None:
    """The checks as JUnit XML; InputError where the file cannot be written."""
    from edgepack.errors import InputError
    from edgepack.latency.junit import junit

    try:
        path.write_bytes(junit(found, f"edgepack gate {pack.name}", require_measured))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})", "choose another place with --junit") from error


def refuse_unwritable(path: Path) -> None:
    """InputError where ``write_junit`` could not write, found before an hour of measuring. Opening changes no file that is there."""
    from edgepack.errors import InputError

    try:
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})", "choose another place with --junit") from error


def _show(found: Checks) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import escaped

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("artifact", "check", "", "found"):
        table.add_column(heading, overflow="fold")
    for check in found:
        table.add_row(escaped(check.subject), check.name, _MARKS[check.status], escaped(check.words))
    console = Console()
    console.print(table)
    counts = {status: sum(check.status == status for check in found) for status in _MARKS}
    console.print(", ".join(f"{count} {status}" for status, count in counts.items() if count), highlight=False)


_MARKS = {
    "pass": "[green]pass[/]",
    "fail": "[red]FAIL[/]",
    "invalid": "[red]invalid[/]",
    "not measured": "[yellow]not measured[/]",
    "no budget": "[dim]no budget[/]",
}
