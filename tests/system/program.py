"""The installed program as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "demo_app" / "students" / "digits"


def edgepack(*arguments: str | Path, cwd: Path, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``edgepack`` in ``cwd``; its output as text."""
    command = [sys.executable, "-c", "from edgepack.cli import main; main()", *map(str, arguments)]
    held = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **environment}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, env=held, check=False)


def failure(ended: subprocess.CompletedProcess[str]) -> str:
    """The one FAIL line of a run that failed; asserts that it is one and no traceback came with it."""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("FAIL")]
    assert len(lines) == 1, ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout
    assert " -> next: " in lines[0]
    return lines[0]
