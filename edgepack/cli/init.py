"""``edgepack init``: a project to fill in, which builds as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepack.cli.build import Json


def command(folder: Annotated[Path, typer.Argument(help="Folder to create.")], json: Json = False) -> None:
    """Create FOLDER with a student.py, a calibration.toml and sample images that build as they are; put your own in their place."""
    from edgepack.cli.output import emit_json
    from edgepack.scaffold import scaffold

    files = scaffold(folder)
    if json:
        emit_json({"ok": True, "folder": str(folder), "files": files})
        return
    print("\n".join(f"  {folder / name}" for name in files))
    print(f"next: edgepack build {folder}/student.py:student -c {folder}/calibration.toml -o {folder}/pack")
