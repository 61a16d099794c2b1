"""The operators this backend knows, and the forms its kernels cannot express.

A lowering is ``(operation, emitter) -> View`` (or a list, one view an output). ``lowers`` adds what holds for every operator: known
types, and codes per whole tensor. An operator with an integer kernel names what that kernel demands (``integer=``); any other operator
on codes is computed in float between DEQUANTIZE and QUANTIZE, which is what the hub's Q/DQ pairs say. So are those whose int8 kernel no
delegate has: leaving XNNPACK costs more than the two conversions (measured, one thread: 3x3 average pool 231 against 41 us, softmax 191
against 39, hard-swish 742 against 42, batched matmul 207 against 19), and float is at least as exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from edgepack.backends.table import Objection, OperatorTable
from edgepack.backends.tflite.emit import Emitter, is_integer
from edgepack.backends.tflite.program import View
from edgepack.quantize.fold import Operand, Operation

Lowering = Callable[[Operation, Emitter], View | list[View]]
Refusal = tuple[str, str] | None

TABLE: OperatorTable[Lowering] = OperatorTable("tflite")

Condition = Callable[[Operation], bool]
_IN_FLOAT: dict[str, Condition] = {}

_TYPES = frozenset({"float32", "int32", "int64", "bool"})


def always(operation: Operation) -> bool:
    """A condition that holds for every operation."""
    return True


def _never(operation: Operation) -> bool:
    return False


def lowers(
    *operators: str,
    honours: Iterable[str] = (),
    objects: Sequence[Objection] = (),
    integer: Sequence[Objection] | None = None,
    in_float: Condition = _never,
) -> Callable[[Lowering], Lowering]:
    """Register a lowering.

    Args:
        honours: attributes expressed in full, or judged by ``objects``.
        objects: forms refused in any type.
        integer: what must hold on codes; None when there is no integer kernel.
        in_float: whether an operation on codes is better computed in float all the same.
    """

    def object_to(operation: Operation) -> Refusal:
        demands = (*integer, *objects) if integer is not None and is_integer(operation) else tuple(objects)
        return first_refusal(operation, (_types_are_known, _codes_are_per_tensor, *demands))

    _IN_FLOAT.update(dict.fromkeys(operators, in_float if integer is not None else always))
    return TABLE.lowers(*operators, honours=honours, objects=object_to)


def computes_in_float(operation: Operation) -> bool:
    """Whether an operation on codes goes through reals."""
    return is_integer(operation) and _IN_FLOAT[operation.op_type](operation)


def first_refusal(operation: Operation, objections: Iterable[Objection]) -> Refusal:
    """The first objection that has something to say."""
    return next((refusal for objection in objections if (refusal := objection(operation)) is not None), None)


def _types_are_known(operation: Operation) -> Refusal:
    for operand in (*operation.inputs, *operation.outputs):
        if operand is not None and operand.dtype not in _TYPES:
            return f"value '{operand.name}' is {operand.dtype}", "keep float32, int32, int64 or bool in the student"
    return None


def _codes_are_per_tensor(operation: Operation) -> Refusal:
    for operand in (*operation.inputs, *operation.outputs):
        if operand is None or operand.encoding is None or operand.constant is not None:
            continue
        if operand.encoding.scale.size != 1 or operand.encoding.dtype not in ("uint8", "int8"):
            return f"activation '{operand.name}' is not one scale of uint8 or int8", "quantize activations per tensor in 8 bits"
    return None


def activations(operation: Operation) -> list[Operand]:
    """The inputs that carry codes, constant or not."""
    return [operand for operand in operation.inputs if operand is not None and operand.encoding is not None]


def equal_encodings(operation: Operation) -> Refusal:
    """The kernel moves codes and never rescales: with unequal scales it is silently wrong."""
    held = [operand for operand in (*activations(operation), *operation.outputs) if operand.encoding is not None]
    unequal = next((operand for operand in held if not held[0].encoding.same_as(operand.encoding)), None)  # type: ignore[union-attr]
    if unequal is None:
        return None
    return f"codes of '{held[0].name}' and '{unequal.name}' have different scales", "give the operator one shared scale (constraints)"


def output_encoding(scale: float, zero_point: int) -> Objection:
    """The kernel writes one fixed encoding (int8 zero point)."""

    def objection(operation: Operation) -> Refusal:
        held = operation.outputs[0].encoding
        assert held is not None
        if np.float32(scale) == held.scale and int(held.as_int8().zero_point) == zero_point:
            return None
        cause = f"output codes have scale {held.scale.item():.9g}, zero point {int(held.as_int8().zero_point)} as int8"
        return cause, f"the kernel writes scale {scale:.9g}, zero point {zero_point}: fix it in the constraints"

    return objection


def constant_inputs(*positions: int) -> Objection:
    """Inputs that must be known when the artifact is written."""

    def objection(operation: Operation) -> Refusal:
        for position in positions:
            operand = operation.inputs[position] if position < len(operation.inputs) else None
            if operand is not None and operand.constant is None:
                return f"input '{operand.name}' is computed at run time", "make it a constant of the model"
        return None

    return objection


def attribute_is(name: str, *allowed: object) -> Objection:
    """An attribute with a few expressible values; absent is fine."""

    def objection(operation: Operation) -> Refusal:
        value = operation.attributes.get(name, allowed[0])
        return None if value in allowed else (f"{name} = {value!r} has no TFLite form", f"use {name} = {allowed[0]!r}")

    return objection


def ranks(*allowed: int) -> Objection:
    """The ranks of the first input a kernel takes."""

    def objection(operation: Operation) -> Refusal:
        operand = operation.inputs[0]
        assert operand is not None
        if operand.rank in allowed:
            return None
        return f"input '{operand.name}' has rank {operand.rank}", f"TFLite has kernels for rank {', '.join(map(str, allowed))}"

    return objection
