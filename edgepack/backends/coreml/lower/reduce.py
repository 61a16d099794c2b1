"""ReduceMean, ReduceSum, ReduceMax, ReduceMin, ReduceL2, ArgMax."""

from __future__ import annotations

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import Lower, axes_of, constant_at, lowers, needs_constants, only, required
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


@lowers("ReduceL2", honours={"axes", "keepdims", "noop_with_empty_axes"}, objects=(needs_constants(1), only("noop_with_empty_axes", 0)))
def reduce_l2(operation: Operation, emit: Emitter) -> Var:
    """ONNX ReduceL2-18 = sqrt(sum(x^2)), spelled out so that squares beyond fp16 show when the package is verified."""
    x = required(operation, 0)
    value = emit.value(x)
    keeps = bool(operation.attributes.get("keepdims", 1))
    axes = axes_of(operation, 1, range(x.rank))
    return emit("sqrt", x=emit("reduce_sum", x=emit("mul", x=value, y=value), axes=axes, keep_dims=keeps))


def _of_integers(operation: Operation) -> tuple[str, str] | None:
    dtype = required(operation, 0).dtype
    return None if dtype == "float32" else (f"looks for the largest {dtype}", "cast it to float32 in the student")


@lowers("ArgMax", honours={"axis", "keepdims", "select_last_index"}, reals=False, objects=(only("select_last_index", 0), _of_integers))
def arg_max(operation: Operation, emit: Emitter) -> Var:
    """ONNX ArgMax-13; indices are int32."""
    axis, keeps = operation.attributes.get("axis", 0), bool(operation.attributes.get("keepdims", 1))
    return emit("reduce_argmax", x=emit.value(required(operation, 0)), axis=axis, keep_dims=keeps)
