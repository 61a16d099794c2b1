"""ScatterND, as far as TFLite has it: updates added up over zeros. What else it may mean is spelled with that (hub/passes/indices.py)."""

from __future__ import annotations

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, lowers
from edgepack.quantize.fold import Operation


def _sums_over_zeros(operation: Operation) -> Refusal:
    data, reduction = operation.inputs[0], operation.attributes.get("reduction", "none")
    if reduction == "add" and data is not None and data.constant is not None and not data.constant.any():
        return None
    return f"reduction {reduction} at indices computed at run time has no kernel and takes too long spelled out", "scatter into fewer rows"


@lowers("ScatterND", honours={"reduction"}, objects=(_sums_over_zeros,))
def scatter_nd(operation: Operation, emit: Emitter) -> View:
    """ONNX ScatterND-18 with reduction add over zeros and indices from 0 on -> SCATTER_ND, which adds up what meets in one place."""
    indices, updates = (emit.plain(emit.take(operand)) for operand in operation.inputs[1:3])
    result = operation.outputs[0]
    output = emit.output(result, emit.plain(emit.take(operation.inputs[0])).layout)
    return emit.run("SCATTER_ND", [indices, updates, emit.indices("shape", result.shape)], output, Options("ScatterNdOptions"))
