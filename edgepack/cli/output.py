"""What a person sees: one-line failures, progress, tables; and the same as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepack.errors import EdgepackError
from edgepack.text import one_plain_line

if TYPE_CHECKING:
    from rich.table import Table

    from edgepack.converter.step import Step
    from edgepack.pack.manifest import ArtifactRecord, Estimate, Pack


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON."""
    return "--json" in arguments


def fail(error: EdgepackError, as_json: bool) -> None:
    """``FAIL <step>: <cause> -> next: <hint>`` on standard error, or the same as JSON on standard output."""
    step = getattr(error, "step", "")
    if as_json:
        emit_json({"ok": False, "step": step, "cause": error.cause, "hint": error.hint, "exit_code": error.exit_code})
    else:
        where = f"{one_plain_line(step)}: " if step else ""
        print(f"FAIL {where}{one_plain_line(error.cause)} -> next: {one_plain_line(error.hint)}", file=sys.stderr)


def escaped(text: str) -> str:
    """Text of a pack or a model file as itself where rich would read markup in it."""
    from rich.markup import escape

    # A backslash at the end would escape the markup that follows.
    return escape(f"{text} " if text.endswith("\\") else text)


def emit_json(data: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(data, indent=1))


class Progress:
    """Shows steps as they run: a live bar for each on a terminal, a line a step elsewhere, nothing when ``quiet``."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=self._console, transient=True, disable=quiet or not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, step: Step, index: int, total: int) -> None:
        """A step begins."""
        self._tasks[step.name] = self._bar.add_task(escaped(f"[{index + 1}/{total}] {step.name}"), total=None)

    def reused(self, step: Step, index: int, total: int) -> None:
        """The store holds a step's result, perhaps since another build that ran beside this one has made it."""
        if step.name in self._tasks:
            self._bar.remove_task(self._tasks.pop(step.name))
        self._console.print(f"  [dim]held[/] {escaped(step.name)}", highlight=False)

    def advanced(self, step: Step, done: int, total: int) -> None:
        """Work inside a step."""
        self._bar.update(self._tasks[step.name], completed=done, total=total)

    def finished(self, step: Step, seconds: float) -> None:
        """A step ended well."""
        self._bar.remove_task(self._tasks.pop(step.name))
        self._console.print(f"  [green]ok[/] {escaped(step.name)}", highlight=False)

    def warn(self, words: str) -> None:
        """Something to know that ends nothing."""
        self._console.print(f"  [yellow]note[/] {escaped(words)}", highlight=False, soft_wrap=True)

    def tell(self, what: str, done: int, total: int) -> None:
        """Something that is no step goes on: timing, reading the store."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(escaped(what), total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)


def show_pack(pack: Pack, folder: str) -> None:
    """A table of the artifacts and every failure, on standard output."""
    from rich.console import Console

    console = Console()
    console.print(artifact_table(pack))
    for artifact in pack.artifacts:
        for failure in artifact.failures:
            console.print(f"[bold red]GATE[/] {escaped(failure)}", highlight=False)
    console.print(legend(pack), highlight=False)
    console.print(f"pack: {folder}   report: {folder}/report.html", highlight=False, soft_wrap=True, markup=False)


def artifact_table(pack: Pack) -> Table:
    """One row an artifact, 95 % intervals and truth kinds under their numbers; fits 80 columns."""
    from rich.table import Table

    title = f"{escaped(pack.student.name)}: {pack.student.parameters:,} weights"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("artifact", "size", "parity", f"{_metric(pack)}, %", "drop, pts", "p50", "x fp32", "gate"):
        table.add_column(heading, justify="left" if heading in ("artifact", "gate") else "right", no_wrap=True)
    for artifact in pack.artifacts:
        table.add_row(*_row(artifact))
    return table


def _metric(pack: Pack) -> str:
    """What the accuracies of a pack measure: one evaluation set has one answer."""
    return next((artifact.accuracy.metric for artifact in pack.artifacts if artifact.accuracy), "top-1")


def _row(artifact: ArtifactRecord) -> tuple[str, ...]:
    latency, accuracy = artifact.latency, artifact.accuracy
    worst = min(artifact.parity.outputs, key=lambda output: float("inf") if output.sqnr_db is None else output.sqnr_db)
    parity = "exact" if worst.sqnr_db is None else f"{worst.sqnr_db:.1f} dB"
    return (
        escaped(f"{artifact.target}\n  {artifact.scheme}"),
        size_text(artifact.file.bytes),
        f"{parity}\n[dim]{artifact.parity.truth}[/]",
        over_interval(accuracy.value, 100, 1) if accuracy else "-",
        over_interval(accuracy.drop, 100, 1) if accuracy else "-",
        f"{latency.p50.value:.3f} ms\n[dim]{latency.truth}[/]" if latency and latency.p50 else "-",
        over_interval(latency.ratio_to_fp32, 1, 2) if latency and latency.ratio_to_fp32 else "-",
        "[red]FAIL[/]" if artifact.failures else "[green]pass[/]",
    )


_TRUTH = {
    "host": "host: the real runtime on this machine, which is not the target",
    "simulated": "simulated: our MIL interpreter in place of Core ML, which runs only on Apple systems",
}


def legend(pack: Pack) -> str:
    """What the truth kinds of the table mean, why a time or an accuracy is missing, and where int8 does not pay."""
    from edgepack.pack.manifest import NOTHING_MEASURED

    kinds = dict.fromkeys(artifact.parity.truth for artifact in pack.artifacts)
    missing = {artifact.target: artifact.no_latency for artifact in pack.artifacts if artifact.no_latency}
    lines = [_TRUTH[kind] for kind in kinds if kind in _TRUTH]
    lines += [f"{target}: no latency ({reason})" for target, reason in missing.items()]
    lines += dict.fromkeys(note for artifact in pack.artifacts for note in artifact.notes if note == NOTHING_MEASURED)
    lines += [
        f"{artifact.target} {artifact.scheme}: {line}"
        for artifact in pack.artifacts
        if artifact.latency
        for line in artifact.latency.warnings
    ]
    return "\n".join(f"[dim]{escaped(line)}[/]" for line in lines)


def over_interval(estimate: Estimate, factor: float, digits: int) -> str:
    """A value above its 95 % interval."""
    value, low, high = (f"{factor * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value}\n[dim]{low}..{high}[/]"


def size_text(size: int) -> str:
    """Bytes as kB or MB of 1000."""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
