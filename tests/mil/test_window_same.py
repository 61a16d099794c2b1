"""pad_type "same" and "same_lower" against ONNX Runtime's SAME_UPPER and SAME_LOWER."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from .packages import builder, interpret

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

X = np.random.default_rng(3).normal(-2, 1, (1, 2, 7, 8)).astype(np.float32)
AUTO_PAD = {"same": "SAME_UPPER", "same_lower": "SAME_LOWER"}


def onnx_runtime(kind: str, *weights: Any, **attributes: Any) -> Any:
    """One ONNX node applied to X."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    names = ["x", *(f"w{index}" for index in range(len(weights)))]
    node = helper.make_node(kind, names, ["y"], **attributes)
    held = [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names[1:], strict=True)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, X.shape)], [value("y", TensorProto.FLOAT, None)], held)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.mark.parametrize("pad_type", AUTO_PAD)
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_padding_that_depends_on_the_input_is_onnx_runtimes(pad_type: str, strides: list[int]) -> None:
    weight = np.random.default_rng(4).normal(0, 1, (3, 2, 4, 3)).astype(np.float32)
    shared = {"strides": strides, "pad_type": pad_type}
    onnx_shared = {"strides": strides, "auto_pad": AUTO_PAD[pad_type], "kernel_shape": [4, 3]}

    def body(x: Any) -> Any:
        pooled = builder().max_pool(x=x, kernel_sizes=[4, 3], **shared)
        mean = builder().avg_pool(x=x, kernel_sizes=[4, 3], exclude_padding_from_average=True, **shared)
        return [builder().conv(x=x, weight=weight, **shared), pooled, mean]

    wanted = [
        onnx_runtime("Conv", weight, **onnx_shared),
        onnx_runtime("MaxPool", **onnx_shared),
        onnx_runtime("AveragePool", **onnx_shared),
    ]
    for found, want in zip(interpret(body, x=X), wanted, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5, rtol=1e-5)
