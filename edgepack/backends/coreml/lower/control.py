"""Loops and branches: ``while_loop`` and ``cond``, whose blocks see the values around them (coremltools iOS15/control_flow.py).

Both compute in float32, in an fp16 program as well: what a loop rounds in one round the next one reads, and a condition such as "until
the step is below 1e-4" may never hold in fp16. Neither runs on the Neural Engine, so that nothing is lost to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgepack.backends.control import BLOCKS, CHOICE, WHILE
from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import REALS, lowers, required
from edgepack.quantize.fold import FoldedGraph, Operation


@lowers(WHILE, honours={*BLOCKS[WHILE], "invariants"}, reals=False)
def while_(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """``While`` (edgepack.backends.control): what stays as it is the blocks read from outside."""
    condition, body = (operation.attributes[name] for name in BLOCKS[WHILE])
    wide, carried = emit.in_float32(), len(operation.outputs)
    given = [_wide(operation, place, emit, wide) for place in range(len(operation.inputs))]
    fixed = given[carried:]
    found = emit(
        "while_loop",
        _cond=lambda *held: wide.emit_block(condition, [*held, *fixed])[0],
        _body=lambda *held: tuple(_open(value, emit) for value in wide.emit_block(body, [*held, *fixed])),
        loop_vars=tuple(_open(value, emit) for value in given[:carried]),
    )
    return _narrow(operation, found, emit)


@lowers(CHOICE, honours=BLOCKS[CHOICE], reals=False)
def choice(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """``Choice`` (edgepack.backends.control)."""
    wide = emit.in_float32()
    flag, *given = (_wide(operation, place, emit, wide) for place in range(len(operation.inputs)))
    branches = [partial(_branch, wide, operation.attributes[name], given) for name in BLOCKS[CHOICE]]
    found = emit("cond", pred=flag, _true_fn=branches[0], _false_fn=branches[1])
    return _narrow(operation, list(found) if isinstance(found, list | tuple) else [found], emit)


def _open(value: Var, emit: Emitter) -> Var:
    """A value that a loop carries, not known to the Builder: it takes what is constant in one round for constant in all."""
    if value.val is None:
        return value
    begin = emit("identity", x=value)
    begin._sym_val = None
    return begin


def _branch(wide: Emitter, graph: FoldedGraph, given: Sequence[Var]) -> Sequence[Var] | Var:
    found = wide.emit_block(graph, given)
    return found[0] if len(found) == 1 else tuple(found)


def _wide(operation: Operation, place: int, emit: Emitter, wide: Emitter) -> Var:
    """An input, reals in float32."""
    operand = required(operation, place)
    if operand.constant is not None:
        return wide.value(operand)
    value = emit.value(operand)
    return emit("cast", x=value, dtype="fp32") if emit.dtype == "float16" and operand.dtype in REALS else value


def _narrow(operation: Operation, found: Sequence[Var], emit: Emitter) -> Sequence[Var]:
    """Results in the precision of the program."""
    if emit.dtype == "float32":
        return found
    pairs = zip(found, operation.outputs, strict=True)
    return [emit("cast", x=value, dtype="fp16") if operand.dtype in REALS else value for value, operand in pairs]
