"""The architecture zoo through both converters.

    python -m tests.zoo.run [--jobs 2] [--only PATTERN] [--keep FOLDER] [--write docs/zoo.md] [--minimum-os iOS18]

Every architecture is captured as a student is, brought to the hub's canonical form, written as TFLite in fp32 and as Core ML in fp32 and
fp16, read back, run on two inputs (the one it was captured on, and another), and compared with a float64 run of what was captured. Exit
code 1 when an architecture is refused, wrong or crashes as a hub or in a format, or when more than three cannot be captured.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.conformance.node_suite import Worker
from tests.conformance.worker import PASS, Result
from tests.zoo.worker import Hub, Job, Outcome, capture, coreml, judged, prepare, tflite

# Title -> (kind of process, scheme).
FORMATS = {"TFLite fp32": ("tflite", "fp32"), "Core ML fp32": ("coreml", "fp32"), "Core ML fp16": ("coreml", "fp16")}
_WORK = {"capture": capture, "hub": prepare, "tflite": tflite, "coreml": coreml}
# As many may be beyond torch.onnx.export.
MOST_NOT_CAPTURED = 3


@dataclass(frozen=True)
class Row:
    """What became of one architecture; ``results`` by format, empty where the hub was not reached.

    Attributes:
        hub: what was made of it as a hub, or why it was not captured. is_captured: whether torch.onnx.export gave a model; what the hub
            does with one is edgepack's own.
    """

    name: str
    hub: Result
    results: dict[str, Result] = field(default_factory=dict)
    is_captured: bool = True

    @property
    def passes(self) -> bool:
        """Whether it became a hub and every format is within its bar."""
        return self.hub.outcome == PASS and all(result.outcome == PASS for result in self.results.values())


def run(names: Sequence[str], jobs: int, keep: Path | None = None, progress: bool = False, minimum_os: str = "") -> list[Row]:
    """Try architectures in ``jobs`` lanes, each with a process of its own for each kind of work.

    With a ``minimum_os`` ("iOS18") only as Core ML, for that system.
    """
    waiting: queue.Queue[str] = queue.Queue()
    for name in names:
        waiting.put(name)
    rows: dict[str, Row] = {}
    with ExitStack() as held:
        scratch = keep or Path(held.enter_context(tempfile.TemporaryDirectory()))
        lanes = [threading.Thread(target=_lane, args=(scratch, index, waiting, rows, progress, minimum_os)) for index in range(jobs)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    return [rows[name] for name in names]


def _lane(scratch: Path, index: int, waiting: queue.Queue[str], rows: dict[str, Row], progress: bool, minimum_os: str) -> None:
    workers = {kind: Worker(work, scratch / f"lane{index}" / kind) for kind, work in _WORK.items()}
    try:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            folder = scratch / name.replace(" ", "_")
            folder.mkdir(exist_ok=True)
            rows[name] = _row(Job(name, str(folder), minimum_os=minimum_os), workers)
            if progress:
                print(_line(rows[name]), file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.stop()


def _row(job: Job, workers: dict[str, Worker]) -> Row:
    captured = workers["capture"](job)
    if captured.outcome != PASS:
        return Row(job.name, captured, is_captured=False)
    hub = workers["hub"](job)
    if not isinstance(hub, Hub) or hub.sqnr_db is None:
        return Row(job.name, hub)
    results = {}
    for title, (kind, scheme) in FORMATS.items():
        if kind == "coreml" or not job.minimum_os:
            results[title] = judged(workers[kind](replace(job, scheme=scheme)), scheme, hub.sqnr_db)
    return Row(job.name, hub, results)


def _line(row: Row) -> str:
    if row.hub.outcome != PASS:
        return f"{row.name}: {row.hub.outcome}: {row.hub.reason}"
    assert isinstance(row.hub, Hub)
    fused = max((held.attentions for held in row.results.values() if isinstance(held, Outcome)), default=0)
    cells = [f"{name} {_cell(held)}" for name, held in row.results.items()]
    return "; ".join([f"{row.name}: onnxruntime {row.hub.sqnr_db:.1f}", *cells, *([f"attentions {fused}"] if fused else [])])


def _cell(result: Result) -> str:
    if result.outcome == PASS and isinstance(result, Outcome):
        return f"{result.sqnr_db:.1f}"
    return f"{result.outcome}: {result.reason}"


def table(rows: Iterable[Row]) -> str:
    """The document: a row an architecture, SQNR in dB, or why not."""
    held = list(rows)
    captured = [row for row in held if row.is_captured]
    passed = sum(row.passes for row in captured)
    lines = [
        "# The architecture zoo",
        "",
        "Generated by `make zoo`; do not edit.",
        "",
        f"{len(held)} architectures with small random weights, from transformers' model classes and written by hand from their papers",
        "(`tests/zoo`). Each is captured as a student is, written, read back and run on two inputs: the captured one, and another.",
        "Figures are the lowest SQNR in dB over outputs and both inputs against a float64 run of what was captured. The bar: fp32 no",
        "more than 3 dB below onnxruntime's own, or 110 dB; fp16 finite and 40 dB. TFLite runs in LiteRT, Core ML in our interpreter.",
        "",
        f"{len(captured)} captured, {passed} within every bar.",
        "",
        "| architecture | operators | onnxruntime fp32 | " + " | ".join(FORMATS) + " |",
        "|---|---:|---:|" + "---:|" * len(FORMATS),
    ]
    for row in held:
        if isinstance(row.hub, Hub) and row.results:
            cells = " | ".join(_cell(row.results[name]) for name in FORMATS)
            lines.append(f"| {row.name} | {len(row.hub.operators)} | {row.hub.sqnr_db:.1f} | {cells} |")
        else:
            lines.append(f"| {row.name} | | {row.hub.outcome}: {row.hub.reason} |" + " |" * len(FORMATS))
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="*", help="shell pattern of names; several divided by commas")
    parser.add_argument("--keep", type=Path, help="folder where models and artifacts stay")
    parser.add_argument("--write", type=Path, help="where the table goes")
    parser.add_argument("--minimum-os", default="", help="only Core ML, for this system (iOS18); no table is written")
    options = parser.parse_args(arguments)
    if options.minimum_os and options.write is not None:
        parser.error("the table is of every format: leave --minimum-os out")
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    from tests.zoo.registry import names

    chosen = [name for name in names() if any(fnmatch.fnmatch(name, pattern) for pattern in options.only.split(","))]
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    rows = run(chosen, options.jobs, options.keep, progress=True, minimum_os=options.minimum_os)
    if options.write is not None:
        options.write.write_text(table(rows))
    lost = [row for row in rows if not row.is_captured]
    failed = [row for row in rows if row.is_captured and not row.passes]
    print(f"{len(rows)} architectures: {len(lost)} not captured, {len(failed)} outside a bar, {len(rows) - len(lost) - len(failed)} pass")
    return 1 if failed or len(lost) > MOST_NOT_CAPTURED else 0


if __name__ == "__main__":
    sys.exit(main())
