"""The ONNX node suite against both converters.

    python -m tests.conformance.node_suite [--format tflite|coreml|tflite@2.14] [--jobs 2] [--only PATTERN] [--write docs/conformance.md]

Every eligible case, as given and with all inputs but the first as weights, is brought to the hub's canonical form, written, linted, read
back, run, and compared with the case's own outputs. Exit code 1 when one is wrong or crashes, when more than ``MAX_REFUSED`` of the
cases of the listed operators are refused in every form, or when fewer than ``LEAST_PASSED`` of all eligible cases pass in a form.
"""

from __future__ import annotations

import argparse
import fnmatch
import multiprocessing
import queue
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.cases import (
    AS_GIVEN,
    FORMATS,
    LEAST_PASSED,
    MAX_REFUSED,
    OLD,
    WEIGHTS,
    Case,
    Survey,
    committed,
    is_listed,
    survey,
    write_case,
)
from tests.conformance.worker import CRASH, LOG, OUTCOMES, PASS, REFUSED, WORK, WRONG, Job, Result, serve

HERE = Path(__file__).parent
# A case takes 0.1 s and a process 3 s to start, ten times that on a crowded machine; what hangs takes for ever.
SECONDS = 60


@dataclass(frozen=True)
class Record:
    """The outcome of one form of one case in one format."""

    format: str
    case: str
    variant: str
    operator: str
    result: Result


class Worker:
    """A process for one kind of work (a function of a module), started when first needed and again after it died."""

    def __init__(self, work: Callable[[Any], Any], folder: Path) -> None:
        self._work = work
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, job: Any) -> Any:
        """The worker's answer; a process that dies or exceeds its time is a crash of this job."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send(job)
            if not self._pipe.poll(SECONDS):
                self.stop()
                return Result(CRASH, f"no answer in {SECONDS} s")
            return self._pipe.recv()
        except (EOFError, OSError):
            return self._buried()

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._pipe.close()
            self._process.terminate()
            self._process.join(5)
        self._process = None

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(self._work, str(self._folder), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def _buried(self) -> Result:
        self._process.join(5)
        code = self._process.exitcode
        words = (self._folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "")
        self.stop()
        return Result(CRASH, f"the process ended with code {code}: {last[:200]}")


@dataclass(frozen=True)
class Task:
    """One form of one case and the formats it goes to."""

    case: Case
    variant: str
    formats: tuple[str, ...]


def tasks(found: Survey, formats: Sequence[str], names: Iterable[str] | None = None) -> list[Task]:
    """What to run: every eligible case, or those named, in each of its forms."""
    eligible = {name: set(found.eligible(name)) for name in formats}
    chosen = found.cases if names is None else {name: found.cases[name] for name in names}
    listed = [(case, tuple(held for held in formats if name in eligible[held])) for name, case in sorted(chosen.items())]
    return [Task(case, variant, wanted) for case, wanted in listed if wanted for variant in case.variants]


def run(todo: Sequence[Task], jobs: int = 2, progress: bool = False) -> list[Record]:
    """Run tasks in ``jobs`` lanes, each with a process of its own for the hub and for each format."""
    waiting: queue.Queue[Task] = queue.Queue()
    for task in todo:
        waiting.put(task)
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as scratch:
        lanes = [threading.Thread(target=_lane, args=(Path(scratch) / str(index), waiting, records, progress)) for index in range(jobs)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    return sorted(records, key=lambda record: (record.format, record.case, record.variant))


def _lane(folder: Path, waiting: queue.Queue[Task], records: list[Record], progress: bool) -> None:
    folder.mkdir()
    workers = {kind: Worker(work, folder / kind) for kind, work in WORK.items()}
    try:
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            records.extend(_records(task, folder, workers))
            if progress and waiting.qsize() % 100 == 0:
                print(f"{waiting.qsize()} left", file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.stop()


def _records(task: Task, folder: Path, workers: dict[str, Worker]) -> list[Record]:
    case = task.case
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        feed = write_case(case, task.variant, Path(scratch))
        job = Job(case.name, scratch, case.rtol, case.atol, feed, case.outputs)
        hub = workers["hub"](job)
        results = {name: workers[name](job) if hub.outcome == PASS else hub for name in task.formats}
    return [Record(name, case.name, task.variant, case.operator, result) for name, result in results.items()]


def failures(records: Iterable[Record]) -> list[Record]:
    """The records that keep a release from shipping."""
    return [record for record in records if record.result.outcome in (WRONG, CRASH)]


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a case in one format, all its forms together: the worst of them, but a pass where others are only refused."""

    format: str
    case: str
    operator: str
    outcome: str
    reason: str


def by_case(records: Iterable[Record]) -> list[CaseOutcome]:
    """One outcome a case and format: wrong or crash when a form is, pass when a form passes, refused when no form does."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.format, record.case), []).append(record)
    worst = [max(group, key=lambda record: _GRAVITY.index(record.result.outcome)) for group in groups.values()]
    return [CaseOutcome(held.format, held.case, held.operator, held.result.outcome, held.result.reason) for held in worst]


_GRAVITY = (REFUSED, PASS, CRASH, WRONG)


def listed_counts(records: Iterable[Record], format_name: str) -> Counter[str]:
    """Outcome -> cases of the listed operators in one format."""
    return Counter(held.outcome for held in by_case(records) if held.format == format_name and is_listed(held.operator))


def refused_part(counts: Counter[str]) -> float:
    """The part of cases that is refused in every form."""
    return counts[REFUSED] / max(sum(counts.values()), 1)


def in_form(records: Iterable[Record], format_name: str, form: str) -> Counter[str]:
    """Outcome -> cases of a format in one form; a case of one input is the same in both."""
    held = {(record.case, record.variant): record.result.outcome for record in records if record.format == format_name}
    return Counter(held.get((case, form), held.get((case, AS_GIVEN))) for case in {case for case, _ in held})


def passed_part(counts: Counter[str]) -> float:
    """The part of cases that passes."""
    return counts[PASS] / max(sum(counts.values()), 1)


def below_bar(records: Sequence[Record], formats: Sequence[str]) -> list[str]:
    """Each format and form of which too few cases pass, in one line."""
    told = []
    for name in formats:
        for form, least in LEAST_PASSED.get(name, {}).items():
            part = passed_part(in_form(records, name, form))
            told += [f"{name}, {TITLES[form]}: {part:.1%} pass, {least:.0%} needed"] if part < least else []
    return told


# What a form is called.
TITLES = {WEIGHTS: "all inputs but the first as weights", AS_GIVEN: "as given"}


def check_lists(found: Survey, formats: Sequence[str]) -> list[str]:
    """Where the committed eligible lists and the installed onnx disagree, in one line a format."""
    told = []
    for name in formats:
        listed, held = set(committed(HERE, name)), set(found.eligible(name))
        if listed != held:
            told.append(f"eligible_{name}.txt: {len(held - listed)} cases are new, {len(listed - held)} are gone; run with --list")
    return told


def write_lists(found: Survey) -> None:
    """Write the eligible lists anew."""
    for name in FORMATS:
        (HERE / f"eligible_{name}.txt").write_text("\n".join(found.eligible(name)) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite as the command line says; the exit code."""
    from tests.conformance.report import report

    options = _parser().parse_args(arguments)
    found = survey()
    if options.list:
        write_lists(found)
        return 0
    formats = [options.format] if options.format else list(FORMATS)
    stale = check_lists(found, [name for name in formats if name in FORMATS])
    names = fnmatch.filter(found.cases, options.only) if options.only else None
    records = run(tasks(found, formats, names), options.jobs, progress=True)
    for record in failures(records):
        print(f"{record.result.outcome} {record.format} {record.case} ({record.variant}): {record.result.reason}")
    for name in formats:
        counts = Counter(record.result.outcome for record in records if record.format == name)
        print(f"{name}, runs: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES))
        listed = listed_counts(records, name)
        told = ", ".join(f"{listed[outcome]} {outcome}" for outcome in OUTCOMES)
        print(f"{name}, cases of the listed operators: {told} ({refused_part(listed):.1%} refused, at most {MAX_REFUSED:.0%})")
        for form, least in LEAST_PASSED.get(name, {}).items():
            print(f"{name}, {TITLES[form]}: {passed_part(in_form(records, name, form)):.1%} of cases pass, at least {least:.0%}")
    print(*stale, sep="\n", end="\n" if stale else "")
    if options.write:
        options.write.write_text(report(found, records, formats), encoding="utf-8")
    too_many = names is None and any(refused_part(listed_counts(records, name)) > MAX_REFUSED for name in formats)
    too_few = names is None and bool(below_bar(records, formats))
    return 1 if failures(records) or stale or too_many or too_few else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.node_suite", description="The ONNX node suite against our converters."
    )
    parser.add_argument("--format", choices=(*FORMATS, OLD), help="one format only")
    parser.add_argument("--jobs", type=int, default=2, help="lanes that run side by side (2)")
    parser.add_argument("--only", help="cases whose name matches this pattern (test_conv*)")
    parser.add_argument("--write", type=Path, help="write the report to this Markdown file")
    parser.add_argument("--list", action="store_true", help="write the lists of eligible cases anew and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
