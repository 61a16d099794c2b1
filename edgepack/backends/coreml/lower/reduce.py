"""ReduceMean, ReduceSum, ReduceMax, ReduceMin."""

from __future__ import annotations

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import Lower, axes_of, constant_at, lowers, needs_constants, required
from edgepack.quantize.fold import Operation


def _reduction(kind: str) -> Lower:
    """ONNX Reduce*-18: no axes means all of them, unless ``noop_with_empty_axes``."""

    def lower(operation: Operation, emit: Emitter) -> Var:
        x = required(operation, 0)
        value = emit.value(x)
        if not constant_at(operation, 1, "axes"):
            axes = [] if operation.attributes.get("noop_with_empty_axes", 0) else list(range(x.rank))
        else:
            axes = axes_of(operation, 1, ())
        return emit(kind, x=value, axes=axes, keep_dims=bool(operation.attributes.get("keepdims", 1))) if axes else value

    return lower


for _onnx in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
    _register = lowers(_onnx, honours={"axes", "keepdims", "noop_with_empty_axes"}, objects=(needs_constants(1),))
    _register(_reduction(f"reduce_{_onnx.removeprefix('Reduce').lower()}"))
