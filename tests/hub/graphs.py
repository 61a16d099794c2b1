"""Small ONNX models, and onnxruntime on them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edgepack.hub.canonical import Canonical, canonicalize

Shapes = Mapping[str, Sequence[Any] | None]
FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 21,
    types: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model without any value_info; float32 unless ``types`` says otherwise."""
    ends = [
        [helper.make_tensor_value_info(name, (types or {}).get(name, FLOAT), shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "g", *ends, [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset >= 21 else 8, functions=list(functions))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch_norm(channels: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters s, b, m, v that are far from the identity."""
    random = np.random.default_rng(seed)
    positive = lambda: random.uniform(0.5, 2, channels).astype(np.float32)  # noqa: E731
    return {"s": positive(), "b": normal(channels, seed=1), "m": normal(channels, seed=2), "v": positive()}


def onnxruntime_run(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """onnxruntime with its default optimizations, outputs by name."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, dict(feed)), strict=True))


def canonical(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, Canonical]:
    """The canonical form as a file would hold it, checked by onnx."""
    form = canonicalize(proto, feed)
    written = ir.to_proto(form.model)
    onnx.checker.check_model(written, full_check=True)
    return written, form


def operators(proto: onnx.ModelProto) -> list[str]:
    """Operators in order."""
    return [node.op_type for node in proto.graph.node]


def attributes(proto: onnx.ModelProto, index: int = 0) -> dict[str, Any]:
    """Attributes of one node."""
    return {held.name: helper.get_attribute_value(held) for held in proto.graph.node[index].attribute}


def weights(proto: onnx.ModelProto, index: int = 0) -> list[np.ndarray]:
    """The initializers a node reads, in order."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return [held[name] for name in proto.graph.node[index].input if name in held]


# Sums of at most 36 products of order 1 in fp32, in two orders: 36 * 2^-23 = 4e-6, with a factor for the size of the terms.
FP32 = 3e-5


def kept(
    nodes: list[onnx.NodeProto], held: dict[str, np.ndarray], inputs: Any = None, outputs: Any = None, **options: Any
) -> onnx.ModelProto:
    """The canonical form, once onnxruntime has given the same for it as for the model itself."""
    inputs = inputs or {"x": [1, 4, 8, 8]}
    proto = model(nodes, inputs, outputs or {"y": None}, held, **options)
    feed = {name: normal(*[size if isinstance(size, int) else 2 for size in shape], seed=9) for name, shape in inputs.items()}
    form, _ = canonical(proto, feed)
    before, after = onnxruntime_run(proto, feed), onnxruntime_run(form, feed)
    assert list(before) == list(after)
    for name, wanted in before.items():
        np.testing.assert_allclose(after[name], wanted, rtol=FP32, atol=FP32)
        assert after[name].dtype == wanted.dtype
    return form
