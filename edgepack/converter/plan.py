"""A plan: steps that form a directed acyclic graph, checked before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

from edgepack.converter.step import Output, Step


class PlanError(ValueError):
    """A plan that cannot run. This is a defect of the code that made it, not of the user's input."""


@dataclass(frozen=True)
class Plan:
    """Checked steps in an order in which they can run."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Plan:
        """Check and order.

        Raises:
            PlanError: two steps share a name, an input is written by no step or does not exist, the graph has a cycle, or a function
                is missing or takes other arguments than its step gives.
        """
        by_name = {step.name: step for step in steps}
        if len(by_name) != len(steps):
            raise PlanError("two steps share a name")
        for step in steps:
            _check_inputs(step, by_name)
            _check_signature(step)
        try:
            order = list(TopologicalSorter({step.name: list(_predecessors(step)) for step in steps}).static_order())
        except CycleError as error:
            raise PlanError(f"steps wait for each other: {' -> '.join(error.args[1])}") from error
        return cls(tuple(by_name[name] for name in order))


def resolve(function: str) -> Any:
    """The callable that a step names."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


def _predecessors(step: Step) -> Iterator[str]:
    return (source.step for source in step.inputs.values() if isinstance(source, Output))


def _check_inputs(step: Step, by_name: dict[str, Step]) -> None:
    for argument, source in step.inputs.items():
        if isinstance(source, Path):
            if not source.exists():
                raise PlanError(f"step {step.name}: input {argument} ({source}) does not exist")
        elif source.step not in by_name or source.file not in by_name[source.step].outputs:
            raise PlanError(f"step {step.name}: no step writes its input {argument} ({source.step}/{source.file})")


def _check_signature(step: Step) -> None:
    names = [*step.inputs, *step.parameters, "out", "progress"]
    given = dict.fromkeys(names)
    if len(given) != len(names):
        raise PlanError(f"step {step.name}: one argument is given twice ({sorted(names)})")
    try:
        inspect.signature(resolve(step.function)).bind(**given)
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        raise PlanError(f"step {step.name}: {step.function} cannot be called with {sorted(given)} ({error})") from error
