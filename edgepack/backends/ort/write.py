"""ONNX Runtime artifacts: the (quantized) hub with its metadata, loaded once before it is called an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepack.backends.artifact import ArtifactDescription, Binding, Finding, WriteOptions
from edgepack.backends.table import BackendError, Obstacle
from edgepack.errors import one_line

# What ONNX Runtime's optimizer leaves in float in a w8a8 model although the hub holds codes on both sides (linear operators matter most).
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")


def write(model: Path, out: Path, options: WriteOptions) -> ArtifactDescription:
    """Write ``out/model.onnx``.

    Args:
        model: a canonical hub, fp32 or with Q/DQ pairs; symbolic dimensions stay.

    Raises:
        BackendError: onnxruntime cannot load it.
    """
    import onnx

    refuse(obstacles(model))
    proto = onnx.load(model)
    proto.producer_name, proto.producer_version = "edgepack", ""
    facts = {"name": options.name, "licence": options.licence, "scheme": options.scheme, "labels": "\n".join(options.labels)}
    onnx.helper.set_model_props(proto, {key: value for key, value in facts.items() if value})
    onnx.save(proto, out / "model.onnx")
    inputs, outputs = (_bindings(values) for values in (proto.graph.input, proto.graph.output))
    return ArtifactDescription("model.onnx", inputs, outputs, "ort", notes=("the hub itself, unchanged but for metadata",))


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

    if not any(node.op_type == "QuantizeLinear" for node in onnx.load(artifact).graph.node):
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
