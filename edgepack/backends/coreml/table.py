"""The table of ONNX operators this backend lowers, and the objections they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.operations import MAX_RANK
from edgepack.backends.table import BackendError, Objection, OperatorTable
from edgepack.quantize.fold import Operand, Operation

# Emits one operation and answers its outputs, in ONNX order.
Lower = Callable[[Operation, Emitter], Var | Sequence[Var]]

TABLE: OperatorTable[Lower] = OperatorTable("coreml")

REALS = ("float32", "float16")
_HELD = (*REALS, "int64", "int32", "bool")
_CODES = ("uint8", "int8", "int32")


def lowers(*operators: str, honours: Iterable[str] = (), reals: bool = True, objects: Sequence[Objection] = ()) -> Callable[[Lower], Lower]:
    """Register a lowering.

    Args:
        operators: ONNX names.
        honours: attributes it expresses.
        reals: the operator computes in floating point, so its first input and its outputs must be real.
        objects: further objections, asked in order after the ones about rank, size and type that hold for every operator.
    """
    asked = [*_COMMON, *objects, *([_not_real] if reals else [])]
    return TABLE.lowers(*operators, honours=honours, objects=lambda operation: _first(asked, operation))


def refuses(operator: str, cause: str, hint: str, honours: Iterable[str] = ()) -> None:
    """Register an operator that has no form here, so that the refusal says why."""

    def lower(operation: Operation, emit: Emitter) -> Var:
        raise BackendError(f"coreml: {operation.op_type} '{operation.name}': {cause}", hint)

    TABLE.lowers(operator, honours=honours, objects=lambda operation: (cause, hint))(lower)


def _first(objections: Sequence[Objection], operation: Operation) -> tuple[str, str] | None:
    return next((found for objection in objections if (found := objection(operation)) is not None), None)


def _operands(operation: Operation) -> list[Operand]:
    return [operand for operand in (*operation.inputs, *operation.outputs) if operand is not None]


def _rank(operation: Operation) -> tuple[str, str] | None:
    wide = next((operand for operand in _operands(operation) if operand.rank > MAX_RANK), None)
    if wide is None:
        return None
    return f"'{wide.name}' has rank {wide.rank}, Core ML stops at {MAX_RANK}", "merge neighbouring axes in the student"


def _empty(operation: Operation) -> tuple[str, str] | None:
    """Parameters of shape operators may be empty vectors (no axes); values may not."""
    values = [operation.inputs[0] if operation.inputs else None, *operation.outputs]
    empty = next((operand for operand in values if operand is not None and 0 in operand.shape), None)
    return None if empty is None else (f"'{empty.name}' has no elements {empty.shape}", "remove the empty tensor from the student")


def _dtype(operation: Operation) -> tuple[str, str] | None:
    for operand in _operands(operation):
        held = operand.encoding.dtype if operand.encoding else operand.dtype
        if held not in (_CODES if operand.encoding else _HELD):
            return f"'{operand.name}' is {held}, which ML Program does not hold", "use float32, int32 or bool in the student"
    return None


def _not_real(operation: Operation) -> tuple[str, str] | None:
    values = [operation.inputs[0] if operation.inputs else None, *operation.outputs]
    other = next((operand for operand in values if operand is not None and operand.dtype not in REALS), None)
    return None if other is None else (f"'{other.name}' is {other.dtype}, not real", "cast it to float32 in the student")


_COMMON: tuple[Objection, ...] = (_rank, _empty, _dtype)


def needs_constants(*positions: int) -> Objection:
    """Objects when an input that must be known when the model is written is computed at run time."""

    def objection(operation: Operation) -> tuple[str, str] | None:
        for position in positions:
            operand = operand_at(operation, position)
            if operand is not None and operand.constant is None:
                return f"input {position} ('{operand.name}') is computed at run time", "make it a constant in the student"
        return None

    return objection


def single_output(operation: Operation) -> tuple[str, str] | None:
    """Objects when one of ONNX's optional further outputs is there."""
    extra = [output.name for output in operation.outputs[1:] if output.name]
    return None if not extra else (f"its optional output '{extra[0]}' is not expressed", "use the first output only")


def only(attribute: str, *allowed: Any) -> Objection:
    """Objects when an attribute is there with another value."""

    def objection(operation: Operation) -> tuple[str, str] | None:
        value = operation.attributes.get(attribute, allowed[0])
        values = value if isinstance(value, list) else [value]
        odd = [entry for entry in values if entry not in allowed]
        if not odd:
            return None
        return f"{attribute} = {value} is not expressed (only {', '.join(map(str, allowed))})", f"change {attribute} in the student"

    return objection


def operand_at(operation: Operation, position: int) -> Operand | None:
    """The input at ``position``, None when it is omitted."""
    return operation.inputs[position] if position < len(operation.inputs) else None


def required(operation: Operation, position: int) -> Operand:
    """The input at ``position``, which the ONNX operator requires."""
    operand = operand_at(operation, position)
    if operand is None:
        raise ValueError(f"{operation.op_type} '{operation.name}' has no input {position}")
    return operand


def constant_at(operation: Operation, position: int, attribute: str = "", default: Any = None) -> Any:
    """A constant input as a list or number; else the attribute of older opsets, else ``default``."""
    operand = operand_at(operation, position)
    if operand is not None and operand.constant is not None:
        return operand.real().tolist()
    return operation.attributes.get(attribute, default)


def axes_of(operation: Operation, position: int, default: Sequence[int]) -> list[int]:
    """The axes a constant input or the attribute "axes" names, made non-negative and sorted."""
    given = constant_at(operation, position, "axes")
    axes = list(default) if given is None else given
    rank = max(required(operation, 0).rank, operation.outputs[0].rank if operation.op_type == "Unsqueeze" else 0)
    return sorted(axis % rank for axis in axes)
