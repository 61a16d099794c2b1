"""Loops and branches: graphs of their own, which WHILE and IF run (LiteRT: tflite/kernels/while.cc, if.cc)."""

from __future__ import annotations

from dataclasses import replace

from edgepack.backends.control import BLOCKS, CHOICE, WHILE
from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import lowers
from edgepack.quantize.fold import Operation


@lowers(WHILE, honours={*BLOCKS[WHILE], "invariants"})
def while_(operation: Operation, emit: Emitter) -> list[View]:
    """``While`` (edgepack.backends.control) -> WHILE, which carries everything: what stays as it is the body hands on."""
    condition, body = (operation.attributes[name] for name in BLOCKS[WHILE])
    carried = len(operation.outputs)
    body = replace(body, outputs=(*body.outputs, *body.inputs[carried:]))
    inputs = [emit.plain(emit.take(operand)) for operand in operation.inputs]
    outputs = [emit.output(operand, Layout.plain(operand.shape)) for operand in operation.outputs]
    unread = [emit.like(view, view.layout, "unchanged") for view in inputs[carried:]]
    emit.run_blocks("WHILE", inputs, [*outputs, *unread], Options("WhileOptions"), (condition, body))
    return outputs


@lowers(CHOICE, honours=BLOCKS[CHOICE])
def choice(operation: Operation, emit: Emitter) -> list[View]:
    """``Choice`` (edgepack.backends.control) -> IF."""
    inputs = [emit.plain(emit.take(operand)) for operand in operation.inputs]
    outputs = [emit.output(operand, Layout.plain(operand.shape)) for operand in operation.outputs]
    emit.run_blocks("IF", inputs, outputs, Options("IfOptions"), [operation.attributes[name] for name in BLOCKS[CHOICE]])
    return outputs
