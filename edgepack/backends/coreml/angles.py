"""Angles in float32 inside an fp16 program.

fp16 has 11 significant bits: numbers near 800 are half apart, and so would be the radians that a sine is taken of, which the time
embeddings of diffusion models (1000 steps) need. What leads from the inputs to a Sin or Cos stays float32 where it is elementwise or only
regroups; what the function gives is rounded to fp16.
"""

from __future__ import annotations

from edgepack.backends.coreml.operations import Hub
from edgepack.quantize.fold import Operand, Operation

_ANGLES = frozenset({"Sin", "Cos"})
_LEADING = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose"})


def in_float32(hub: Hub) -> frozenset[str]:
    """Names of the values that are to be computed in float32: every Sin and Cos that can be, and what leads to it."""
    known = {held.name for held in hub.inputs}
    makers: list[Operation] = []
    for operation in hub.operations:
        if operation.op_type in _ANGLES | _LEADING and all(_is_exact(held, known) for held in operation.inputs):
            makers.append(operation)
            known.add(operation.outputs[0].name)
    wanted: set[str] = set()
    for operation in reversed(makers):
        if operation.op_type in _ANGLES or operation.outputs[0].name in wanted:
            wanted.update(held.name for held in (*operation.inputs, *operation.outputs) if held is not None and held.dtype == "float32")
    return frozenset(wanted & {operation.outputs[0].name for operation in makers})


def _is_exact(operand: Operand | None, known: set[str]) -> bool:
    """Whether a value is there in float32, or is a whole number or a truth value, which fp16 programs hold as they are."""
    if operand is None or operand.dtype != "float32":
        return operand is None or not operand.dtype.startswith("float")
    return operand.encoding is None and (operand.constant is not None or operand.name in known)
