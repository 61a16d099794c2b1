"""``edgepack verify``: whether what a pack says still holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepack.cli.build import CalibrationOption, JobsOption, Json, TimeoutOption
from edgepack.cli.inspect import FileMemoryOption, memory_limit

if TYPE_CHECKING:
    from edgepack.verify.claims import Claim


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    quick: Annotated[bool, typer.Option("--quick", help="Only digests, and one inference of each artifact.")] = False,
    calibration: CalibrationOption = None,
    timeout: TimeoutOption = 600,
    memory: FileMemoryOption = None,
    jobs: JobsOption = 0,
    json: Json = False,
) -> None:
    """Check every claim of PACK: digests, artifacts made again from hub and ranges, lint, parity and gates measured again. With -c, the
    manifest it was built with, also ranges, corrected biases and accuracy. No code of a pack runs. Exit code 1 names the first claim that
    does not hold."""
    import msgspec

    from edgepack.calibration.manifest import find_manifest
    from edgepack.cli.output import Progress, emit_json
    from edgepack.converter.step import Limits
    from edgepack.errors import GateError
    from edgepack.pack.files import load_pack
    from edgepack.verify.claims import Wish, first_broken, verify

    manifest = find_manifest(calibration) if calibration else None
    wish = Wish(quick, manifest, Limits(timeout, memory_limit(pack, memory)), jobs)
    with Progress(quiet=json) as progress:
        claims = verify(pack, load_pack(pack), wish, progress)
    broken = first_broken(claims)
    if json:
        emit_json({"ok": broken is None, "pack": str(pack), "claims": [msgspec.to_builtins(claim) for claim in claims]})
    else:
        _show(claims)
    if broken is None:
        return
    if json:
        raise typer.Exit(1)
    raise GateError(f"{broken.subject}: {broken.what} does not hold: {broken.detail}", "build the pack again, or do not trust it")


def _show(claims: list[Claim]) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import escaped

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("", "claim", "", "found"):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        table.add_row(_MARKS[claim.holds], escaped(claim.subject), escaped(claim.what), escaped(claim.detail))
    console = Console()
    console.print(table)
    held, unseen = sum(claim.holds is True for claim in claims), sum(claim.holds is None for claim in claims)
    console.print(f"{held} of {len(claims)} claims hold, {unseen} were not looked at", highlight=False)


_MARKS = {True: "[green]ok[/]", False: "[red]FAIL[/]", None: "[dim]-[/]"}
