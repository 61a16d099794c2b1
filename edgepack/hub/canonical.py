"""Canonical form: the one spelling of a model that every later room reads.

What holds afterwards: opset 21, ONNX domain only, no functions, constants as embedded initializers, BatchNormalization folded into its
Conv or Gemm, Gemm as x @ W^T + b with nothing else, explicit pads, static Reshape targets, no attribute that merely repeats its
default, every node named, every value typed and shaped. Each rewrite is an onnx_ir pass that states what it needs and what it leaves;
after each one that changed something the model is run on the example and compared with the captured one in float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import one_line
from edgepack.hub import passes
from edgepack.hub.graph import OPSET, HubError
from edgepack.hub.reference import Float64Run

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Feed = Mapping[str, NDArray[Any]]

# A rewrite may double the rounding error of the captured fp32 model (6 dB); a wrong one shows as tens of dB (FACTS: 80 against 112).
_ALLOWED_LOSS_DB = 6.0
# Above this an fp32 model is at the limit of the format: 24 significant bits are 6.02 * 24 = 144 dB, less the growth over a few layers.
_EXACT_DB = 120.0


@dataclass(frozen=True)
class Canonical:
    """A hub in canonical form and the names of the rewrites that changed it, in order."""

    model: ir.Model
    rewrites: tuple[str, ...]


def canonicalize(captured: onnx.ModelProto, feed: Feed) -> Canonical:
    """Bring a captured model to canonical form.

    Args:
        captured: any ONNX model of opset 7 to 25.
        feed: example inputs, one sample.

    Raises:
        HubError: the model cannot be converted, or a rewrite changed what it computes (the message names the rewrite).
    """
    import onnx_ir as ir

    _refuse_foreign(captured)
    model = ir.from_proto(at_opset(captured))
    check = _Check(captured, feed)
    applied: list[str] = []
    for rewrite in passes.sequence():
        if _apply(rewrite, model):
            check(ir.to_proto(model), rewrite.name)
            applied.append(rewrite.name)
    _refuse_leftovers(model)
    return Canonical(model, tuple(applied))


def at_opset(model: onnx.ModelProto, opset: int = OPSET) -> onnx.ModelProto:
    """The model at another opset, unchanged when it is there already; HubError when ONNX has no adapter for a node."""
    import onnx
    from onnx import version_converter

    held = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    if held == opset:
        return model
    if not 7 <= held <= 25:
        raise HubError(f"the model has ONNX opset {held}", "export it with an opset from 7 to 25")
    try:
        converted = version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except Exception as error:
        raise HubError(
            f"opset {held} cannot be converted to {opset} ({one_line(error)})", f"export the student with opset {opset}"
        ) from error
    return converted


def _apply(rewrite: passes.Rewrite, model: ir.Model) -> bool:
    try:
        return rewrite(model).modified
    except HubError:
        raise
    except Exception as error:
        raise HubError(f"rewrite {rewrite.name} failed ({one_line(error)})", "report this model; the rewrite has a defect") from error


class _Check:
    """Compares each stage with the captured model in float64, on one sample."""

    def __init__(self, captured: onnx.ModelProto, feed: Feed) -> None:
        self._feed = feed
        self._truth = Float64Run(captured)(feed)
        self._floor = min(_EXACT_DB, self._quality(captured)) - _ALLOWED_LOSS_DB

    def __call__(self, model: onnx.ModelProto, name: str) -> None:
        quality = self._quality(model)
        if not quality >= self._floor:
            raise HubError(f"rewrite {name} changed the model: {quality:.1f} dB, {self._floor:.1f} dB needed", "report this model")

    def _quality(self, model: onnx.ModelProto) -> float:
        """The lowest SQNR in dB over the outputs; infinite when all are exact."""
        results = run_plain(model, self._feed)
        return min(_sqnr(self._truth[name], result) for name, result in results.items())


def _sqnr(truth: NDArray[Any], result: NDArray[Any]) -> float:
    error = np.square(result.astype(np.float64) - truth).sum()
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(truth.astype(np.float64)).sum() / error)) if error else float("inf")


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
        chosen = list(wanted or names)
        return dict(zip(chosen, session.run(chosen, dict(feed)), strict=True))

    return run


def _refuse_foreign(model: onnx.ModelProto) -> None:
    """Before anything runs: operators that are neither ONNX's nor defined in the model itself."""
    defined = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in defined:
            raise HubError(f"{node.op_type} '{node.name}' is of domain '{node.domain}'", "export the student with ONNX operators only")


def _refuse_leftovers(model: ir.Model) -> None:
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            raise HubError(f"{node.op_type} '{node.name}' is of domain '{node.domain}'", "export the student with ONNX operators only")
    for value in model.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise HubError(f"weight '{value.name}' holds NaN", "load weights from a training run that did not diverge")
