"""Copies of artifacts that also give what they compute inside: the same file with more outputs, for the same runners.

Nothing else is changed, so that delegates and fusions stay: values that a fusion swallowed are not asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import Binding
from edgepack.errors import one_line
from edgepack.quantize.encoding import UINT8_TO_INT8
from edgepack.verify.judge import VerifyError
from edgepack.verify.segments import Network


def tapped(runner: str, artifact: Path, hub: Network, copy: Path) -> tuple[Binding, ...]:
    """Write ``copy``: the artifact with every value of ``hub`` it holds as an output; answers where each lies.

    ORT gives ``hub.layers``; TFLite those for which its metadata has a layout and whose tensor it computes; Core ML every value.

    Raises:
        VerifyError: the artifact cannot be read, or does not say which of its values are the hub's.
    """
    try:
        return _TAPPERS[runner](artifact, hub, copy)
    except VerifyError:
        raise
    except Exception as error:
        raise VerifyError(f"{artifact.name} cannot be read ({one_line(error)})", "build the pack again") from error


def as_on_hub(found: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Codes and integers in the hub's type: int8 codes become its uint8, int32 its int64; reals stay what they are."""
    if found.dtype == np.int8 and dtype == "uint8":
        return (found.astype(np.int16) + UINT8_TO_INT8).astype(np.uint8)
    return found if found.dtype.kind == "f" else found.astype(dtype)


def _onnx(artifact: Path, hub: Network, copy: Path) -> tuple[Binding, ...]:
    import onnx

    from edgepack.hub.reading import load_model

    model = load_model(artifact)
    held = {name for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    names = [name for name in hub.layers if name in held]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    onnx.save(model, copy)
    return tuple(Binding(name, name, "", ()) for name in names)


def _tflite(artifact: Path, hub: Network, copy: Path) -> tuple[Binding, ...]:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    from edgepack.backends.tflite.flatbuffer import IDENTIFIER, aligned_buffer

    model: Any = schema.ModelT.InitFromPackedBuf(artifact.read_bytes(), 0)
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    orders = _tflite_orders(model, artifact)
    computed = {index for operator in graph.operators for index in operator.outputs}
    where = {graph.tensors[index].name.decode(): int(index) for index in computed}
    names = [name for name in hub.values if name in orders and name in where]
    taken = {entry.name.decode() for entry in signature.outputs}
    places = {name: name if name not in taken else f"{name}/tap" for name in names}
    for name in names:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = places[name], where[name]
        signature.outputs.append(entry)
    graph.outputs = list(dict.fromkeys([*map(int, graph.outputs), *(where[name] for name in names)]))
    model.buffers = [held if held.data is None else aligned_buffer(schema, np.asarray(held.data, np.uint8)) for held in model.buffers]
    builder = flatbuffers.Builder(artifact.stat().st_size + 2**16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    copy.write_bytes(builder.Output())
    return tuple(Binding(places[name], name, "", (), orders[name]) for name in names)


def _tflite_orders(model: Any, artifact: Path) -> dict[str, tuple[int, ...]]:
    """The order of axes by hub value name, from the metadata that edgepack writes; empty for the hub's own."""
    held = [bytes(model.buffers[entry.buffer].data) for entry in model.metadata or () if entry.name == b"edgepack"]
    layouts: dict[str, list[str]] | None = json.loads(held[0]).get("layouts") if held else None
    if layouts is None:
        raise VerifyError(f"{artifact.name} does not say how its tensors lie", "build the pack again with this edgepack")
    orders = {tuple(map(int, key.split(","))) if key else (): names for key, names in layouts.items()}
    return {name: () if order == tuple(range(len(order))) else order for order, names in orders.items() for name in names}


def _coreml(artifact: Path, hub: Network, copy: Path) -> tuple[Binding, ...]:
    from edgepack.backends.coreml.package import RENAMED
    from edgepack.mil.environment import coremltools

    shutil.copytree(artifact, copy)
    file = next((copy / "Data" / "com.apple.CoreML").glob("*.mlmodel"))
    spec = coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    renamed: dict[str, str] = json.loads(spec.description.metadata.userDefined.get(RENAMED, "{}"))
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    held = {output.name for operation in block.operations for output in operation.outputs if operation.type != "const"}
    places = {name: renamed.get(name, name) for name in hub.values}
    names = [name for name, place in places.items() if place in held]
    known = set(block.outputs)
    block.outputs.extend(place for place in dict.fromkeys(places[name] for name in names) if place not in known)
    file.write_bytes(spec.SerializeToString(deterministic=True))
    return tuple(Binding(places[name], name, "", ()) for name in names)


_TAPPERS: dict[str, Callable[[Path, Network, Path], tuple[Binding, ...]]] = {
    "ort": _onnx,
    "litert": _tflite,
    "tflite_runtime": _tflite,
    "mil": _coreml,
}
