"""One table of operators per backend: what is honoured, what is refused, and who lowers it.

Refusal happens over the whole model before lowering starts, so ``edgepack inspect`` lists every obstacle at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from edgepack.backends.spelling import LEFT
from edgepack.errors import InputError
from edgepack.quantize.fold import FoldedGraph, Operation

L = TypeVar("L")

# Answers why this operation cannot be expressed and what to do instead, None when it can.
Objection = Callable[[Operation], tuple[str, str] | None]


def with_nested(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Operations in order, and after each those of the graphs inside it."""
    for operation in operations:
        yield operation
        for graph in nested(operation):
            yield from with_nested(graph.operations)


def nested(operation: Operation) -> list[FoldedGraph]:
    """The graphs inside an operation."""
    return [held for held in operation.attributes.values() if isinstance(held, FoldedGraph)]


class BackendError(InputError):
    """A model one backend cannot express, or an artifact that does not hold what it must."""


class Obstacle(msgspec.Struct, frozen=True):
    """Why one node cannot go to one backend."""

    backend: str
    operator: str
    node: str
    cause: str
    hint: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.operator} '{self.node}': {self.cause}"


@dataclass(frozen=True)
class Rule(Generic[L]):
    """How one ONNX operator goes to one backend."""

    lower: L
    honours: frozenset[str]
    objects: Objection | None


class OperatorTable(Generic[L]):
    """ONNX operator name -> rule. ``L`` is the type of the backend's lowering functions."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._rules: dict[str, Rule[L]] = {}

    def lowers(self, *operators: str, honours: Iterable[str] = (), objects: Objection | None = None) -> Callable[[L], L]:
        """Register a lowering for ``operators``.

        Args:
            honours: attributes whose every value the lowering expresses, unless ``objects`` says otherwise.
            objects: looks at one operation and answers (cause, hint) when its form cannot be expressed.
        """

        def register(lower: L) -> L:
            for operator in operators:
                if operator in self._rules:
                    raise ValueError(f"{self.backend} lowers {operator} twice")
                self._rules[operator] = Rule(lower, frozenset(honours), objects)
            return lower

        return register

    @property
    def operators(self) -> list[str]:
        """The ONNX operators of the table, sorted."""
        return sorted(self._rules)

    def __getitem__(self, operator: str) -> L:
        return self._rules[operator].lower

    def obstacles(self, operations: Iterable[Operation]) -> list[Obstacle]:
        """Every reason this backend cannot express these operations, in graph order."""
        return [found for operation in with_nested(operations) if (found := self._obstacle(operation)) is not None]

    def demand(self, operations: Iterable[Operation]) -> None:
        """Refuse before lowering: BackendError naming the first obstacle and how many more there are."""
        found = self.obstacles(operations)
        if found:
            more = f" (and {len(found) - 1} more; edgepack inspect lists all)" if len(found) > 1 else ""
            raise BackendError(f"{found[0]}{more}", found[0].hint)

    def _obstacle(self, operation: Operation) -> Obstacle | None:
        rule = self._rules.get(operation.op_type)
        if rule is None:
            plain = ("operator has no lowering", f"replace {operation.op_type} in the student, or leave this target out")
            return self._say(operation, *LEFT.get(operation.op_type, plain))
        extra = sorted(set(operation.attributes) - rule.honours)
        if extra:
            return self._say(
                operation, f"attribute '{extra[0]}' is not honoured", f"remove {extra[0]} from the student's {operation.op_type}"
            )
        objection = rule.objects(operation) if rule.objects else None
        return None if objection is None else self._say(operation, *objection)

    def _say(self, operation: Operation, cause: str, hint: str) -> Obstacle:
        return Obstacle(self.backend, operation.op_type, operation.name, cause, hint)
