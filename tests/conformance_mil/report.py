"""The outcomes as a table for a terminal and as docs/conformance-mil.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from .compare import MISPRINTS
from .outcomes import KINDS, Kind, Outcome, Tally, involving

Row = tuple[str, ...]
_HEAD: Row = ("", "pass", "refused", "wrong", "no values", "skipped", "harness")
_OPERATOR_HEAD: Row = ("operator", "with values", "pass", "refused", "wrong", "share")
# The bar of the project.
BAR = 0.97
_TOLD: tuple[Kind, ...] = ("wrong", "refused", "harness", "no_values", "skipped")


def meets_bar(outcomes: Sequence[Outcome], used: Sequence[str]) -> bool:
    """Nothing wrong, and at least ``BAR`` pass: of all cases with expected values, and of those of the operators used. None is too few."""
    every, held = Tally.of(outcomes), Tally.of(involving(outcomes, used))
    return every.compared > 0 and not every.counts["wrong"] and min(every.share, held.share) >= BAR


def table(outcomes: Sequence[Outcome], used: Sequence[str]) -> str:
    """Counts by file, the reasons for all that did not pass, and the verdict."""
    rows = [_HEAD, *_by_file(outcomes), _row("all", outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    return "\n".join([*lines, "", *map(_told, _failures(outcomes)), verdict(outcomes, used)])


def verdict(outcomes: Sequence[Outcome], used: Sequence[str]) -> str:
    """How many of the cases with expected values pass, of all and of those that hold only operators the backend emits."""
    every, held = Tally.of(outcomes), Tally.of(involving(outcomes, used))
    told = [
        f"{tally.counts['pass']} of {tally.compared} cases {whose} pass ({tally.share:.1%}), {tally.counts['refused']} are refused, "
        f"{tally.counts['wrong']} wrong"
        for tally, whose in ((every, "with expected values"), (held, f"of the {len(used)} operators used"))
    ]
    return f"{told[0]}; {told[1]} (the bar is {BAR:.0%} of both, none wrong)"


def markdown(outcomes: Sequence[Outcome], used: Sequence[str], version: str, sample: int) -> str:
    """The document: what was run, by operator, by file, and why cases were refused, skipped or failed."""
    cases = f"at most {sample} cases of a file, every test function in turn, chosen by the hash of their names" if sample else "all cases"
    held = involving(outcomes, used)
    parts = [
        "# Apple's operator tests on the MIL interpreter",
        f"Written by `make conformance-mil`. All files of operator tests inside the coremltools {version} wheel ({cases})\n"
        "run on the interpreter in place of Core ML: each package is saved, read back from disk and run, and every output is compared\n"
        "with Apple's expected values. Where a test predicts and compares by itself, the interpreter predicts.",
        "**Tolerance.** fp32: Apple's own (absolute 1e-4, relative 1e-5, unless the test says otherwise). fp16, where Apple allows\n"
        "0.5 + 5 %: on top of that 2^-11 (half a unit in the last place) of the largest expected magnitude for every value that the\n"
        "package declares as fp16, constants among them, and one for Apple's expectation. The types of the package count, not the\n"
        "test's name. Recurrent operations squash what they sum: there the largest input is the magnitude. Nearly every fp16 case has a\n"
        "twin in fp32 that shows the same meaning without the allowance.",
        "**Operators used** are the MIL operations named in the code of the Core ML backend (`tests/conformance_mil/operators.py`\n"
        "finds them). A case counts when its package holds no other operation, so that the backend could have written it.",
        f"**{verdict(outcomes, used)}.**",
        "## By operator used",
        "A case counts in the row of every operator in its package, and only if the test comes with expected values. Operators\n"
        "without a case are compared with coremltools' `value_inference` or by hand in `tests/mil`, and with ONNX Runtime in\n"
        "`tests/backends/coreml`.",
        _markdown_table(_OPERATOR_HEAD, _by_operator(held, used)),
        "### Refused, of the operators used",
        _reasons(held, "refused"),
        "## By file, all operators",
        _markdown_table(_HEAD, [*_by_file(outcomes), _row("all", outcomes)]),
        "A case has *no values* when its test compares nothing without Core ML, or demands that the prediction fails. *Skipped* is what\n"
        "Apple's tests skip or expect to fail. *Harness* is a test that fails before or beside any comparison.",
        _misprints(),
        *[part for kind in _TOLD for part in (f"### {kind.replace('_', ' ')}", _reasons(outcomes, kind))],
    ]
    return "\n\n".join(parts) + "\n"


def _misprints() -> str:
    """Which expected values are put right before the comparison."""
    told = "; ".join(f"{name} {printed:g} for {meant:g}" for name, held in MISPRINTS.items() for printed, meant in held.items())
    return (
        "**Corrected.** Expected values that Apple's own formula does not give, and that show only at the tolerance of fp32:\n"
        f"{told} (`MISPRINTS` in `tests/conformance_mil/compare.py`)."
    )


def _by_file(outcomes: Sequence[Outcome]) -> list[Row]:
    name: Callable[[Outcome], str] = lambda outcome: outcome.file  # noqa: E731
    return [_row(file, held) for file, held in groupby(sorted(outcomes, key=name), name)]


def _by_operator(outcomes: Sequence[Outcome], used: Sequence[str]) -> list[Row]:
    tallies = {operator: Tally.of(outcome for outcome in outcomes if operator in outcome.operators) for operator in used}
    return [
        (operator, str(held.compared), *(str(held.counts[kind]) for kind in ("pass", "refused", "wrong")), _share(held))
        for operator, held in tallies.items()
    ]


def _share(tally: Tally) -> str:
    return f"{tally.share:.1%}" if tally.compared else ""


def _row(name: str, outcomes: Iterable[Outcome]) -> Row:
    counts = Tally.of(outcomes).counts
    return (name, *(str(counts[kind]) for kind in KINDS))


def _failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.kind in ("wrong", "harness", "refused")]


def _told(outcome: Outcome) -> str:
    return f"{outcome.kind.upper()} {outcome.file} {outcome.case[:160]}: {outcome.reason}"


def _reasons(outcomes: Sequence[Outcome], kind: Kind) -> str:
    counted = Counter(outcome.reason for outcome in outcomes if outcome.kind == kind)
    rows = [(reason.replace("|", "\\|"), str(count)) for reason, count in sorted(counted.items(), key=lambda held: (-held[1], held[0]))]
    return _markdown_table(("reason", "cases"), rows) if rows else "None."


def _markdown_table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
