"""Small ONNX models for tests, and ONNX Runtime as the reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Arrays = dict[str, NDArray[Any]]


def make_model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], constants: Mapping[str, NDArray[Any]]
) -> onnx.ModelProto:
    """A float32 model of opset 21 with inferred shapes."""
    return onnx.shape_inference.infer_shapes(
        helper.make_model(
            helper.make_graph(
                list(nodes),
                "test",
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
                [helper.make_empty_tensor_value_info(name) for name in outputs],
                [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
            ),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        ),
        strict_mode=True,
        data_prop=True,
    )


def single(
    operator: str, shape: Sequence[int], constants: Sequence[NDArray[Any] | None] = (), outputs: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """One node that reads ``image`` and constants (None for an omitted input)."""
    named = {f"constant_{index}": array for index, array in enumerate(constants) if array is not None}
    reads = ["image", *("" if array is None else f"constant_{index}" for index, array in enumerate(constants))]
    writes = [f"result_{index}" for index in range(outputs)]
    node = helper.make_node(operator, reads, writes, name=operator.lower(), **attributes)
    return make_model([node], {"image": shape}, writes, named)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write the model where a test can read it."""
    path = folder / "hub.onnx"
    onnx.save(model, path)
    return path


def run_onnxruntime(path: Path, feed: Arrays) -> Arrays:
    """The reference: ONNX Runtime on the CPU, one thread, exact int8 products."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
