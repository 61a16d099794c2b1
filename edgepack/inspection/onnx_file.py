"""Facts of an .onnx file, by any exporter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import Finding
from edgepack.errors import one_line
from edgepack.inspection.facts import FileFacts, InspectionError, OperatorCount, Port
from edgepack.inspection.graph import Call, Constant, Graph, Scales, fused, largest, quantization, weights_by_dtype
from edgepack.inspection.macs import products, stored_tensors_of

if TYPE_CHECKING:
    import onnx

_STANDARD = frozenset({"", "ai.onnx"})
# Domains whose operators a plain onnxruntime has.
_RUNTIME = frozenset({*_STANDARD, "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.preview.training"})
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat"})
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"})
_UNREADABLE = "it is damaged, or no ONNX model: export it again"


def inspect(path: Path) -> FileFacts:
    """Read ``path``; weights in external files are read where they are there.

    Raises:
        InspectionError: it is no ONNX model.
    """
    from edgepack.hub.external import ModelFileError
    from edgepack.hub.reading import load_model

    try:
        model = load_model(path, weights=False)
    except ModelFileError as error:
        raise InspectionError(error.cause, error.hint) from error
    if not model.graph.node and not model.graph.output:
        raise InspectionError(f"{path} holds no graph", _UNREADABLE)
    try:
        return _facts(path, model)
    except InspectionError:
        raise
    except Exception as error:
        raise InspectionError(f"{path} cannot be read as ONNX ({one_line(error)})", _UNREADABLE) from error


def _facts(path: Path, model: onnx.ModelProto) -> FileFacts:
    model, notes = _inferred(model)
    reader = _Reader(model, path.parent)
    graph = reader.graph()
    macs, unknown = reader.macs()
    labels = tuple(filter(None, reader.properties.pop("labels", "").split("\n")))
    return FileFacts(
        file=path.name,
        format="ONNX",
        bytes=path.stat().st_size + reader.external_bytes,
        writer=" ".join(filter(None, (model.producer_name, model.producer_version))) or "unknown",
        versions=_versions(model),
        inputs=tuple(_port(value) for value in model.graph.input if value.name not in graph.constants),
        outputs=tuple(map(_port, model.graph.output)),
        operators=_operators(model),
        weights=weights_by_dtype(graph.constants.values()),
        largest=largest(graph.constants.values()),
        quantization=quantization(graph),
        macs=macs,
        not_counted=unknown,
        metadata={**({"description": model.doc_string} if model.doc_string else {}), **reader.properties},
        labels=labels,
        findings=(*notes, *reader.missing()),
    )


def _inferred(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Finding]]:
    """With shapes where they can be told; a graph that contradicts itself is a finding, and is looked at all the same."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True), []
    except Exception as error:
        return model, [Finding("warning", "model", f"shapes cannot be told ({one_line(error)})")]


def _versions(model: onnx.ModelProto) -> dict[str, str]:
    opsets = {entry.domain or "opset": str(entry.version) for entry in model.opset_import if entry.domain in _STANDARD}
    others = {entry.domain: str(entry.version) for entry in model.opset_import if entry.domain not in _STANDARD}
    return {**opsets, **others, "IR": str(model.ir_version)}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _operators(model: onnx.ModelProto) -> tuple[OperatorCount, ...]:
    own = {(function.domain, function.name) for function in model.functions}
    counts = Counter((node.domain, node.op_type) for node in _nodes(model.graph))
    return tuple(
        OperatorCount(name, count, None, "" if domain in _STANDARD else domain, domain not in _RUNTIME and (domain, name) not in own)
        for (domain, name), count in counts.most_common()
    )


def _port(value: onnx.ValueInfoProto) -> Port:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, (kind or "untyped").removesuffix("_type"), ())
    held = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in held.shape.dim)
    return Port(value.name, _type_name(onnx.TensorProto.DataType.Name(held.elem_type)), shape)


class _Reader:
    """One model, and the folder its external data lie in."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._graph = model.graph
        self._stored = {held.name: held for held in stored_tensors_of(self._graph)}
        self.properties: dict[str, str] = {entry.key: entry.value for entry in model.metadata_props}
        self._files = {_location(held) for held in self._stored.values() if _location(held)}
        self.external_bytes = sum((folder / name).stat().st_size for name in self._files if (folder / name).is_file())

    def missing(self) -> list[Finding]:
        """External data that is not there."""
        absent = sorted(name for name in self._files if not (self._folder / name).is_file())
        return [Finding("error", name, "this file holds weights and is not there: put it beside the model") for name in absent]

    def graph(self) -> Graph:
        """The calls with their kinds, the constants with what is known of their codes."""
        scales = {name: found for node in self._graph.node for name, found in self._weight_scales(node)} | self._expanded()
        self._ranged = {name for node in self._graph.node if node.op_type == "DynamicQuantizeLinear" for name in node.output}
        constants = {name: self._constant(held, scales.get(name)) for name, held in self._stored.items()}
        fixed = set(constants)
        calls, activations = [], {}
        for node in self._graph.node:
            if all(name in fixed for name in node.input if name):
                fixed.update(node.output)
                continue
            calls.append(Call(node.op_type, self._computed(node, fixed), tuple(filter(None, node.output)), self._kind(node)))
            if node.op_type == "QuantizeLinear" and (found := self._array(node.input[1])) is not None:
                activations[node.output[0]] = Scales(found.astype(np.float64))
        return Graph(fused(calls, "QuantizeLinear", "DequantizeLinear"), constants, activations)

    def _kind(self, node: onnx.NodeProto) -> str:
        if node.op_type in _CONVERSIONS:
            return "conversion"
        if node.op_type in _DYNAMIC or (node.op_type in _INTEGER and node.input[0] in self._ranged):
            return "dynamic"
        return "integer" if node.op_type in _INTEGER else "real"

    @staticmethod
    def _computed(node: onnx.NodeProto, fixed: set[str]) -> tuple[str, ...]:
        return tuple(name for name in node.input if name and name not in fixed)

    def _weight_scales(self, node: onnx.NodeProto) -> Iterator[tuple[str, tuple[Scales, NDArray[Any] | None]]]:
        """Constant codes that a node reads, with their scales."""
        places = {"DequantizeLinear": [(0, 1, 2)], "QLinearConv": [(3, 4, 5)], "QLinearMatMul": [(3, 4, 5)]}.get(node.op_type, [])
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            places = [(1, 2, 3)]
        for codes, scale, zero in places:
            name = node.input[codes] if len(node.input) > codes else ""
            found = self._array(node.input[scale]) if name in self._stored and len(node.input) > scale else None
            if found is None:
                continue
            given = {attribute.name: attribute.i for attribute in node.attribute}
            axis = None if found.size == 1 else int(given.get("axis", 0 if node.op_type.startswith("QLinear") else 1))
            zero_point = self._array(node.input[zero]) if len(node.input) > zero else None
            yield name, (Scales(found.astype(np.float64), axis, int(given.get("block_size", 0))), zero_point)

    def _expanded(self) -> dict[str, tuple[Scales, NDArray[Any] | None]]:
        """Constant codes that a Cast turns to reals and a Mul scales: weights alone in codes, as runtimes without kernels for them take it.
        Those that an integer product reads are scaled after it; their scales are not looked for."""
        cast = {node.output[0]: node.input[0] for node in self._graph.node if node.op_type == "Cast" and node.input[0] in self._stored}
        found: dict[str, tuple[Scales, NDArray[Any] | None]] = {}
        for node in self._graph.node:
            if node.op_type in ("MatMulInteger", "ConvInteger") and node.input[1] in self._stored:
                found[node.input[1]] = Scales(np.zeros(0)), None
            codes = next((cast[name] for name in node.input if name in cast), "") if node.op_type == "Mul" else ""
            scale = next((array for name in node.input if (array := self._array(name)) is not None), None)
            if codes and scale is not None and _bits(_dtype(self._stored[codes])) <= _BYTE:
                axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
                found[codes] = Scales(scale.astype(np.float64), axes[0] if axes else None), None
        return found

    def _constant(self, held: onnx.TensorProto, coded: tuple[Scales, NDArray[Any] | None] | None) -> Constant:
        dtype = _dtype(held)
        shape = tuple(held.dims)
        size = math.ceil(math.prod(shape) * _bits(dtype) / 8)
        if coded is None:
            return Constant(held.name, dtype, shape, size)
        return Constant(held.name, dtype, shape, size, self._array(held.name), *coded)

    def _array(self, name: str) -> NDArray[Any] | None:
        """The numbers of a constant; None when it is computed, or its file is not there."""
        import onnx

        held = self._stored.get(name)
        if held is None or (_location(held) and not (self._folder / _location(held)).is_file()):
            return None
        try:
            return np.asarray(onnx.numpy_helper.to_array(held, base_dir=str(self._folder)))
        except Exception as error:
            raise InspectionError(f"tensor '{name}' cannot be read ({one_line(error)})", _UNREADABLE) from error

    def macs(self) -> tuple[int, tuple[str, ...]]:
        """Multiply-accumulates, and operators whose sizes are not known."""
        found = list(products(self._model))
        return sum(held.macs or 0 for held in found), tuple(held.name for held in found if held.macs is None)


_BYTE = 8


def _dtype(held: onnx.TensorProto) -> str:
    import onnx

    return _type_name(onnx.TensorProto.DataType.Name(held.data_type))


def _type_name(name: str) -> str:
    """ONNX's name of an element type as numpy has it."""
    return {"float": "float32", "double": "float64"}.get(name.lower(), name.lower())


def _bits(dtype: str) -> int:
    named = {"bool": 8, "string": 0, "bfloat16": 16, "complex64": 64, "complex128": 128, "float8e4m3fn": 8, "float8e5m2": 8}
    digits = "".join(filter(str.isdigit, dtype))
    return named[dtype] if dtype in named else int(digits or 8)


def _location(held: onnx.TensorProto) -> str:
    """The file an external tensor lies in, "" for one inside the model."""
    return next((entry.value for entry in held.external_data if entry.key == "location"), "")
