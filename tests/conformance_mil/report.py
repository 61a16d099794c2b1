"""The outcomes as a table for a terminal and as docs/conformance_mil.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from .outcomes import KINDS, Kind, Outcome, Tally, involving

Row = tuple[str, ...]
_HEAD: Row = ("", "pass", "refused", "wrong", "no values", "skipped", "harness")


def table(outcomes: Sequence[Outcome], known: Sequence[str]) -> str:
    """Counts by file, the reasons for all that did not pass, and the verdict."""
    rows = [_HEAD, *_by_file(outcomes), _row("all", outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    return "\n".join([*lines, "", *map(_told, _failures(outcomes)), verdict(outcomes, known)])


def verdict(outcomes: Sequence[Outcome], known: Sequence[str]) -> str:
    """How many of the cases that hold only operators the interpreter implements pass, and how many are wrong."""
    every, held = Tally.of(outcomes), Tally.of(involving(outcomes, known))
    static = Tally.of(outcome for outcome in involving(outcomes, known) if "symbolic shape" not in outcome.reason)
    return (
        f"{held.counts['pass']} of {held.compared} cases of the {len(known)} implemented operators pass ({held.share:.1%}); "
        f"of those with static shapes {static.counts['pass']} of {static.compared} ({static.share:.1%}); {every.counts['wrong']} wrong"
    )


def markdown(outcomes: Sequence[Outcome], known: Sequence[str], version: str, sample: int) -> str:
    """The document: what was run, by file, by operator, and why cases were refused, skipped or failed."""
    cases = f"at most {sample} cases of a file" if sample else "all cases"
    parts = [
        "# Apple's operator tests on the MIL interpreter",
        f"Written by `python -m tests.conformance_mil.apple --write`: the tests inside the coremltools {version} wheel,\n"
        f"{cases}, in fp32 at Apple's tolerance (absolute 1e-4, relative 1e-5, unless the test says otherwise).\n"
        "In fp16 every rounding of the package (inputs, constants, each operation) adds 2^-11 of the largest expected magnitude;\n"
        "Apple itself allows 0.5 + 5 %.",
        f"**{verdict(outcomes, known)}.**",
        "## By file",
        _markdown_table(_HEAD, [*_by_file(outcomes), _row("all", outcomes)]),
        "## By implemented operator",
        "A case counts for every operator in its package.",
        _markdown_table(_HEAD, _by_operator(outcomes, known)),
        "## Why not",
        *[part for kind in ("wrong", "refused", "harness", "skipped") for part in _reasons(outcomes, kind)],
    ]
    return "\n\n".join(parts) + "\n"


def _by_file(outcomes: Sequence[Outcome]) -> list[Row]:
    name: Callable[[Outcome], str] = lambda outcome: outcome.file  # noqa: E731
    return [_row(file, held) for file, held in groupby(sorted(outcomes, key=name), name)]


def _by_operator(outcomes: Sequence[Outcome], known: Sequence[str]) -> list[Row]:
    return [_row(operator, [outcome for outcome in outcomes if operator in outcome.operators]) for operator in known]


def _row(name: str, outcomes: Iterable[Outcome]) -> Row:
    counts = Tally.of(outcomes).counts
    return (name, *(str(counts[kind]) for kind in KINDS))


def _failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.kind in ("wrong", "harness")]


def _told(outcome: Outcome) -> str:
    return f"{outcome.kind.upper()} {outcome.file} {outcome.case[:160]}: {outcome.reason}"


def _reasons(outcomes: Sequence[Outcome], kind: Kind) -> list[str]:
    counted = Counter(outcome.reason for outcome in outcomes if outcome.kind == kind)
    rows = [(reason.replace("|", "\\|"), str(count)) for reason, count in counted.most_common()]
    return [f"### {kind}", _markdown_table(("reason", "cases"), rows)] if rows else [f"### {kind}", "None."]


def _markdown_table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
