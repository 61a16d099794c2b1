"""What the README says about cost, measured: CPU-seconds (user + system, children included), never wall time.

make bench
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

# The bars of the project: start-up (5 runs, the median), and the whole demo without installation.
START_UP_SECONDS, DEMO_SECONDS = 0.3, 90.0
RUNS = 5
HELP = "import sys; sys.argv = ['edgepack', '--help']; from edgepack.cli import main; main()"


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command and everything it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def median(command: list[str]) -> float:
    """Middle of RUNS runs."""
    return sorted(cpu_seconds(command) for _ in range(RUNS))[RUNS // 2]


def main() -> int:
    """Print the figures as JSON; exit code 1 when one is above its bar."""
    with tempfile.TemporaryDirectory() as folder:
        demo = [sys.executable, "-c", "from edgepack.cli import main; main()", "demo", "-o", str(Path(folder) / "pack")]
        figures = {
            "import edgepack": (median([sys.executable, "-c", "import edgepack"]), START_UP_SECONDS),
            "edgepack --help": (median([sys.executable, "-c", HELP]), START_UP_SECONDS),
            "edgepack demo": (cpu_seconds(demo), DEMO_SECONDS),
        }
    rows = [{"what": what, "cpu_seconds": round(cost, 2), "bar": bar, "ok": cost <= bar} for what, (cost, bar) in figures.items()]
    print(json.dumps({"machine": platform.machine(), "python": platform.python_version(), "figures": rows}, indent=1))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
