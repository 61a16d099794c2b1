"""Facts of an .mlpackage or .mlmodel, by any converter, read from its protobuf."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import Finding
from edgepack.errors import EdgepackError, one_line
from edgepack.inspection.facts import FileFacts, InspectionError, OperatorCount, Port, Quantization
from edgepack.inspection.graph import Call, Constant, Graph, Scales, fused, largest, quantization, weights_by_dtype
from edgepack.mil.environment import coremltools
from edgepack.mil.flexibility import flexibility_of
from edgepack.mil.package import refuse_unsafe_package

_UNREADABLE = "it is damaged, or no Core ML model: convert it again"
_ML_PROGRAM = "mlProgram"
# Core ML: the oldest system for each specification version (Model.proto).
_SYSTEMS = {1: "11", 2: "11.2", 3: "12", 4: "13", 5: "14", 6: "15", 7: "16", 8: "17", 9: "18", 10: "26"}
# Feature types of FeatureTypes.proto.
_ARRAYS = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}
_COLOURS = {10: "grayscale", 20: "RGB", 30: "BGR", 40: "grayscale float16"}
_CONVERSIONS = frozenset({"quantize", "dequantize"})
# Where constexpr operations keep codes, scale and zero point.
_CODED = {
    "constexpr_affine_dequantize": ("quantized_data", "scale", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "scale", "offset"),
}
_PALETTES = {"constexpr_lut_to_dense": ("indices", "lut")}
# Constants below this many elements are parameters (strides, pads, flags), not weights.
_PARAMETERS = 2
_MULTIPLIES = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum", "lstm", "gru", "rnn"})
_MACHINE = frozenset({"edgepack.values"})


def inspect(path: Path) -> FileFacts:
    """Read ``path``.

    Raises:
        InspectionError: it is no Core ML model, or its weights are missing or damaged.
    """
    try:
        refuse_unsafe_package(path)
        ct = coremltools()
        spec = ct.utils.load_spec(str(path))
        kind = spec.WhichOneof("Type")
        if kind is None:
            raise InspectionError(f"{path} holds no model", _UNREADABLE)
        return _program(path, spec) if kind == _ML_PROGRAM else _other(path, spec, kind)
    except EdgepackError as error:
        raise InspectionError(error.cause, error.hint) from error
    except Exception as error:
        raise InspectionError(f"{path} cannot be read as Core ML ({one_line(error)})", _UNREADABLE) from error


def _program(path: Path, spec: Any) -> FileFacts:
    from edgepack.mil.program import opset_name, read_function

    function = read_function(path)
    reader = _Reader(function)
    graph = reader.graph()
    counts = Counter(operation.op_type for operation in reader.operations)
    constants = list(graph.constants.values())
    return FileFacts(
        format="Core ML ML Program",
        operators=tuple(OperatorCount(name, count) for name, count in counts.most_common()),
        weights=weights_by_dtype(constants),
        largest=largest(constants),
        quantization=quantization(graph),
        macs=reader.macs(),
        not_counted=tuple(reader.not_counted),
        findings=tuple(reader.findings()),
        **_common(path, spec, {"MIL opset": opset_name(function)}),
    )


def _other(path: Path, spec: Any, kind: str) -> FileFacts:
    """A kind that Core ML had before ML Programs: its layers by type, and that it is none."""
    body = getattr(spec, kind)
    layers = Counter(layer.WhichOneof("layer") for layer in getattr(body, "layers", ()))
    custom = "custom" in layers
    message = f"this is a {kind}, not an ML Program: edgepack neither writes nor runs this kind; convert it to mlprogram"
    findings = [Finding("error", path.name, message)]
    if custom:
        findings.append(Finding("error", "custom", "custom layer: it needs code of its own in the app"))
    operators = tuple(OperatorCount(str(name), count, custom=name == "custom") for name, count in layers.most_common())
    return FileFacts(
        format=f"Core ML {kind}",
        operators=operators,
        weights=(),
        largest=(),
        quantization=Quantization("not told of this kind"),
        macs=0,
        not_counted=("all layers",) if layers else (),
        findings=tuple(findings),
        **_common(path, spec, {}),
    )


def _common(path: Path, spec: Any, versions: dict[str, str]) -> dict[str, Any]:
    metadata = spec.description.metadata
    own = dict(metadata.userDefined)
    stated = {"description": metadata.shortDescription, "author": metadata.author, "licence": metadata.license}
    kept = {key: value for key, value in own.items() if key not in (*_MACHINE, "labels", "classes")}
    system = _SYSTEMS.get(spec.specificationVersion, "")
    return {
        "file": path.name,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size,
        "writer": " ".join(filter(None, (metadata.author, metadata.versionString))) or _tool(own),
        "versions": {"specification": str(spec.specificationVersion), **versions, **({"iOS": f"{system} or newer"} if system else {})},
        "inputs": tuple(_port(feature) for feature in spec.description.input),
        "outputs": tuple(_port(feature) for feature in spec.description.output),
        "metadata": {**{key: value for key, value in stated.items() if value}, **kept},
        "labels": _labels(own),
    }


def _tool(own: dict[str, str]) -> str:
    version = own.get("com.github.apple.coremltools.version")
    return f"coremltools {version}" if version else "unknown"


def _labels(own: dict[str, str]) -> tuple[str, ...]:
    """Our own record is JSON; "classes" of other tools is a comma-separated line."""
    if "labels" in own:
        try:
            return tuple(map(str, json.loads(own["labels"])))
        except ValueError:
            return (own["labels"],)
    return tuple(own["classes"].split(",")) if own.get("classes") else ()


def _port(feature: Any) -> Port:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        colours = _COLOURS.get(image.colorSpace, f"colour space {image.colorSpace}")
        return Port(feature.name, "image", (int(image.height), int(image.width)), "HW", colours)
    if kind == "multiArrayType":
        held, flexible = feature.type.multiArrayType, flexibility_of(feature.type)
        note = f"takes {flexible}" if flexible is not None else "" if held.shape else "sizes known when it runs"
        return Port(feature.name, _ARRAYS.get(held.dataType, f"type {held.dataType}"), tuple(map(int, held.shape)), "", note)
    return Port(feature.name, (kind or "untyped").removesuffix("Type"), ())


class _Reader:
    """The main function of a program, as coremltools holds it."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._all = list(_flattened(function.operations))
        self.operations = [held for held in self._all if held.op_type != "const"]
        self.not_counted: list[str] = []

    def graph(self) -> Graph:
        constants = {held.name: held for held in self._constants()}
        calls, activations = [], {}
        for operation in self.operations:
            if operation.op_type.startswith("constexpr_"):
                continue
            inputs = tuple(variable.name for variable in _inputs(operation) if not _is_constant(variable))
            outputs = tuple(variable.name for variable in operation.outputs)
            kind = "conversion" if operation.op_type in _CONVERSIONS else "real"
            calls.append(Call(operation.op_type, inputs, outputs, kind))
            if operation.op_type == "quantize" and operation.inputs["scale"].val is not None:
                activations[outputs[0]] = Scales(np.asarray(operation.inputs["scale"].val, np.float64))
        return Graph(fused(calls, "quantize", "dequantize"), constants, activations)

    def _constants(self) -> Iterator[Constant]:
        """Constants of real operators; of a constexpr operation what it stores."""
        parts = {id(variable) for held in self.operations if _is_stored(held) for variable in _inputs(held)}
        for held in self._all:
            if _is_stored(held):
                yield from self._stored(held)
            elif held.op_type == "const" and id(held.outputs[0]) not in parts:
                array = _array(held.outputs[0])
                if array is not None and array.size >= _PARAMETERS:
                    yield Constant(held.outputs[0].name, str(array.dtype), array.shape, array.nbytes)

    def _stored(self, held: Any) -> Iterator[Constant]:
        name, shape = held.outputs[0].name, tuple(map(int, held.outputs[0].shape))
        if held.op_type in _CODED:
            yield _coded(held, name)
        elif held.op_type in _PALETTES:
            indices, table = (_array(held.inputs[part]) for part in _PALETTES[held.op_type])
            entries = int(table.shape[-2]) if table is not None and table.ndim > 1 else 0 if table is None else table.size
            bits = max(1, (entries - 1).bit_length())
            size = math.ceil((0 if indices is None else math.prod(shape)) * bits / 8) + (0 if table is None else table.nbytes)
            yield Constant(name, f"lut{bits}", shape, size)
        else:
            arrays = [array for variable in _inputs(held) if (array := _array(variable)) is not None]
            yield Constant(name, held.op_type.removeprefix("constexpr_"), shape, sum(array.nbytes for array in arrays))

    def macs(self) -> int:
        """Multiply-accumulates; what has an open size is not counted."""
        return sum(self._macs(held) for held in self.operations)

    def _macs(self, held: Any) -> int:
        if held.op_type not in _MULTIPLIES:
            return 0
        if any(map(_is_open, (*held.outputs, *_inputs(held)))):
            self.not_counted.append(f"{held.op_type} '{held.name}' of open size")
            return 0
        if held.op_type in ("lstm", "gru", "rnn"):
            weights = [held.inputs.get(f"weight_{part}") for part in ("ih", "hh", "ih_back", "hh_back")]
            return math.prod(_sizes(held.inputs["x"])[:2]) * sum(math.prod(_sizes(weight)) for weight in weights if weight is not None)
        out = math.prod(_sizes(held.outputs[0]))
        if held.op_type == "conv":
            return out * math.prod(_sizes(held.inputs["weight"])[1:])
        if held.op_type == "conv_transpose":
            return math.prod(_sizes(held.inputs["x"])) * math.prod(_sizes(held.inputs["weight"])[1:])
        if held.op_type == "einsum":
            self.not_counted.append(f"einsum '{held.name}'")
            return 0
        transposed = held.op_type == "matmul" and held.inputs["transpose_x"] is not None and bool(held.inputs["transpose_x"].val)
        return out * _sizes(held.inputs["x"])[-2 if transposed else -1]

    def findings(self) -> Iterator[Finding]:
        for held in self.operations:
            if held.op_type.startswith("custom"):
                yield Finding("error", held.name, "custom operation: it needs code of its own in the app")


def _coded(held: Any, name: str) -> Constant:
    codes, scale, zero = (None if held.inputs.get(part) is None else _array(held.inputs[part]) for part in _CODED[held.op_type])
    assert codes is not None and scale is not None
    dtype = _code_type(held.inputs[_CODED[held.op_type][0]], codes)
    bits = int("".join(filter(str.isdigit, dtype)))
    if held.op_type == "constexpr_affine_dequantize":
        axis = int(np.asarray(held.inputs["axis"].val))
        scales = Scales(np.asarray(scale, np.float64), None if scale.size == 1 else axis)
    else:
        scales = _blockwise(codes, scale)
    return Constant(name, dtype, codes.shape, math.ceil(codes.size * bits / 8), codes, scales, zero)


def _blockwise(codes: NDArray[Any], scale: NDArray[Any]) -> Scales:
    """Scales have the codes' rank; an axis with fewer scales than codes, and more than one, is split into blocks."""
    values = np.asarray(scale, np.float64)
    blocks = [size // held for size, held in zip(codes.shape, scale.shape, strict=True) if 1 < held < size]
    if blocks:
        return Scales(values, None, blocks[0])
    axis = next((index for index, size in enumerate(scale.shape) if size > 1), None)
    return Scales(values, axis)


def _code_type(variable: Any, codes: NDArray[Any]) -> str:
    """The stored type, of less than a byte where MIL says so ("int4")."""
    from coremltools.converters.mil.mil import types

    kind = types.builtin_to_string(variable.dtype)
    return str(kind) if any(map(str.isdigit, str(kind))) else str(codes.dtype)


def _flattened(operations: Any) -> Iterator[Any]:
    """Every operation, those of nested blocks included."""
    for held in operations:
        yield held
        for block in held.blocks:
            yield from _flattened(block.operations)


def _inputs(operation: Any) -> Iterator[Any]:
    for bound in operation.inputs.values():
        yield from () if bound is None else bound if isinstance(bound, tuple | list) else (bound,)


def _is_stored(operation: Any) -> bool:
    return str(operation.op_type).startswith("constexpr_")


def _is_constant(variable: Any) -> bool:
    return variable.op is not None and (variable.op.op_type == "const" or _is_stored(variable.op))


def _array(variable: Any) -> NDArray[Any] | None:
    """The numbers of a const variable; None of a string or of what is computed."""
    value = variable.val
    return None if value is None or isinstance(value, str) else np.asarray(value)


def _is_open(variable: Any) -> bool:
    """Whether one of its sizes is known when the model runs only."""
    return any(not isinstance(size, int | np.integer) for size in variable.shape or ())


def _sizes(variable: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in variable.shape)
