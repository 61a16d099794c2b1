"""What became of one of Apple's test cases, and how many of each there are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

# pass: every output is within tolerance of Apple's value. refused: the interpreter knows the operation, or this form of it, not.
# wrong: another value or shape, or an error that is no refusal. no_values: built, and run where possible, but the test compares nothing
# without Core ML. skipped: Apple's own skip or expected failure. harness: the test fails before or beside any comparison.
Kind = Literal["pass", "refused", "wrong", "no_values", "skipped", "harness"]
KINDS: tuple[Kind, ...] = ("pass", "refused", "wrong", "no_values", "skipped", "harness")


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        file: of the test, from the folder of Apple's tests ("iOS14/test_pool.py"). case: its pytest name.
        reason: why it was refused, wrong, skipped or failed; one line.
        operators: MIL operations of the package, without plain constants.
    """

    file: str
    case: str
    kind: Kind
    reason: str = ""
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """How many cases there are of each kind."""

    counts: dict[Kind, int]

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Tally:
        """Count ``outcomes``."""
        counted = Counter(outcome.kind for outcome in outcomes)
        return cls({kind: counted[kind] for kind in KINDS})

    @property
    def compared(self) -> int:
        """Cases with values to compare: passed, refused or wrong."""
        return self.counts["pass"] + self.counts["refused"] + self.counts["wrong"]

    @property
    def share(self) -> float:
        """Passed cases over compared cases; 1 when nothing was compared."""
        return self.counts["pass"] / self.compared if self.compared else 1.0


def append(path: Path, outcome: Outcome) -> None:
    """Add one line to a file of outcomes, at once, so that a killed child loses only its running case."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def read(path: Path) -> list[Outcome]:
    """The outcomes in a file; none if the child wrote no file."""
    if not path.exists():
        return []
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Outcome(**{**line, "operators": tuple(line["operators"])}) for line in lines]


def involving(outcomes: Iterable[Outcome], operators: Sequence[str]) -> list[Outcome]:
    """The cases whose package holds no operation outside ``operators``, and so could be the backend's."""
    known = set(operators)
    return [outcome for outcome in outcomes if outcome.operators and known.issuperset(outcome.operators)]
