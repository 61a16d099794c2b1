"""Small hubs written by hand, and both runtimes that answer them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.backends.tflite import write
from edgepack.quantize.placement import ACTIVATIONS, DYNAMIC
from edgepack.runner import litert

Arrays = dict[str, NDArray[Any]]


@dataclass
class Hub:
    """Nodes, inputs, outputs and initializers of one model; types are those of the example arrays.

    ``shape`` is that of "y" where ONNX's own shape inference has no rule for the operator.
    """

    nodes: list[onnx.NodeProto]
    feed: Arrays
    initializers: Arrays
    outputs: dict[str, type] | None = None
    shape: tuple[int, ...] | None = None

    def save(self, path: Path) -> Path:
        outputs = self.outputs or {"y": np.float32}
        graph = helper.make_graph(
            self.nodes,
            "hub",
            [helper.make_tensor_value_info(name, _type(array.dtype), array.shape) for name, array in self.feed.items()],
            [helper.make_tensor_value_info(name, _type(np.dtype(dtype)), self.shape) for name, dtype in outputs.items()],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.initializers.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
        onnx.save(inferred, path)
        return path


def _type(dtype: np.dtype[Any]) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)


def node(operator: str, inputs: str, outputs: str = "y", name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are written as one string; "-" stands for an omitted input."""
    names = ["" if held == "-" else held for held in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), name or operator.lower(), **attributes)


def dynamic(marked: onnx.NodeProto) -> onnx.NodeProto:
    """A node that w8d8 computes on codes ranged at run time."""
    marked.metadata_props.add(key=ACTIVATIONS, value=DYNAMIC)
    return marked


def single(operator: str, *arrays: NDArray[Any], weights: Arrays | None = None, **attributes: Any) -> Hub:
    """One operator over inputs x0, x1, ... and then its weights, in order."""
    feed = {f"x{index}": array for index, array in enumerate(arrays)}
    held = weights or {}
    inputs = " ".join([*feed, *(name if array is not None else "-" for name, array in held.items())])
    return Hub([node(operator, inputs, **attributes)], feed, {name: array for name, array in held.items() if array is not None})


def convert(hub: Hub, folder: Path, scheme: str = "fp32", images: bool = True) -> ArtifactDescription:
    """The hub written to ``folder``; inputs and outputs of rank 4 are declared NCHW."""
    model = hub.save(folder / "hub.onnx")
    layouts = {name: "NCHW" for name, array in hub.feed.items() if array.ndim == 4} if images else {}
    ends = dict.fromkeys(hub.outputs or {"y": None}, "NCHW") if images else {}
    return write(model, folder, WriteOptions(scheme, layouts, ends))


def run_litert(description: ArtifactDescription, folder: Path, feed: Arrays) -> Arrays:
    """The artifact's outputs in the hub's layout."""
    session = litert.RUNTIME.load(str(folder / description.file), 1)
    bound = {binding.hub_name: binding for binding in description.inputs}
    session.set_inputs({bound[name].name: _forth(array, bound[name].permutation) for name, array in feed.items()})
    session.invoke()
    results = session.outputs()
    return {binding.hub_name: _back(results[binding.name], binding.permutation) for binding in description.outputs}


def _forth(array: NDArray[Any], permutation: tuple[int, ...]) -> NDArray[Any]:
    return array.transpose(permutation) if permutation else array


def _back(array: NDArray[Any], permutation: tuple[int, ...]) -> NDArray[Any]:
    return array.transpose(np.argsort(permutation)) if permutation else array


def run_ort(folder: Path, feed: Arrays) -> Arrays:
    """ONNX Runtime's outputs, int8 products without saturation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(folder / "hub.onnx", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def both(hub: Hub, folder: Path, scheme: str = "fp32", images: bool = True) -> tuple[Arrays, Arrays]:
    """(LiteRT's outputs, ONNX Runtime's outputs) of the hub's own feed."""
    description = convert(hub, folder, scheme, images)
    return run_litert(description, folder, hub.feed), run_ort(folder, hub.feed)


def read_file(path: Path) -> Any:
    """The whole flatbuffer as the schema's own objects: independent of the writer's records."""
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def operators(folder: Path) -> list[str]:
    """Operator names in execution order."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = read_file(folder / "model.tflite")
    return [names[model.operatorCodes[held.opcodeIndex].builtinCode] for held in model.subgraphs[0].operators]
