"""One model through the hub to TFLite and Core ML, run in LiteRT and the MIL interpreter, beside onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgepack.hub.canonical import canonicalize, run_plain
from tests.conformance.worker import Result, booleans_as_int32, computed

Arrays = Mapping[str, NDArray[Any]]
FORMATS = ("tflite", "coreml")


def one_node(operator: str, inputs: Arrays, given: int = 1, outputs: int = 1, opset: int = 21, **attributes: Any) -> onnx.ModelProto:
    """A model of one node whose first ``given`` inputs are fed and whose others are weights; onnx says the shapes of its outputs."""
    results = [f"y{index}" if index else "y" for index in range(outputs)]
    node = helper.make_node(operator, list(inputs), results, **attributes)
    fed = list(inputs.items())[:given]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in list(inputs.items())[given:]]
    ends = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in fed]
    # Of a first guess of the outputs' types only the run's own are kept.
    guessed = [helper.make_tensor_value_info(name, 1, None) for name in results]
    opsets = [helper.make_opsetid("", opset)]
    draft = helper.make_model(helper.make_graph([node], "one", ends, guessed, weights), opset_imports=opsets, ir_version=10)
    del draft.graph.output[:]
    typed = onnx.shape_inference.infer_shapes(draft).graph.value_info
    types = {held.name: held.type.tensor_type.elem_type for held in typed}
    draft.graph.output.extend(helper.make_tensor_value_info(name, types[name], None) for name in results)
    found = run_plain(draft, dict(fed))
    del draft.graph.output[:]
    draft.graph.output.extend(helper.make_tensor_value_info(name, types[name], array.shape) for name, array in found.items())
    return draft


def artifact_outputs(model: onnx.ModelProto, feed: Arrays, format_name: str, folder: Path, scheme: str = "fp32") -> dict[str, NDArray[Any]]:
    """What the artifact of a model answers, by output name; an EdgepackError where the format refuses it."""
    import onnx_ir as ir

    hub = ir.to_proto(canonicalize(model, dict(feed)).model)
    onnx.save(hub if format_name == "tflite" else booleans_as_int32(hub), folder / "hub.onnx")
    given = computed(folder, "hub.onnx", feed, *_parts(format_name), scheme)
    assert not isinstance(given, Result), given
    return given.outputs


def _parts(format_name: str) -> tuple[Any, Any]:
    if format_name == "tflite":
        from edgepack.backends import tflite
        from edgepack.runner.litert import LiteRTSession

        return tflite, lambda path: LiteRTSession(path, 1)
    from edgepack.backends import coreml
    from edgepack.runner.mil import MilSession

    return coreml, MilSession
