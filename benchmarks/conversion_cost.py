"""What it costs to write a student's hub in each format: processor seconds and peak memory, capture excluded.

    python benchmarks/conversion_cost.py demo_app/students/minilm/student.py:student

Each format is written in a process of its own, with one thread, as a build does it: imports, the hub read, the artifact written and linted
from disk. Peak memory is the process's largest resident set, which Linux tells.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgepack.backends.registry import ARTIFACT_FILES
from edgepack.backends.steps import write
from edgepack.hub.steps import canonicalize
from edgepack.student.steps import capture
from edgepack.targets import load_target

TARGETS = ("android", "ios", "raspberry-pi-5")


def prepared(student: str, place: Path) -> None:
    """The hub and what an artifact is written from."""
    for folder in ("capture", "hub"):
        (place / folder).mkdir()
    capture(student, place / "capture", lambda *_: None)
    canonicalize(place / "capture" / "captured.onnx", place / "capture" / "example.npz", place / "hub", lambda *_: None)


def written(target: str, place: Path) -> str:
    """Write for one target in this process; a row of the table."""
    asked = load_target(target)
    out = place / target
    out.mkdir()
    sources = (place / "hub" / "model.onnx", place / "capture" / "student.json", place / "capture" / "example.npz")
    write(*sources, asked.backend, asked.minimum_os, "fp32", out, lambda *_: None)
    return f"| {ARTIFACT_FILES[asked.backend]} | {time.process_time():.1f} | {_peak() / 2**20:.0f} |"


def _peak() -> int:
    """Bytes; of this program alone, where ru_maxrss would count the one that started it too (proc(5), VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", help="as edgepack build takes it")
    parser.add_argument("--one", nargs=2, metavar=("TARGET", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(written(arguments.one[0], Path(arguments.one[1])))
        return
    with tempfile.TemporaryDirectory() as scratch:
        prepared(arguments.student, Path(scratch))
        weights = (Path(scratch) / "hub" / "model.onnx").stat().st_size / 1e6
        print(f"hub {weights:.0f} MB\n\n| file | CPU s | peak MiB |\n|---|---|---|")
        for target in TARGETS:
            command = [sys.executable, __file__, arguments.student, "--one", target, scratch]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            print(subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
