"""Run Apple's operator tests on the MIL interpreter: ``python -m tests.conformance_mil.apple``.

The tests are those inside the installed coremltools wheel. Each file runs in a child process with a time limit, since coremltools'
converters and a test's own torch may take any amount of time. The exit code is 1 when the interpreter is wrong
somewhere or below the bar, 2 when nothing could be run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .operators import emitted
from .outcomes import Outcome, Tally, read
from .report import markdown, meets_bar, table

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "conformance-mil.md"
# Cases of a file unless --full: every test function of every file gets its turn (plugin.sample).
DEFAULT_SAMPLE = 60
# Seconds a file may take, on a machine that does other work as well. On one core 60 cases take 8 to 25, a third of it imports, and those of
# iOS18/test_tensor_transformation.py, which compare dozens of packages each, 100.
TIME_LIMIT = 900
# A file with all its cases: up to 4,000, a tenth of a second each.
FULL_TIME_LIMIT = 5400
# What Apple's tests import beside coremltools, and what is lost without it.
_NEEDED = {
    "pytest": "nothing can run",
    "torch": "tests that compute their expected values with torch",
    "scipy": "tests of erf, gelu and pools",
}


@dataclass(frozen=True)
class Limits:
    """Cases of a file (0: all), and the seconds it may take."""

    sample: int = DEFAULT_SAMPLE
    seconds: float = TIME_LIMIT


def missing() -> str:
    """Why Apple's tests cannot be run here; empty when they can."""
    absent = [f"{name} is not installed ({loss})" for name, loss in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if not files():
        absent.append("the installed coremltools wheel holds no operator tests")
    return "; ".join(absent)


def files(only: str = "") -> list[Path]:
    """Apple's test files whose "iOSnn/test_name.py" holds ``only``, largest release last."""
    package = importlib.util.find_spec("coremltools")
    folder = Path(package.origin).parent / "converters/mil/mil/ops/tests" if package and package.origin else ROOT / "absent"
    return [path for path in [*sorted(folder.glob("iOS*/test_*.py")), *folder.glob("*_dialect/test_*.py")] if only in label(path)]


def label(path: Path) -> str:
    """A test file as "iOS14/test_pool.py"."""
    return "/".join(path.parts[-2:])


def run_file(path: Path, limits: Limits, only: str = "") -> list[Outcome]:
    """The outcomes of one file's cases; ``only`` is a pytest -k expression. A child that dies or hangs adds an outcome that says so."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes, settings = Path(folder) / "outcomes.jsonl", Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\nfilterwarnings = ignore\n", encoding="utf-8")
        options = ["-c", str(settings), "-p", "tests.conformance_mil.plugin", "-p", "no:cacheprovider", "-p", "no:xdist"]
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--import-mode=importlib", *options, str(path)]
        ended = _run([*command, *(["-k", only] if only else [])], folder, outcomes, limits)
        return [*read(outcomes), *([Outcome(label(path), "the whole file", "harness", ended)] if ended else [])]


def _run(command: Sequence[str], folder: str, outcomes: Path, limits: Limits) -> str:
    """Run a child to its end; why it did not end well, or nothing."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        # Apple's own switches (converters/mil/testing_reqs.py): ML Programs only, in both precisions.
        "PYMIL_TEST_TARGETS": "mlprogram",
        "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
        "EDGEPACK_APPLE_OUTCOMES": str(outcomes),
        "EDGEPACK_APPLE_SAMPLE": str(limits.sample),
    }
    try:
        child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limits.seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limits.seconds:g} s"
    # pytest: 0 all passed, 1 some failed (recorded case by case), 5 none selected.
    if child.returncode in (0, 1, 5):
        return ""
    return f"pytest ended with {child.returncode}: {(child.stderr or child.stdout).strip().splitlines()[-1:]}"


def run_files(paths: Sequence[Path], limits: Limits, jobs: int, only: str = "") -> list[Outcome]:
    """The outcomes of several files, ``jobs`` at a time, in the files' order."""

    def run_one(path: Path) -> list[Outcome]:
        begun = time.monotonic()
        outcomes = run_file(path, limits, only)
        print(f"{label(path)}: {Tally.of(outcomes).counts}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        return outcomes

    with ThreadPoolExecutor(jobs) as pool:
        return [outcome for outcomes in pool.map(run_one, paths) for outcome in outcomes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, write the document if asked, and say by exit code whether the interpreter is wrong."""
    options = _options(arguments)
    cause = missing()
    if cause:
        print(f"SKIPPED conformance_mil: {cause} -> next: pip install -e '.[dev]'", file=sys.stderr)
        return 2
    limits = Limits(0 if options.full else options.sample, options.seconds or (FULL_TIME_LIMIT if options.full else TIME_LIMIT))
    outcomes = run_files(files(options.only), limits, options.jobs, options.k)
    if not outcomes:
        print(
            f"FAIL conformance_mil: no case of Apple's matches '{options.only}' -> next: give a part of iOSnn/test_name.py", file=sys.stderr
        )
        return 2
    used = emitted()
    print(table(outcomes, used))
    if options.write:
        DOCUMENT.write_text(markdown(outcomes, used, importlib.metadata.version("coremltools"), limits.sample), encoding="utf-8")
    return int(not meets_bar(outcomes, used))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance_mil.apple", description="Apple's operator tests on the MIL interpreter"
    )
    parser.add_argument("--jobs", type=int, default=2, help="files at a time (default 2)")
    parser.add_argument("--only", default="", help="files whose iOSnn/test_name.py holds this")
    parser.add_argument("-k", default="", help="cases by a pytest -k expression")
    parser.add_argument("--sample", type=int, default=DEFAULT_SAMPLE, help=f"cases of a file at most (default {DEFAULT_SAMPLE})")
    parser.add_argument("--full", action="store_true", help="all cases")
    parser.add_argument(
        "--seconds", type=float, default=0, help=f"time limit of a file (default {TIME_LIMIT}, with --full {FULL_TIME_LIMIT})"
    )
    parser.add_argument("--write", action="store_true", help="write docs/conformance-mil.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
