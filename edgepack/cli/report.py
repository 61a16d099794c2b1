"""``edgepack report``: the HTML report of a pack, written again from its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepack.cli.build import Json


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; default: report.html in the pack.")] = None,
    json: Json = False,
) -> None:
    """Write PACK's report: one HTML file that needs nothing else."""
    from edgepack.cli.output import emit_json
    from edgepack.pack.files import load_pack
    from edgepack.pack.reported import write_report

    path = write_report(pack, load_pack(pack), out)
    if json:
        emit_json({"ok": True, "report": str(path)})
    else:
        print(path)
