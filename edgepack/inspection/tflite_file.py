"""Facts of a .tflite file, by any converter, read with the schema's own classes and no interpreter."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import Finding
from edgepack.errors import one_line
from edgepack.inspection.facts import FileFacts, InspectionError, OperatorCount, Port
from edgepack.inspection.flatbuffer import bounded, keeps_weights_elsewhere
from edgepack.inspection.graph import Call, Constant, Graph, Scales, largest, quantization, weights_by_dtype

_IDENTIFIER = b"TFL3"
# A flatbuffer addresses itself with signed 32-bit offsets.
_LARGEST_FILE = 2**31
_UNREADABLE = "it is damaged, or no TFLite model: convert it again"
# Operators with weights: which input holds them.
_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1, "BATCH_MATMUL": 1}
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_BITS = {"int4": 4, "uint4": 4, "int2": 2, "bool": 8, "string": 0, "resource": 0, "variant": 0}
_CODES = frozenset({"int8", "uint8", "int16", "int4", "int2"})
# Metadata that is for programs alone.
_MACHINE = frozenset({"layouts"})


def inspect(path: Path) -> FileFacts:
    """Read ``path``.

    Raises:
        InspectionError: it is no TFLite model, or is damaged.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
        raise InspectionError(f"{path} is no file, or has more bytes than a flatbuffer can", _UNREADABLE)
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        raise InspectionError(f"{path} is no TFLite model (its identifier is {content[4:8]!r}, not {_IDENTIFIER!r})", _UNREADABLE)
    try:
        return _facts(path, content)
    except Exception as error:
        raise InspectionError(f"{path} cannot be read as TFLite ({one_line(error)})", _UNREADABLE) from error


def _facts(path: Path, content: bytes) -> FileFacts:
    from ai_edge_litert import schema_py_generated as schema

    with bounded(len(content)):
        model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    if keeps_weights_elsewhere(content):
        raise ValueError("it keeps weights in another file")
    if not model.subgraphs:
        raise ValueError("it holds no subgraph")
    reader = _Reader(schema, model)
    graphs = [reader.graph(subgraph, prefix=f"{index}:" if index else "") for index, subgraph in enumerate(model.subgraphs)]
    graph = Graph(
        tuple(call for each in graphs for call in each.calls),
        {name: held for each in graphs for name, held in each.constants.items()},
        {name: held for each in graphs for name, held in each.activations.items()},
    )
    metadata, labels = _metadata(model, content)
    inputs, outputs = reader.ports()
    operators = tuple(reader.operators())
    return FileFacts(
        file=path.name,
        format="TFLite",
        bytes=len(content),
        writer=_text(model.description) or "unknown",
        versions=_versions(model),
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        weights=weights_by_dtype(reader.unique(graph.constants)),
        largest=largest(reader.unique(graph.constants)),
        quantization=quantization(graph),
        macs=sum(reader.macs(subgraph) for subgraph in model.subgraphs),
        not_counted=tuple(f"custom operator {held.name}" for held in operators if held.custom),
        metadata=metadata,
        labels=labels,
        findings=tuple(_findings(model, operators)),
    )


def _versions(model: Any) -> dict[str, str]:
    found = {"schema": str(model.version)}
    if len(model.subgraphs) > 1:
        found["subgraphs"] = str(len(model.subgraphs))
    if model.signatureDefs:
        found["signatures"] = ", ".join(_text(held.signatureKey) for held in model.signatureDefs)
    return found


def _findings(model: Any, operators: tuple[OperatorCount, ...]) -> Iterator[Finding]:
    for held in operators:
        if held.custom:
            yield Finding("error", held.name, "custom operator: a plain LiteRT does not have it")
    if len(model.subgraphs) > 1:
        yield Finding("warning", "model", f"{len(model.subgraphs)} subgraphs: control flow, or several entry points")


class _Reader:
    """One model; names of the schema's enumerations."""

    def __init__(self, schema: Any, model: Any) -> None:
        self._model = model
        self._types = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
        self._builtins = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        self._buffers: dict[str, int] = {}

    def name(self, operator: Any) -> str:
        """The schema's name of an operator, a custom one's own name."""
        code = self._model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if code.customCode:
            return _text(code.customCode)
        return str(self._builtins.get(number, f"operator {number}"))

    def operators(self) -> Iterator[OperatorCount]:
        """Counted over all subgraphs, by version."""
        counts: Counter[tuple[str, int, bool]] = Counter()
        for subgraph in self._model.subgraphs:
            for operator in subgraph.operators or ():
                code = self._model.operatorCodes[operator.opcodeIndex]
                counts[self.name(operator), int(code.version), bool(code.customCode)] += 1
        for (name, version, custom), count in counts.most_common():
            yield OperatorCount(name, count, version, "", custom or name.startswith("operator "))

    def graph(self, subgraph: Any, prefix: str) -> Graph:
        """One subgraph; a constant that only a DEQUANTIZE reads counts as what it becomes a weight of."""
        names = [f"{prefix}{_text(tensor.name) or index}" for index, tensor in enumerate(subgraph.tensors)]
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        names = [name if first[name] == index else f"{name}#{index}" for index, name in enumerate(names)]
        constants = {
            names[index]: self._constant(names[index], tensor)
            for index, tensor in enumerate(subgraph.tensors)
            if self._content(tensor) is not None
        }
        fixed = set(constants)
        calls: list[Call] = []
        for operator in subgraph.operators or ():
            inputs, outputs = ([names[index] for index in indices if index >= 0] for indices in (operator.inputs, operator.outputs))
            name = self.name(operator)
            if name == "DEQUANTIZE" and inputs[0] in fixed:
                fixed.update(outputs)
                continue
            kind = self._kind(name, operator, subgraph)
            calls.append(Call(name, tuple(each for each in inputs if each not in fixed), tuple(outputs), kind))
        computed = {name for call in calls for name in call.outputs} | {names[index] for index in _listed(subgraph.inputs)}
        scales = {names[index]: _scales(tensor) for index, tensor in enumerate(subgraph.tensors) if names[index] in computed}
        return Graph(tuple(calls), constants, {name: found for name, found in scales.items() if found is not None})

    def _kind(self, name: str, operator: Any, subgraph: Any) -> str:
        if name in _CONVERSIONS:
            return "conversion"
        outputs = [subgraph.tensors[index] for index in operator.outputs if index >= 0]
        if any(self._types[tensor.type] in _CODES and _scales(tensor) is not None for tensor in outputs):
            return "integer"
        if name not in _WEIGHTS or len(operator.inputs) <= _WEIGHTS[name]:
            return "real"
        weight = subgraph.tensors[operator.inputs[_WEIGHTS[name]]]
        return "dynamic" if self._types[weight.type] in _CODES and self._content(weight) is not None else "real"

    def _content(self, tensor: Any) -> NDArray[np.uint8] | None:
        """The bytes of a constant, None for a computed tensor."""
        buffers = self._model.buffers or ()
        data = buffers[tensor.buffer].data if tensor.buffer < len(buffers) else None
        return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)

    def _constant(self, name: str, tensor: Any) -> Constant:
        dtype, shape = self._types[tensor.type], tuple(map(int, _listed(tensor.shape)))
        content = self._content(tensor)
        assert content is not None
        self._buffers[name] = int(tensor.buffer)
        scales = _scales(tensor)
        if scales is None:
            return Constant(name, dtype, shape, len(content))
        zero = tensor.quantization.zeroPoint
        zero_point = None if zero is None else np.asarray(zero)
        return Constant(name, dtype, shape, len(content), _codes(content, dtype, shape), scales, zero_point)

    def unique(self, constants: Any) -> list[Constant]:
        """Constants that share a buffer once."""
        return list({self._buffers[name]: held for name, held in reversed(constants.items())}.values())[::-1]

    def ports(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs of the first signature, or of the first subgraph by tensor name."""
        signature = self._model.signatureDefs[0] if self._model.signatureDefs else None
        graph = self._model.subgraphs[signature.subgraphIndex if signature else 0]
        if signature is None:
            ends = [
                [(_text(graph.tensors[index].name), graph.tensors[index]) for index in _listed(part)]
                for part in (graph.inputs, graph.outputs)
            ]
        else:
            parts = (signature.inputs or (), signature.outputs or ())
            ends = [[(_text(held.name), graph.tensors[held.tensorIndex]) for held in part] for part in parts]
        found = [tuple(self._port(name, tensor) for name, tensor in part) for part in ends]
        return found[0], found[1]

    def _port(self, name: str, tensor: Any) -> Port:
        sizes, symbolic = _listed(tensor.shape), _listed(tensor.shapeSignature)
        shape = tuple("?" if index < len(symbolic) and symbolic[index] < 0 else int(size) for index, size in enumerate(sizes))
        scales = _scales(tensor)
        zero = 0 if scales is None or scales.block or tensor.quantization.zeroPoint is None else int(tensor.quantization.zeroPoint[0])
        note = "" if scales is None or not scales.values.size else f"scale {scales.values.flat[0]:.6g}, zero point {zero}"
        return Port(name, self._types[tensor.type], shape, "", note)

    def macs(self, subgraph: Any) -> int:
        """Multiply-accumulates of a subgraph, each operator run once."""
        return sum(self._macs(self.name(operator), operator, subgraph) for operator in subgraph.operators or ())

    def _macs(self, name: str, operator: Any, subgraph: Any) -> int:
        if name not in _WEIGHTS:
            return 0
        shapes = [() if index < 0 else tuple(map(int, _listed(subgraph.tensors[index].shape))) for index in operator.inputs]
        out = math.prod(map(int, _listed(subgraph.tensors[operator.outputs[0]].shape)))
        weight = shapes[_WEIGHTS[name]]
        if name == "TRANSPOSE_CONV":
            return math.prod(shapes[2]) * math.prod(weight[:-1])
        if name == "DEPTHWISE_CONV_2D":
            return out * math.prod(weight[1:-1])
        if name == "CONV_3D":
            return out * math.prod(weight[:-1])
        if name == "BATCH_MATMUL":
            return out * shapes[0][-2 if operator.builtinOptions and operator.builtinOptions.adjX else -1]
        return out * math.prod(weight[1:])


def _listed(sizes: Any) -> list[int]:
    return [] if sizes is None else [int(size) for size in sizes]


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")


def _scales(tensor: Any) -> Scales | None:
    """Scales of codes; those of a blockwise tensor lie in another tensor, and only their block is told here."""
    held = tensor.quantization
    block = int(getattr(held.details, "blockSize", 0)) if held is not None and held.details is not None else 0
    if block:
        return Scales(np.zeros(0), 0, block)
    if held is None or held.scale is None or len(held.scale) == 0:
        return None
    values = np.asarray(held.scale, np.float64)
    return Scales(values, None if values.size == 1 else int(held.quantizedDimension))


def _codes(content: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The integers of a constant; those of less than a byte lie with the low bits first."""
    bits = _BITS.get(dtype, 0)
    if bits in (2, 4):
        parts = np.stack([content >> shift & (2**bits - 1) for shift in range(0, 8, bits)], axis=-1).reshape(-1)[: math.prod(shape)]
        signed = parts.astype(np.int8)
        return np.where(signed >= 2 ** (bits - 1), signed - 2**bits, signed).astype(np.int8).reshape(shape)
    if dtype not in ("int8", "uint8", "int16", "int32"):
        return None
    return content.view(dtype).reshape(shape)


def _metadata(model: Any, content: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the file says of itself: edgepack's own record, names of other entries, and files packed behind the model."""
    found: dict[str, str] = {}
    labels: tuple[str, ...] = ()
    for entry in model.metadata or ():
        data = model.buffers[entry.buffer].data
        held = bytes(np.asarray(data, np.uint8)) if data is not None and len(data) else b""
        if _text(entry.name) == "edgepack":
            own = json.loads(held)
            labels = tuple(map(str, own.pop("labels", ())))
            found |= {key: str(value) for key, value in own.items() if key not in _MACHINE and value}
        else:
            found[_text(entry.name)] = _printable(held)
    names, text = _packed(content)
    if names:
        found["packed files"] = ", ".join(names)
    return found, labels or tuple(text.splitlines())


_LONGEST = 64


def _printable(held: bytes) -> str:
    text = held.rstrip(b"\0").decode(errors="replace")
    return text if len(held) <= _LONGEST and text.isprintable() else f"{len(held)} bytes"


# Labels of ten thousand classes have 200 kB; an archive may promise gigabytes.
_LONGEST_LABELS = 2**20
_MOST_PACKED = 1000


def _packed(content: bytes) -> tuple[list[str], str]:
    """Associated files of TFLite metadata, a zip archive that follows the flatbuffer: their names, and the text of the first labels."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return [], ""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()[:_MOST_PACKED]
        labels = next((name for name in names if "label" in name.lower() and name.endswith(".txt")), None)
        if labels is None:
            return names, ""
        with archive.open(labels) as file:
            return names, file.read(_LONGEST_LABELS).decode(errors="replace")
