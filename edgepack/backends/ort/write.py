"""ONNX Runtime artifacts: the (quantized) hub in onnxruntime's spelling, with its metadata, loaded once before it is called an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.backends.artifact import ArtifactDescription, Binding, Finding, WriteOptions
from edgepack.backends.ort.lower import lower
from edgepack.backends.table import BackendError, Obstacle
from edgepack.errors import one_line
from edgepack.quantize.scheme import Scheme

if TYPE_CHECKING:
    import onnx

_SCHEMES = ("fp32", "w8a8", "w8d8", "w8")
# FACTS: onnxruntime's CPU kernels for fp16 are emulated on most processors.
_UNFIT = {"fp16": "slower than fp32 in onnxruntime on a CPU and takes as much memory"}
_UNCHANGED = "the hub itself, unchanged but for metadata"
_REWRITTEN = {
    "w8a8": "activations that codes do not imply are clipped on codes; weights without an integer kernel are expanded at load",
    "w8": "int8 weights in the file, expanded once when the model is loaded",
    "w8d8": "matrix products on dynamic int8 activations (MatMulInteger); int8 weights of convolutions are expanded at load",
}
# What ONNX Runtime's optimizer leaves in float in a w8a8 model although the hub holds codes on both sides (linear operators matter most).
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")


def write(model: Path, out: Path, options: WriteOptions) -> ArtifactDescription:
    """Write ``out/model.onnx``.

    Args:
        model: a canonical hub: plain for fp32, with Q/DQ pairs for w8a8, with dequantized weights for w8 and w8d8; symbolic dimensions
            stay.

    Raises:
        BackendError: onnxruntime cannot load it, or has no kernels for the scheme.
    """
    import onnx

    scheme = Scheme.parse(options.scheme)
    if scheme.name not in _SCHEMES:
        raise BackendError(f"ort: scheme {scheme.name} is {_UNFIT.get(scheme.name, 'not written')}", f"use one of {', '.join(_SCHEMES)}")
    refuse(obstacles(model))
    proto, changed = _lowered(model, scheme)
    proto.producer_name, proto.producer_version = "edgepack", ""
    facts = {"name": options.name, "licence": options.licence, "scheme": options.scheme, "labels": "\n".join(options.labels)}
    onnx.helper.set_model_props(proto, {key: value for key, value in facts.items() if value})
    onnx.save(proto, out / "model.onnx")
    inputs, outputs = (_bindings(values) for values in (proto.graph.input, proto.graph.output))
    return ArtifactDescription("model.onnx", inputs, outputs, "ort", notes=(_REWRITTEN[scheme.name] if changed else _UNCHANGED,))


def _lowered(model: Path, scheme: Scheme) -> tuple[onnx.ModelProto, bool]:
    """The model in onnxruntime's spelling; an fp32 hub, or one with nothing to respell, as it lies on disk."""
    import onnx
    import onnx_ir as ir

    proto = onnx.load(model)
    if scheme.weight_bits == 32:
        return proto, False
    held = ir.from_proto(proto)
    changed = lower(held, scheme)
    return (ir.to_proto(held), True) if changed else (proto, False)


def obstacles(model: Path) -> list[Obstacle]:
    """Why onnxruntime would not load the model: at most one, since it stops at the first."""
    try:
        _session(model)
    except Exception as error:
        return [Obstacle("ort", "model", model.name, f"onnxruntime cannot load it ({one_line(error)})", "replace the operator it names")]
    return []


def refuse(found: list[Obstacle]) -> None:
    """BackendError for the first obstacle, if there is one."""
    if found:
        raise BackendError(str(found[0]), found[0].hint)


def lint(artifact: Path) -> list[Finding]:
    """Linear operators that stay real in a quantized model, seen in the graph onnxruntime itself would run."""
    import tempfile

    import onnx

    from edgepack.hub.reading import load_model

    if not any(node.op_type == "QuantizeLinear" for node in load_model(artifact).graph.node):
        return []
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _session(artifact, optimized)
        nodes = onnx.load(optimized).graph.node
    return [Finding("warning", node.name, f"onnxruntime runs this {node.op_type} in float") for node in nodes if node.op_type in _LINEAR]


def _session(model: Path, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _bindings(values: Any) -> tuple[Binding, ...]:
    import numpy as np
    import onnx

    def binding(value: Any) -> Binding:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim)
        return Binding(value.name, value.name, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))), shape)

    return tuple(binding(value) for value in values)
