"""ReduceMean, ReduceSum, ReduceMax, ReduceMin, ReduceProd, ArgMax, ArgMin, TopK, and why not NonMaxSuppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import Lower, axes_of, constant_at, lowers, needs_constants, only, refuses, required
from edgepack.quantize.fold import Operation


def _axes(operation: Operation) -> list[int]:
    """ONNX Reduce*-18: no axes means all of them, unless ``noop_with_empty_axes``."""
    if constant_at(operation, 1, "axes"):
        return axes_of(operation, 1, ())
    return [] if operation.attributes.get("noop_with_empty_axes", 0) else list(range(required(operation, 0).rank))


def _reduction(kind: str) -> Lower:
    """A reduction; booleans go as integers, of which the largest is "any" and the smallest "all"."""

    def lower(operation: Operation, emit: Emitter) -> Var:
        value, axes = emit.value(required(operation, 0)), _axes(operation)
        if not axes:
            return value
        found = emit(kind, x=emit.as_integer(value), axes=axes, keep_dims=bool(operation.attributes.get("keepdims", 1)))
        return emit("cast", x=found, dtype="bool") if emit.is_boolean(value) else found

    return lower


for _onnx in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"):
    _register = lowers(
        _onnx, honours={"axes", "keepdims", "noop_with_empty_axes"}, reals=_onnx == "ReduceMean", objects=(needs_constants(1),)
    )
    _register(_reduction(f"reduce_{_onnx.removeprefix('Reduce').lower()}"))


def _of_truth(operation: Operation) -> tuple[str, str] | None:
    dtype = required(operation, 0).dtype
    return (f"looks for the largest {dtype}", "cast it to int32 in the student") if dtype == "bool" else None


@lowers(
    "ArgMax", "ArgMin", honours={"axis", "keepdims", "select_last_index"}, reals=False, objects=(only("select_last_index", 0), _of_truth)
)
def arg_max(operation: Operation, emit: Emitter) -> Var:
    """ONNX ArgMax-13, ArgMin-13; indices are int32. Which of several equal reals is named is not documented for Core ML.

    Whole numbers are often equal, and ONNX names the first: the smallest of the places that hold the extreme.
    """
    x, axis, keeps = required(operation, 0), operation.attributes.get("axis", 0), bool(operation.attributes.get("keepdims", 1))
    if x.dtype == "float32":
        return emit(f"reduce_{operation.op_type.lower()}", x=emit.value(x), axis=axis, keep_dims=keeps)
    value, size = emit.value(x), x.shape[axis]
    extreme = emit(f"reduce_{operation.op_type.removeprefix('Arg').lower()}", x=value, axes=[axis], keep_dims=True)
    row = np.arange(size, dtype=np.int32).reshape([size if held == axis % x.rank else 1 for held in range(x.rank)])
    places = emit("mul", x=emit("cast", x=emit("equal", x=value, y=extreme), dtype="int32"), y=row - np.int32(size))
    return emit("reduce_min", x=emit("add", x=places, y=np.int32(size)), axes=[axis], keep_dims=keeps)


@lowers("TopK", honours={"axis", "largest", "sorted"}, reals=False, objects=(needs_constants(1),))
def top_k(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """ONNX TopK-11: values and int32 indices, always sorted. Which of several equal elements comes first is not documented for Core ML."""
    x, count = required(operation, 0), operation.outputs[0].shape
    axis = operation.attributes.get("axis", -1) % x.rank
    ascending = not operation.attributes.get("largest", 1)
    return list(emit("topk", x=emit.value(x), k=count[axis], axis=axis, ascending=ascending))


# MIL's non_maximum_suppression pads its answer to max_boxes rows; the ONNX answer has as many rows as boxes remain, and any cut to that
# length is a shape that only a run knows, where every value of a package of ours has a fixed one.
refuses(
    "NonMaxSuppression",
    "gives as many rows as boxes remain, and every shape in the package is fixed",
    "end the student at boxes and scores and suppress in the app (Vision does for a Core ML pipeline with NonMaximumSuppression)",
    honours={"center_point_box"},
)
