"""What a build costs, cold and again, on EfficientNet-Lite0 for three targets in their default schemes: CPU-seconds and peak memory.

make bench-rebuild

16 parity samples, 64 evaluation crops. No timing of artifacts: that is never taken from the store. CPU-seconds are user and system time of
the program and everything it starts; on a machine that does other work beside it they come out higher.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDENT = f"{ROOT / 'demo_app' / 'students' / 'efficientnet_lite0' / 'student.py'}:student"
CROPS = 64
# The bars of the project.
COLD_SECONDS, ONNX_SECONDS, PYTHON_SECONDS, PEAK_BYTES = 150.0, 1.5, 5.0, 2 * 10**9
# Unchanged rebuilds; the median counts.
RUNS = 5
# Steps that look at the student anew in every build: all that may run in an unchanged one.
ALWAYS = {"student"}


@dataclass(frozen=True)
class Figure:
    """One measured number and the most it may be."""

    what: str
    value: float
    bar: float

    @property
    def holds(self) -> bool:
        return self.value <= self.bar


def build(student: str, manifest: Path, folder: Path) -> tuple[float, list[str]]:
    """CPU-seconds of a build, and the names of the steps that ran."""
    program = "from edgepack.cli import main; main()"
    command = [sys.executable, "-c", program, "build", student, "-c", str(manifest), "-o", str(folder / "pack"), "--latency", "none"]
    # As on a user's machine, where compiled modules are kept.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["EDGEPACK_STORE"] = str(folder / "store")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, re.findall(r"^  ok (.+?)\s*$", ended.stderr, re.MULTILINE)


def manifests(folder: Path) -> tuple[Path, Path]:
    """The shipped manifest with fewer crops, and the same for a student that cannot declare its preprocessing."""
    text = (ROOT / "calibration" / "efficientnet_photos.toml").read_text()
    shutil.copytree(ROOT / "calibration" / "efficientnet", folder / "efficientnet")
    limited = text.replace("[evaluation]", f"[evaluation]\nlimit = {CROPS}")
    declared = '\n[preprocessing]\nheight = 224\nwidth = 224\ninterpolation = "bicubic"\nmean = [0.498]\nstd = [0.502]\n'
    paths = folder / "python.toml", folder / "onnx.toml"
    for path, content in zip(paths, (limited, limited + declared), strict=True):
        path.write_text(content)
    return paths


def peak(store: Path) -> tuple[str, int]:
    """(step, bytes) of the step that held the most memory."""
    from edgepack.converter.store import Store

    entries = [entry for entry, _, _ in Store(store, None).entries() if entry is not None]
    most = max(entries, key=lambda entry: entry.cost.peak_bytes)
    return most.step, most.cost.peak_bytes


def warm(student: str, manifest: Path, folder: Path) -> tuple[float, set[str]]:
    """Median CPU-seconds of unchanged rebuilds, and every step that ran in one of them."""
    runs = [build(student, manifest, folder) for _ in range(RUNS)]
    return sorted(spent for spent, _ in runs)[RUNS // 2], {name for _, ran in runs for name in ran}


def figures(folder: Path) -> list[Figure]:
    """All of them, in one run."""
    python, onnx = manifests(folder)
    cold, _ = build(STUDENT, python, folder)
    step, held = peak(folder / "store")
    again, ran = warm(STUDENT, python, folder)
    hub = folder / "student.onnx"
    shutil.copyfile(folder / "pack" / "hub" / "fp32.onnx", hub)
    build(str(hub), onnx, folder)
    onnx_again, onnx_ran = warm(str(hub), onnx, folder)
    return [
        Figure("cold build, CPU-s", cold, COLD_SECONDS),
        Figure(f"peak memory of a step, bytes ({step})", held, PEAK_BYTES),
        Figure("unchanged rebuild of a Python student, CPU-s", again, PYTHON_SECONDS),
        Figure("unchanged rebuild of a Python student, steps but looking at it", len(ran - ALWAYS), 0),
        Figure("unchanged rebuild of an .onnx student, CPU-s", onnx_again, ONNX_SECONDS),
        Figure("unchanged rebuild of an .onnx student, steps", len(onnx_ran), 0),
    ]


def main() -> int:
    """Print the figures as JSON; exit code 1 when one is above its bar."""
    with tempfile.TemporaryDirectory() as scratch:
        found = figures(Path(scratch))
    rows = [{"what": each.what, "value": round(each.value, 2), "bar": each.bar, "ok": each.holds} for each in found]
    print(json.dumps({"figures": rows}, indent=1))
    return 0 if all(each.holds for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
