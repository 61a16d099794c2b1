"""Faults of every kind, injected into builds; each is judged by what it leaves and by the undisturbed build after it.

    python -m tests.faults.run [--faults 220] [--seed 1] [--jobs 2] [--family WORDS] [--level L] [--only ID] [--keep FOLDER] [--json]

Fault ID of seed S is the same wherever it is run. Exit code 1 when an artifact is wrong, finished work was lost, something hung, or a
failure was not reported as documented; each such fault is printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.faults.families import FAMILIES, Family
from tests.faults.world import REAL, SAMPLE, WIDE, Scene, SkipError, Verdict, World

LEVELS = (SAMPLE, REAL, WIDE)
_COLUMNS = ("wrong", "lost", "hung", "badly_reported")


@dataclass(frozen=True)
class Fault:
    """One fault: the ``index``-th of its family at a level."""

    family: Family
    level: str
    index: int

    @property
    def id(self) -> str:
        """Its name, by which it is drawn."""
        return f"{self.family.name.replace(' ', '-')}.{self.level}.{self.index}"

    def inject(self, world: World, seed: int, folder: Path) -> Verdict:
        """Bring it about and judge it."""
        scene = Scene(world, self.level, folder, random.Random(f"{seed} {self.id}"), self.index)
        with scene.closing():
            try:
                self.family.act(scene)
            except SkipError as reason:
                scene.verdict.skipped = str(reason)
            except Exception:
                scene.verdict.badly_reported.append(f"the harness failed: {traceback.format_exc()}")
        return scene.verdict


def faults(count: int) -> list[Fault]:
    """Faults of all families and levels in their proportions, at least ``count``."""
    full = sum(sum(family.counts.values()) for family in FAMILIES.values())
    share = count / full
    return [
        Fault(family, level, index)
        for family in FAMILIES.values()
        for level in LEVELS
        for index in range(max(1, -int(-family.counts[level] * share // 1)) if level in family.counts else 0)
    ]


def judged(chosen: Sequence[Fault], seed: int, jobs: int, folder: Path, keep: bool = False) -> Iterator[tuple[Fault, Verdict, float]]:
    """Every fault with its verdict and its seconds, as they end."""
    world = World(folder)

    def one(fault: Fault) -> tuple[Fault, Verdict, float]:
        begun, place = time.monotonic(), folder / fault.id
        verdict = fault.inject(world, seed, place)
        if not (keep and not verdict.is_good):
            shutil.rmtree(place, ignore_errors=True)
        return fault, verdict, time.monotonic() - begun

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, fault) for fault in chosen]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            for future in waiting:
                future.cancel()
            raise


def main() -> int:
    """Inject, judge, print."""
    asked = _arguments()
    chosen = [
        fault
        for fault in faults(asked.faults)
        if (not asked.only or fault.id in asked.only) and asked.family in fault.family.name and asked.level in ("", fault.level)
    ]
    if not chosen:
        print(f"there is no fault {asked.only}", file=sys.stderr)
        return 2
    folder = Path(asked.keep or tempfile.mkdtemp(prefix="edgepack-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    results: list[tuple[Fault, Verdict, float]] = []
    begun = time.monotonic()
    try:
        for fault, verdict, seconds in judged(chosen, asked.seed, asked.jobs, folder, bool(asked.keep)):
            results.append((fault, verdict, seconds))
            _tell(fault, verdict, seconds, asked, len(results), len(chosen))
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    table = tabled(results)
    print(
        json.dumps({"seed": asked.seed, "seconds": round(time.monotonic() - begun), "families": table}, indent=1)
        if asked.json
        else _shown(table)
    )
    return int(any(table["total"][column] for column in _COLUMNS))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=220)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--family", default="", help="only families with these words in their name")
    parser.add_argument("--level", default="", help=f"only faults at this level: {', '.join(LEVELS)}")
    parser.add_argument("--only", action="append", metavar="ID", help="only this fault; repeat")
    parser.add_argument("--keep", metavar="FOLDER", help="work there, and keep what is found wrong")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _tell(fault: Fault, verdict: Verdict, seconds: float, asked: argparse.Namespace, done: int, total: int) -> None:
    said = f"skipped: {verdict.skipped}" if verdict.skipped else "good" if verdict.is_good else "BAD"
    print(f"[{done}/{total}] {fault.id}: {said} ({seconds:.1f} s) {verdict.reported}", file=sys.stderr, flush=True)
    if verdict.is_good:
        return
    for column in _COLUMNS:
        for line in getattr(verdict, column):
            print(f"    {column}: {line}", file=sys.stderr)
    again = f"python -m tests.faults.run --faults {asked.faults} --seed {asked.seed} --only {fault.id}"
    print(f"    again: {again}", file=sys.stderr, flush=True)


def tabled(results: Sequence[tuple[Fault, Verdict, float]]) -> dict[str, dict[str, int]]:
    """Faults with findings of each kind, by family and in total; skipped ones are not counted as injected."""
    names = [name for name in FAMILIES if any(fault.family.name == name for fault, _, _ in results)]
    rows = {name: _row([verdict for fault, verdict, _ in results if fault.family.name == name]) for name in names}
    return {**rows, "total": _row([verdict for _, verdict, _ in results])}


def _row(held: Sequence[Verdict]) -> dict[str, int]:
    injected = [verdict for verdict in held if not verdict.skipped]
    found = {column: sum(bool(getattr(verdict, column)) for verdict in injected) for column in _COLUMNS}
    withstood = sum(verdict.withstood for verdict in injected)
    return {"faults": len(injected), **found, "withstood": withstood, "skipped": len(held) - len(injected)}


def _shown(table: dict[str, dict[str, int]]) -> str:
    headings = list(table["total"])
    lines = [f"{'family':38}" + "".join(f"{heading.replace('_', ' '):>16}" for heading in headings)]
    return "\n".join(lines + [f"{name:38}" + "".join(f"{row[heading]:>16}" for heading in headings) for name, row in table.items()])


if __name__ == "__main__":
    sys.exit(main())
