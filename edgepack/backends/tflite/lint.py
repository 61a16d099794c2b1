"""What must hold in a written .tflite file, read back with the schema's own accessors and no interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import Finding

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_SIGNATURE = "serving_default"

# Symmetric weights leave -128 out, so that products of two codes fit what the kernels assume.
_SMALLEST_WEIGHT = -127

# TFLite refuses nothing below 2 %; two writers of float32 products differ in the last place only.
_SCALE_TOLERANCE = 1e-6

# Operator -> where its source, weight and bias stand.
_WITH_WEIGHTS = {"CONV_2D": (0, 1, 2), "DEPTHWISE_CONV_2D": (0, 1, 2), "FULLY_CONNECTED": (0, 1, 2), "TRANSPOSE_CONV": (2, 1, 3)}

# These move int8 codes and never rescale: unequal encodings run, and are silently wrong.
_MOVES_CODES = frozenset(
    {
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "GATHER",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "PAD",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SLICE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)
_FIXED_OUTPUT = {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}


def lint(artifact: Path) -> list[Finding]:
    """Look at a .tflite file; an empty list means nothing was found.

    Checks the identifier, that every operator is builtin and versioned, the signature, that open axes are said alike, that every int8
    tensor has a scale, that weights are symmetric and inside -127..127, that a bias has scale s_in * s_w, and what integer kernels demand
    of their encodings.
    """
    content = artifact.read_bytes()
    if content[4:8] != _IDENTIFIER:
        return [Finding("error", artifact.name, f"file identifier is {content[4:8]!r}, not TFL3")]
    return list(_findings(_File.read(content)))


@dataclass(frozen=True)
class _Code:
    """One tensor: stored type, scales, zero points, its codes when constant, and whether its open axes are those of its shape."""

    name: str
    dtype: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    data: NDArray[Any] | None
    is_signed_alike: bool


@dataclass(frozen=True)
class _Call:
    operator: str
    version: int
    inputs: tuple[_Code | None, ...]
    outputs: tuple[_Code, ...]


@dataclass(frozen=True)
class _File:
    version: int
    signatures: tuple[str, ...]
    unused: tuple[str, ...]
    tensors: tuple[_Code, ...]
    calls: tuple[_Call, ...]

    @classmethod
    def read(cls, content: bytes) -> _File:
        from ai_edge_litert import schema_py_generated as schema

        model: Any = schema.Model.GetRootAs(content, 0)
        if model.SubgraphsLength() < 1:
            raise ValueError("it holds no subgraph")
        graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
        held = [_graph(model, graph) for graph in graphs]
        run = {0, *(number for graph in graphs for number in _blocks(graph))}
        unused = tuple(graph.Name().decode() for number, graph in enumerate(graphs) if number not in run)
        signatures = tuple(model.SignatureDefs(index).SignatureKey().decode() for index in range(model.SignatureDefsLength()))
        tensors, calls = (tuple(each for part in parts for each in part) for parts in zip(*held, strict=True))
        return cls(model.Version(), signatures, unused, tensors, calls)


def _graph(model: Any, graph: Any) -> tuple[tuple[_Code, ...], tuple[_Call, ...]]:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    tensors = tuple(_tensor(model, graph.Tensors(index), names) for index in range(graph.TensorsLength()))
    operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return tensors, tuple(_call(model, graph.Operators(index), tensors, operators) for index in range(graph.OperatorsLength()))


# Where WHILE and IF keep the numbers of the graphs they run, as the schema's accessors are called.
_NESTED = {"WhileOptions": ("CondSubgraphIndex", "BodySubgraphIndex"), "IfOptions": ("ThenSubgraphIndex", "ElseSubgraphIndex")}


def _blocks(graph: Any) -> Iterator[int]:
    """The numbers of the graphs that a graph's operators run."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {getattr(schema.BuiltinOptions, name): name for name in _NESTED}
    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        name = kinds.get(operator.BuiltinOptionsType())
        if name is not None:
            table, options = operator.BuiltinOptions(), getattr(schema, name)()
            options.Init(table.Bytes, table.Pos)
            yield from (getattr(options, field)() for field in _NESTED[name])


def _tensor(model: Any, tensor: Any, names: dict[int, str]) -> _Code:
    dtype = names[tensor.Type()].lower()
    held = tensor.Quantization()
    has_scale = held is not None and held.ScaleLength() > 0
    scale = np.asarray(held.ScaleAsNumpy(), np.float32) if has_scale else np.zeros(0, np.float32)
    zero_point = np.asarray(held.ZeroPointAsNumpy(), np.int64) if has_scale and held.ZeroPointLength() else np.zeros(0, np.int64)
    buffer = model.Buffers(tensor.Buffer())
    data = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype) if buffer.DataLength() and dtype in ("int8", "int32") else None
    return _Code(tensor.Name().decode(), dtype, scale, zero_point, data, _is_signed_alike(tensor))


def _is_signed_alike(tensor: Any) -> bool:
    """Whether the shape signature, where there is one, is the shape but for axes of -1."""
    if not tensor.ShapeSignatureLength():
        return True
    shape, signature = tensor.ShapeAsNumpy(), tensor.ShapeSignatureAsNumpy()
    return len(shape) == len(signature) and bool(((signature == shape) | (signature == -1)).all())


def _call(model: Any, operator: Any, tensors: tuple[_Code, ...], names: dict[int, str]) -> _Call:
    code = model.OperatorCodes(operator.OpcodeIndex())
    inputs = tuple(None if index < 0 else tensors[index] for index in operator.InputsAsNumpy())
    outputs = tuple(tensors[index] for index in operator.OutputsAsNumpy())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return _Call(names.get(number, f"operator {number}"), code.Version(), inputs, outputs)


def _findings(file: _File) -> Iterator[Finding]:
    if file.version != _SCHEMA_VERSION:
        yield Finding("error", "model", f"schema version is {file.version}, not {_SCHEMA_VERSION}")
    for name in file.unused:
        yield Finding("error", name, "a graph that nothing runs")
    if _SIGNATURE not in file.signatures:
        yield Finding("error", "model", f"no signature {_SIGNATURE}")
    for tensor in file.tensors:
        yield from _tensor_findings(tensor)
    for call in file.calls:
        yield from _call_findings(call)


def _tensor_findings(tensor: _Code) -> Iterator[Finding]:
    if tensor.dtype == "int8" and not tensor.scale.size:
        yield Finding("error", tensor.name, "int8 codes without a scale")
    if tensor.scale.size and not (np.isfinite(tensor.scale).all() and (tensor.scale > 0).all()):
        yield Finding("error", tensor.name, "a scale is not positive and finite")
    if not tensor.is_signed_alike:
        yield Finding("error", tensor.name, "the shape signature is another than the shape where no axis is open")
    if tensor.scale.size != tensor.zero_point.size:
        yield Finding("error", tensor.name, f"{tensor.scale.size} scales and {tensor.zero_point.size} zero points")


def _call_findings(call: _Call) -> Iterator[Finding]:
    where = f"{call.operator} -> {call.outputs[0].name}" if call.outputs else call.operator
    if call.operator == "CUSTOM" or call.operator.startswith(("operator ", "STABLEHLO")):
        yield Finding("error", where, "not a builtin operator every LiteRT has")
    if call.version < 1:
        yield Finding("error", where, f"version {call.version}")
    if call.operator in _WITH_WEIGHTS:
        yield from _weight_findings(call, where)
    if call.outputs and call.outputs[0].dtype == "int8":
        yield from _encoding_findings(call, where)


def _weight_findings(call: _Call, where: str) -> Iterator[Finding]:
    source, weight, bias = ((*call.inputs, None)[position] for position in _WITH_WEIGHTS[call.operator])
    if source is None or weight is None or weight.dtype != "int8":
        return
    if weight.zero_point.any() or (weight.data is not None and weight.data.min(initial=0) < _SMALLEST_WEIGHT):
        yield Finding("error", where, f"weight {weight.name} is not symmetric in -127..127")
    if source.dtype == "int8" and bias is not None and not _is_product(bias, source, weight):
        yield Finding("error", where, f"bias {bias.name} is not int32 with scale s_in * s_w")


def _is_product(bias: _Code, source: _Code, weight: _Code) -> bool:
    product = source.scale.astype(np.float64) * weight.scale
    is_plain = bias.dtype == "int32" and not bias.zero_point.any() and bias.scale.size > 0
    return is_plain and bool(np.allclose(bias.scale, product, rtol=_SCALE_TOLERANCE, atol=0))


def _encoding_findings(call: _Call, where: str) -> Iterator[Finding]:
    output = call.outputs[0]
    codes = [tensor for tensor in (*call.inputs, *call.outputs) if tensor is not None and tensor.dtype == "int8"]
    if call.operator in _MOVES_CODES and any(not _same_encoding(codes[0], tensor) for tensor in codes):
        yield Finding("error", where, "moves codes between different scales")
    fixed = _FIXED_OUTPUT.get(call.operator)
    if fixed is not None and (output.scale.tolist(), output.zero_point.tolist()) != ([np.float32(fixed[0])], [fixed[1]]):
        yield Finding("error", where, f"writes scale {fixed[0]:.9g}, zero point {fixed[1]}, whatever the tensor says")


def _same_encoding(first: _Code, second: _Code) -> bool:
    return np.array_equal(first.scale, second.scale) and np.array_equal(first.zero_point, second.zero_point)
