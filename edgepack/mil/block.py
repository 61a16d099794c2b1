"""Prepared operations in order: each is computed, rounded to its declared dtype, and values nobody reads any more are let go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepack.mil.errors import MilError
from edgepack.mil.operation import SCOPE, Array, Kernel, MilOperation, TensorType, kernel_of, selects
from edgepack.mil.rounding import to_half

# MIL's variadic parameters that take tensors: concat(values=(a, b)), while_loop(loop_vars=(a, b)), reshape_like(ref_tensors=(a, b)).
VARIADIC = frozenset({"values", "loop_vars", "ref_tensors"})


@dataclass(frozen=True)
class Step:
    """One prepared operation, and the values nobody reads after it."""

    operation: MilOperation
    kernel: Kernel
    finished: tuple[str, ...]


@dataclass(frozen=True)
class Steps:
    """A function's body or a nested block.

    Attributes:
        inputs, outputs: names of the values it takes and gives, in order.
        constants: constants that are joined to run-time values or given as they are, by name.
        steps: in execution order.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, inputs: Sequence[str], outputs: Sequence[str], constants: Mapping[str, Array], operations: Sequence[MilOperation]) -> Steps:
        """Prepare ``operations``; MilError when one is not implemented, or gives a value a name that another has."""
        return cls(tuple(inputs), tuple(outputs), constants, tuple(_prepared(operations, outputs)))

    def run(self, arguments: Sequence[Any], scope: Mapping[str, Any]) -> list[Array]:
        """The outputs for ``arguments``, among the values of ``scope``."""
        values = {**scope, **self.constants, **dict(zip(self.inputs, arguments, strict=True))}
        for step in self.steps:
            values.update(_compute(step, values))
            for name in step.finished:
                del values[name]
        return [values[name] for name in self.outputs]

    @property
    def captured(self) -> tuple[str, ...]:
        """The values it reads and nobody in it gives."""
        given = {*self.inputs, *self.constants, *(output.name for step in self.steps for output in step.operation.outputs)}
        read = [name for step in self.steps for names in step.operation.inputs.values() for name in names]
        return tuple(dict.fromkeys(name for name in [*read, *self.outputs] if name not in given))


def _prepared(operations: Sequence[MilOperation], results: Sequence[str]) -> Iterator[Step]:
    names = [output.name for operation in operations for output in operation.outputs]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise MilError(f"two operations give a value the name '{twice}'", "write the package again")
    last = {name: index for index, operation in enumerate(operations) for read in operation.inputs.values() for name in read}
    for index, operation in enumerate(operations):
        read = {name for names in operation.inputs.values() for name in names}
        unread = {output.name for output in operation.outputs if output.name not in last}
        finished = {name for name in read if last[name] == index} | unread
        yield Step(operation, _kernel(operation), tuple(sorted(finished - set(results))))


def _kernel(operation: MilOperation) -> Kernel:
    try:
        return kernel_of(operation)
    except MilError:
        raise
    except Exception as error:
        raise operation.refusal(f"has parameters that do not fit it ({error})") from error


def _compute(step: Step, values: Mapping[str, Any]) -> dict[str, Array]:
    operation = step.operation
    try:
        found = step.kernel(**{name: _argument(name, read, values) for name, read in operation.inputs.items()})
    except MilError:
        raise
    except Exception as error:
        raise operation.fault(f"broke off: {error}") from error
    arrays = [found] if isinstance(found, np.ndarray | np.generic) else list(found)
    return {declared.name: _settle(operation, declared, array) for declared, array in zip(operation.outputs, arrays, strict=True)}


def _argument(parameter: str, read: tuple[str, ...], values: Mapping[str, Any]) -> Any:
    if parameter == SCOPE:
        return {name: values[name] for name in read}
    return [values[name] for name in read] if parameter in VARIADIC else values[read[0]]


def _settle(operation: MilOperation, declared: TensorType, array: Array) -> Array:
    """Round a result to its declared dtype; a shape other than the declared one means the kernel is wrong."""
    if not declared.allows(array.shape):
        raise operation.fault(f"gave shape {array.shape} where the package declares {declared.shape}")
    if declared.dtype == "float16":
        return array if selects(operation) else to_half(np.asarray(array))
    return np.asarray(array).astype(declared.dtype, copy=False)
