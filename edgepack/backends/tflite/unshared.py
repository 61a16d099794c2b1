"""Copies where an old runtime would let a RESHAPE share memory that is still needed.

The memory planner of TensorFlow Lite 2.14 gives the result of a RESHAPE the memory of its input, and an elementwise operator that reads
this result last the same memory for its own; whether the RESHAPE's input has readers left it does not ask. They then read what was
written over it. A RESHAPE that is its input's only reader is safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgepack.backends.tflite.program import Call, Options, Program, Tensor

# Axes that SLICE takes in every type.
_SLICE_RANK = 4


def unshared(program: Program) -> Program:
    """The program with a copy before every RESHAPE of a tensor that something else reads or that leaves the graph."""
    readers = Counter(tensor for call in program.calls for tensor in call.inputs if tensor is not None)
    readers.update(tensor for _, tensor in program.outputs)
    return replace(program, calls=tuple(_safe(program, readers)))


def _safe(program: Program, readers: Counter[Tensor]) -> Iterator[Call]:
    for call in program.calls:
        source = call.inputs[0]
        if call.operator == "RESHAPE" and source is not None and source.data is None and readers[source] > 1:
            copied = replace(source, name=f"{call.outputs[0].name}/source")
            yield _copy(source, copied)
            call = replace(call, inputs=(copied, *call.inputs[1:]))
        yield call


def _copy(source: Tensor, copied: Tensor) -> Call:
    shape = np.asarray(source.shape, np.int32)
    size = Tensor(f"{copied.name}/size", "int32", shape.shape, None, shape)
    if len(source.shape) > _SLICE_RANK or not source.shape:
        return Call("BROADCAST_TO", (source, size), (copied,), Options("BroadcastToOptions"))
    begin = Tensor(f"{copied.name}/begin", "int32", shape.shape, None, np.zeros_like(shape))
    return Call("SLICE", (source, begin, size), (copied,), Options("SliceOptions"))
