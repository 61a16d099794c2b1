"""Random small graphs of supported operators, through every backend, against float64 and onnxruntime.

    python -m tests.fuzz.run --graphs 2000 --seed 1 --jobs 2 [--scheme fp32|w8a8] [--format tflite|coreml|ort] [--json] [--keep FOLDER]
    python -m tests.fuzz.run --replay FOLDER/17-tflite --format tflite

Graph number n of seed S is the same wherever it is drawn. Exit code 1 when a result is wrong or something crashes: each such graph is
shrunk and kept as model.onnx with its inputs, and the command that repeats it is printed. ``tests/fuzz/oracle.py`` says what is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import resource
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from edgepack.arrays import load_arrays, save_arrays
from tests.conformance.node_suite import Worker
from tests.conformance.report import general
from tests.conformance.worker import CRASH, OUTCOMES, PASS, REFUSED, WRONG, Result
from tests.fuzz.builder import Graph
from tests.fuzz.shrink import shrink
from tests.fuzz.worker import DISCARDED, DISPUTED, FORMATS, SCHEMES, WORK, Job, Prepared, Trial, prepare

# Graphs that onnxruntime or float64 cannot judge; more of them, and the fuzzer looks away too often.
MAX_DISCARDED = 0.05


@dataclass(frozen=True)
class Record:
    """What became of one graph: at the hub, and in each format it went to."""

    number: int
    prepared: Prepared = field(repr=False)
    results: dict[str, Result]

    def failures(self) -> dict[str, Result]:
        """The formats in which the graph is wrong or crashes."""
        return {name: result for name, result in self.results.items() if result.outcome in (WRONG, CRASH)}


class Lane:
    """One process for the hub and one for each format."""

    def __init__(self, folder: Path, formats: Sequence[str], scheme: str) -> None:
        self._folder, self._scheme = folder, scheme
        self._hub = Worker(prepare, folder / "hub")
        self._formats = {name: Worker(WORK[name], folder / name) for name in formats}

    def __call__(self, number: int, seed: int) -> Record:
        """Graph ``number`` of a seed."""
        return self._record(number, Job("", self._scheme, (seed, number)), tuple(self._formats))

    def given(self, graph: Graph, formats: Sequence[str]) -> Record:
        """A graph as it is."""
        return self._record(-1, Job("", self._scheme, (), graph.model.SerializeToString(), graph.feed), formats)

    def _record(self, number: int, job: Job, formats: Sequence[str]) -> Record:
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            prepared = self._hub(replace(job, folder=scratch))
            # A process that died or took too long answers with a plain result.
            prepared = prepared if isinstance(prepared, Prepared) else Prepared(prepared, job)
            if prepared.result.outcome != PASS:
                return Record(number, prepared, dict.fromkeys(formats, prepared.result))
            return Record(number, prepared, {name: self._formats[name](Trial(prepared.job, prepared.expected[name])) for name in formats})

    def smallest(self, record: Record, format_name: str) -> Graph:
        """The smallest part of a failing graph that still fails so in a format."""
        outcome = record.results[format_name].outcome

        def fails(part: Graph) -> bool:
            return self.given(part, [format_name]).results[format_name].outcome == outcome

        whole = Graph(onnx.load_from_string(record.prepared.job.model), record.prepared.job.feed)
        return shrink(whole, fails)

    def stop(self) -> None:
        """End the processes."""
        for worker in (self._hub, *self._formats.values()):
            worker.stop()


@dataclass(frozen=True)
class Campaign:
    """What to draw and where it goes."""

    graphs: int
    seed: int
    formats: tuple[str, ...] = FORMATS
    scheme: str = "fp32"
    keep: Path | None = None


def run(campaign: Campaign, jobs: int = 1, progress: bool = False) -> list[Record]:
    """Draw and try every graph, in ``jobs`` lanes; failures are shrunk and kept where the campaign says."""
    waiting: queue.Queue[int] = queue.Queue()
    for number in range(campaign.graphs):
        waiting.put(number)
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(index) for index in range(jobs)]
        lanes = [threading.Thread(target=_lane, args=(folder, campaign, waiting, records, progress)) for folder in folders]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    return sorted(records, key=lambda record: record.number)


def _lane(folder: Path, campaign: Campaign, waiting: queue.Queue[int], records: list[Record], progress: bool) -> None:
    folder.mkdir()
    lane = Lane(folder, campaign.formats, campaign.scheme)
    try:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            record = lane(number, campaign.seed)
            records.append(record)
            if campaign.keep is not None:
                _keep(lane, record, campaign)
            if progress and waiting.qsize() % 200 == 0:
                print(f"{waiting.qsize()} left", file=sys.stderr, flush=True)
    finally:
        lane.stop()


def _keep(lane: Lane, record: Record, campaign: Campaign) -> None:
    assert campaign.keep is not None
    for name, result in record.failures().items():
        if not record.prepared.job.model:
            print(f"{result.outcome} {name} graph {record.number}: {result.reason}", flush=True)
            continue
        graph = lane.smallest(record, name)
        folder = campaign.keep / f"{record.number}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(graph.model, folder / "model.onnx")
        save_arrays(folder / "feed.npz", graph.feed)
        print(f"{result.outcome} {name} graph {record.number} ({', '.join(graph.operators)}): {result.reason}", flush=True)
        print(f"  python -m tests.fuzz.run --replay {folder} --format {name} --scheme {campaign.scheme}", flush=True)


def replay(folder: Path, campaign: Campaign) -> Record:
    """A kept graph once more."""
    graph = Graph(onnx.load(folder / "model.onnx"), load_arrays(folder / "feed.npz"))
    with tempfile.TemporaryDirectory() as scratch:
        lane = Lane(Path(scratch), campaign.formats, campaign.scheme)
        try:
            return lane.given(graph, campaign.formats)
        finally:
            lane.stop()


def failures(records: Iterable[Record]) -> list[str]:
    """One line for each graph that is wrong or crashes, and what keeps a run from counting."""
    return [f"{result.outcome} {name} graph {r.number}: {result.reason}" for r in records for name, result in r.failures().items()]


def summary(records: Sequence[Record], formats: Sequence[str]) -> dict[str, Any]:
    """The figures of a run as JSON data."""
    tried = [record for record in records if record.prepared.result.outcome not in (DISCARDED, DISPUTED)]
    left_out = sum((record.prepared.left_out for record in records), Counter[str]())
    added = Counter(operator for record in tried for operator in record.prepared.operators)
    numbers = [held.judged() for record in tried for held in itertools.islice(record.prepared.expected.values(), 1)]
    return {
        "graphs": len(records),
        "distinct": len({record.prepared.job.model for record in records}),
        "discarded": _reasons(records, DISCARDED),
        "disputed": {str(record.number): record.prepared.result.reason for record in records if _is(record, DISPUTED)},
        "nodes_left_out": f"{left_out.total()} of {added.total() + left_out.total()}",
        "judged_to_a_thousandth": f"{sum(sharp for sharp, _ in numbers) / max(sum(size for _, size in numbers), 1):.1%}",
        "formats": {name: _format_summary(tried, name) for name in formats},
    }


def _is(record: Record, outcome: str) -> bool:
    return record.prepared.result.outcome == outcome


def _reasons(records: Iterable[Record], outcome: str) -> dict[str, int]:
    return dict(Counter(general(record.prepared.result.reason) for record in records if _is(record, outcome)).most_common())


def _format_summary(tried: Sequence[Record], name: str) -> dict[str, Any]:
    counts = Counter(record.results[name].outcome for record in tried)
    refusals = Counter(general(record.results[name].reason) for record in tried if record.results[name].outcome == REFUSED)
    # A refusal names the node's operator; that operator is counted, and not those that stood beside it.
    blamed = Counter(reason.split()[0] for reason in refusals.elements())
    passed = Counter(operator for record in tried if record.results[name].outcome == PASS for operator in set(record.prepared.operators))
    operators = {operator: [passed[operator], blamed[operator]] for operator in sorted(passed | blamed)}
    return {**{outcome: counts[outcome] for outcome in OUTCOMES}, "refusals": dict(refusals.most_common()), "passed_and_refused": operators}


def discarded_part(records: Sequence[Record]) -> float:
    """The part of graphs that nothing could judge."""
    return sum(_is(record, DISCARDED) or _is(record, DISPUTED) for record in records) / max(len(records), 1)


def _told(figures: dict[str, Any]) -> Iterable[str]:
    discarded, disputed = sum(figures["discarded"].values()), figures["disputed"]
    yield f"{figures['graphs']} graphs ({figures['distinct']} distinct), {discarded} discarded, {len(disputed)} disputed by the oracles"
    yield f"nodes that onnxruntime refused or that left the range: {figures['nodes_left_out']}"
    yield f"numbers judged to a thousandth of their tensor or better: {figures['judged_to_a_thousandth']}"
    yield from (f"  discarded, {count}: {reason}" for reason, count in figures["discarded"].items())
    yield from (f"  disputed, graph {number}: {reason}" for number, reason in disputed.items())
    for name, held in figures["formats"].items():
        yield f"{name}: " + ", ".join(f"{held[outcome]} {outcome}" for outcome in OUTCOMES)
        yield from (f"  refused, {count}: {reason}" for reason, count in held["refusals"].items())
        counts = (f"{operator} {passed}+{refused}" for operator, (passed, refused) in held["passed_and_refused"].items())
        yield f"  graphs passed + refused for the operator: {', '.join(counts)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the command line says; the exit code."""
    options = _parser().parse_args(arguments)
    formats = (options.format,) if options.format else FORMATS
    keep = options.keep or Path(tempfile.gettempdir()) / "fuzz-failures"
    campaign = Campaign(options.graphs, options.seed, formats, options.scheme, keep)
    if options.replay:
        record = replay(options.replay, campaign)
        print(*(f"{name}: {result.outcome} {result.reason}" for name, result in record.results.items()), sep="\n")
        return 1 if record.failures() else 0
    records = run(campaign, options.jobs, progress=True)
    figures = summary(records, formats)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    figures["cpu_seconds"] = round(sum(held.ru_utime + held.ru_stime for held in usage))
    print(json.dumps(figures, indent=1) if options.json else "\n".join([*_told(figures), f"{figures['cpu_seconds']} CPU-seconds"]))
    return 1 if failures(records) or discarded_part(records) > MAX_DISCARDED else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Random graphs through every backend.")
    parser.add_argument("--graphs", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--seed", type=int, default=1, help="which (1)")
    parser.add_argument("--jobs", type=int, default=2, help="lanes that run side by side (2)")
    parser.add_argument("--scheme", choices=SCHEMES, default="fp32", help="fp32, or w8a8 calibrated on random samples")
    parser.add_argument("--format", choices=WORK, help="one format only")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--keep", type=Path, help="where failing graphs go (a folder beside temporary files)")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="try a kept graph once more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
