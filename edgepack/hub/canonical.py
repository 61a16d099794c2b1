"""Canonical form: the one spelling of a model that every later room reads.

What holds afterwards: opset 21, ONNX domain only, no functions, constants as embedded initializers, BatchNormalization folded into its
Conv or Gemm, Gemm as x @ W^T + b with nothing else, explicit pads and no ceil_mode, static Reshape targets, no attribute that merely
repeats its default, every node named, every value typed and shaped. Forms that few kernels have are said with operators that all have:
composite reductions, normalizations with statistics or parameters of run time, pools of volumes, of powers or with dilation, pads that
crop or wrap, transposes of more than five axes between reshapes, sums of many, vectors in products (edgepack/hub/passes). Branches and
loops whose extent is known are written out, the bodies of others are canonical themselves; recurrent layers stay whole, with time before
batch. Each rewrite is an onnx_ir pass that states what it needs and what it leaves; after each one that changed something the model is run
on the example and compared with the captured one in float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import one_line
from edgepack.hub import functions, later, passes
from edgepack.hub.graph import OPSET, HubError
from edgepack.hub.opsets import at_opset
from edgepack.hub.reference import Float64Run

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Feed = Mapping[str, NDArray[Any]]
# A rewrite may double the rounding error of the captured fp32 model (6 dB); a wrong one shows as tens of dB (FACTS: 80 against 112).
_ALLOWED_LOSS_DB = 6.0
# Above this an fp32 model is at the limit of the format: 24 significant bits are 6.02 * 24 = 144 dB, less the growth over a few layers.
_EXACT_DB = 120.0
# Both sides of a conversion run the same fp32 kernels: what differs is a reordered sum, 20 dB below the exactness of fp32 at most.
_CONVERSION_DB = 100.0


@dataclass(frozen=True)
class Canonical:
    """A hub in canonical form and the names of the rewrites that changed it, in order."""

    model: ir.Model
    rewrites: tuple[str, ...]


def canonicalize(captured: onnx.ModelProto, feed: Feed) -> Canonical:
    """Bring a captured model to canonical form.

    Args:
        captured: any ONNX model of opset 7 to 28.
        feed: example inputs, one sample.

    Raises:
        HubError: the model cannot be converted, or a rewrite changed what it computes (the message names the rewrite).
    """
    import onnx_ir as ir

    _refuse_foreign(captured)
    converted = functions.expanded(at_opset(later.spelled(captured)), functions.is_said_with_others)
    model = ir.from_proto(converted)
    _refuse_leftovers(model)
    check = _Check(captured, converted, feed)
    applied: list[str] = []
    for rewrite in passes.sequence():
        if _apply(rewrite, model):
            check(ir.to_proto(model), rewrite.name)
            applied.append(rewrite.name)
    _refuse_leftovers(model)
    # The last word, whatever the rewrites said of themselves.
    check(ir.to_proto(model), "sequence as a whole")
    return Canonical(model, tuple(applied))


def _apply(rewrite: passes.Rewrite, model: ir.Model) -> bool:
    try:
        return rewrite(model).modified
    except HubError:
        raise
    except Exception as error:
        raise HubError(f"rewrite {rewrite.name} failed ({one_line(error)})", "report this model; the rewrite has a defect") from error


class _Check:
    """Compares each stage with the captured model in float64, on one sample."""

    def __init__(self, captured: onnx.ModelProto, converted: onnx.ModelProto, feed: Feed) -> None:
        """``converted`` is the captured model, or what it became at the hub's opset, which is checked first."""
        truth = Float64Run(captured)
        self._feed, self._truth = _telling(truth, feed)
        if converted is not captured:
            self._conversion(captured, converted)
        quality = self._quality(_runnable(converted))
        if quality == -np.inf:
            raise HubError(
                "onnxruntime and float64 give different infinities, NaNs or shapes on the example", "give an example the model is finite on"
            )
        self._floor = min(_EXACT_DB, quality) - _ALLOWED_LOSS_DB

    def __call__(self, model: onnx.ModelProto, name: str) -> None:
        quality = self._quality(model)
        if not quality >= self._floor:
            raise HubError(f"rewrite {name} changed the model: {quality:.1f} dB, {self._floor:.1f} dB needed", "report this model")

    def _conversion(self, captured: onnx.ModelProto, converted: onnx.ModelProto) -> None:
        """Both must give the same: in float64 where that judges the captured model as it is, else in onnxruntime.

        The float64 truth of an old opset may itself come from the conversion, so cannot judge it.
        """
        quality = -np.inf
        if functions.opset_of(captured) >= OPSET:
            doubled = Float64Run(converted)(self._feed)
            quality = _lowest(self._truth, doubled)
        if not quality >= _CONVERSION_DB:
            before, after = (run_plain(_runnable(model), self._feed) for model in (captured, converted))
            quality = max(quality, _lowest(before, after))
        if not quality >= _CONVERSION_DB:
            raise HubError(f"the conversion to opset {OPSET} changed the model: {quality:.1f} dB", f"export the student with opset {OPSET}")

    def _quality(self, model: onnx.ModelProto) -> float:
        """The lowest SQNR in dB over the outputs; infinite when all are exact, -infinite when an output is missing or of another shape."""
        return _lowest(self._truth, run_plain(model, self._feed))


def _lowest(truth: Feed, results: Feed) -> float:
    """The lowest SQNR in dB over the outputs; -infinite when the outputs are not the same ones."""
    return min(_sqnr(truth[name], result) for name, result in results.items()) if list(results) == list(truth) else -np.inf


def _runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as onnxruntime runs it: recurrent layers have time first. What that computes is held against the model's own truth."""
    import onnx_ir as ir

    batchwise = any(attribute.name == "layout" and attribute.i for node in model.graph.node for attribute in node.attribute)
    if not batchwise:
        return model
    spelled = ir.from_proto(model)
    passes.plain_layers(spelled)
    return ir.to_proto(spelled)


def _telling(truth: Float64Run, feed: Feed) -> tuple[Feed, dict[str, NDArray[Any]]]:
    """A feed that shows what a model computes, with the answer: an example of all zeros hides every weight, so it is drawn instead."""
    random = np.random.default_rng(0)
    if any(map(_is_flat, feed.values())):
        drawn = {name: random.uniform(0, 1, array.shape).astype(array.dtype) if _is_flat(array) else array for name, array in feed.items()}
        answer = truth(drawn)
        if all(np.isfinite(array).all() for array in answer.values()):
            return drawn, answer
    return feed, truth(feed)


def _is_flat(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and array.size > 1 and bool((array == array.flat[0]).all())


def _sqnr(truth: NDArray[Any], result: NDArray[Any]) -> float:
    if result.shape != truth.shape:
        return -np.inf
    wanted, found = truth.astype(np.float64), result.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return -np.inf
    error = np.square(found[finite] - wanted[finite]).sum()
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(wanted[finite]).sum() / error)) if error else float("inf")


def run_plain(model: onnx.ModelProto, feed: Feed, wanted: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """One sample through onnxruntime without graph optimizations, one thread: each node as the specification has it."""
    return plain_session(model)(feed, wanted)


def plain_session(model: onnx.ModelProto) -> Callable[..., dict[str, NDArray[Any]]]:
    """A function (feed, wanted outputs or None) -> outputs by name, over one unoptimised onnxruntime session."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise HubError(f"onnxruntime cannot load the model ({one_line(error)})", "re-export the student") from error
    names = [output.name for output in session.get_outputs()]

    def run(feed: Feed, wanted: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        chosen = list(names if wanted is None else wanted)
        if not chosen:  # onnxruntime would take an empty list for all
            return {}
        try:
            return dict(zip(chosen, session.run(chosen, dict(feed)), strict=True))
        except Exception as error:
            raise HubError(f"onnxruntime cannot run the model ({one_line(error)})", "run the student on its example first") from error

    return run


def _refuse_foreign(model: onnx.ModelProto) -> None:
    """Before anything runs: operators that are neither ONNX's nor defined in the model itself."""
    defined = {(function.domain, function.name) for function in model.functions}
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        is_known = node.domain in functions.ONNX or (node.domain, node.op_type) in defined or functions.is_newer_than_hub(node)
        if not is_known:
            raise HubError(f"{node.op_type} '{node.name}' is of domain '{node.domain}'", "export the student with ONNX operators only")


def _refuse_leftovers(model: ir.Model) -> None:
    """HubError for a weight that holds NaN, and, once functions are inlined, for a foreign operator at any depth."""
    for node in model.graph.all_nodes() if not model.functions else ():
        if node.domain not in functions.ONNX:
            raise HubError(f"{node.op_type} '{node.name}' is of domain '{node.domain}'", "export the student with ONNX operators only")
    for value in (value for graph in model.graphs() for value in graph.initializers.values()):
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise HubError(f"weight '{value.name}' holds NaN", "load weights from a training run that did not diverge")
