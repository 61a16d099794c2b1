"""``edgepack demo``: the distilled digits student to all three targets."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import which

from edgepack.cli.build import Json, LatencyOption, OutOption


def command(out: OutOption = Path("pack"), latency: LatencyOption = "quick", json: Json = False) -> None:
    """Build the digits student that was distilled for this project, for a Raspberry Pi, Android and iOS, and show what came out."""
    from edgepack import api
    from edgepack.cli.build import finish
    from edgepack.cli.output import Progress
    from edgepack.data import data_folder

    digits = data_folder("demo_app") / "students" / "digits"
    with Progress(quiet=json) as progress:
        pack = api.build(
            f"{digits / 'student.py'}:student",
            out,
            calibration="digits",
            latency=latency,
            watcher=progress,
            tell=progress.tell,
            warn=progress.warn,
        )
    finish(pack, out, json)
    if not json:
        print(f"try: {_program()} run {out} {_shown(digits / 'samples' / 'digit_7.png')}")
        print(f"on a phone of this network: {_program()} serve {out} --host 0.0.0.0")


def _program() -> str:
    """How the person called this program: make demo runs it from a virtual environment that is not activated."""
    called = Path(sys.argv[0])
    return "edgepack" if called.parent == Path() or which("edgepack") == str(called.resolve()) else str(_shown(called))


def _shown(path: Path) -> Path:
    """Relative to here where that is shorter to read."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
