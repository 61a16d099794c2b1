"""A ``Program`` as the bytes of a .tflite file: the schema's object API does the tables, this file does what it leaves out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.table import BackendError
from edgepack.backends.tflite.program import Call, Program, Tensor
from edgepack.backends.tflite.versions import version

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
SIGNATURE = "serving_default"

# The schema's ``force_align`` of Buffer.data, which the Python generator ignores: kernels map weights from the file and load whole vectors.
ALIGNMENT = 16

# A flatbuffer addresses itself with signed 32-bit offsets; the margin is for its tables.
LARGEST_FILE = 2**31 - 2**24

_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "bool": "BOOL"}

# Bytes of a tensor or an operator with its names and shapes, as room to start with: a builder that runs out of it doubles all it has.
_TABLE = 512

# Above 127 an operator number no longer fits the field old readers look at.
_PLACEHOLDER = 127

_ENUMERATIONS = {
    "padding": "Padding",
    "fusedActivationFunction": "ActivationFunctionType",
    "inDataType": "TensorType",
    "outDataType": "TensorType",
    "outType": "TensorType",
    "outputType": "TensorType",
    "mode": "MirrorPadMode",
}

# Where an operator that runs other graphs keeps their numbers.
_BLOCKS = {"WHILE": ("condSubgraphIndex", "bodySubgraphIndex"), "IF": ("thenSubgraphIndex", "elseSubgraphIndex")}


def serialize(program: Program) -> memoryview:
    """The file's bytes, where they were put together: no copy is made of weights. Equal programs give equal bytes.

    Raises:
        BackendError: the file would exceed what a flatbuffer addresses.
    """
    import flatbuffers

    model = _Model(program).build()
    size = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    if size > LARGEST_FILE:
        raise BackendError(f"tflite: the weights hold {size} bytes, more than a .tflite file can", "use a smaller scheme or student")
    tables = sum(len(graph.tensors) + len(graph.operators) for graph in model.subgraphs)
    builder = flatbuffers.Builder(size + 2**16 + _TABLE * tables)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :]


class _Model:
    """Numbers tensors, buffers and operator codes in the order of first use."""

    def __init__(self, program: Program) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._program = program
        # Of the graph that is being written.
        self._tensors: dict[Tensor, int] = {}
        self._records: list[Any] = []
        self._graphs: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._contents: dict[bytes, int] = {}
        self._codes: dict[tuple[str, int], int] = {}

    def build(self) -> Any:
        program = self._program
        self._graph(program, "main")
        model = self._schema.ModelT()
        model.version, model.description, model.subgraphs = SCHEMA_VERSION, "edgepack", self._graphs
        model.metadata = [self._metadata(name, data) for name, data in sorted(program.metadata.items())]
        model.signatureDefs = [self._signature()]
        model.operatorCodes = [self._operator_code(name, number) for name, number in self._codes]
        model.buffers = self._buffers
        return model

    def _graph(self, program: Program, name: str) -> int:
        """Write one graph, and those that its calls run; its number."""
        graph, number = self._schema.SubGraphT(), len(self._graphs)
        self._graphs.append(graph)
        outside = self._tensors, self._records
        self._tensors, self._records = {}, []
        graph.name = name
        graph.inputs = self._indices(tensor for _, tensor in program.inputs)
        graph.operators = [self._operator(call) for call in program.calls]
        graph.outputs = self._indices(tensor for _, tensor in program.outputs)
        graph.tensors = self._records
        if number:
            self._tensors, self._records = outside
        return number

    def _indices(self, tensors: Iterable[Tensor | None]) -> list[int]:
        return [-1 if tensor is None else self._index(tensor) for tensor in tensors]

    def _index(self, tensor: Tensor) -> int:
        if tensor not in self._tensors:
            self._tensors[tensor] = len(self._records)
            self._records.append(self._record(tensor))
        return self._tensors[tensor]

    def _record(self, tensor: Tensor) -> Any:
        record = self._schema.TensorT()
        record.name, record.shape, record.hasRank = tensor.name, list(tensor.shape), True
        if tensor.open_axes:
            is_open = dict(tensor.open_axes)
            record.shapeSignature = [-1 if axis in is_open else size for axis, size in enumerate(tensor.shape)]
        record.type = getattr(self._schema.TensorType, _TYPES[tensor.dtype])
        record.buffer = 0 if tensor.data is None else self._buffer(_bytes_of(tensor.data))
        record.quantization = self._quantization(tensor)
        return record

    def _quantization(self, tensor: Tensor) -> Any:
        if tensor.encoding is None:
            return None
        held = self._schema.QuantizationParametersT()
        held.scale = np.atleast_1d(tensor.encoding.scale).astype(np.float32)
        held.zeroPoint = np.atleast_1d(tensor.encoding.zero_point).astype(np.int64)
        held.quantizedDimension = tensor.encoding.axis or 0
        return held

    def _buffer(self, content: NDArray[np.uint8]) -> int:
        """Equal contents share a buffer: tied weights are stored once."""
        digest = hashlib.sha256(content.data).digest()
        if digest not in self._contents:
            self._contents[digest] = len(self._buffers)
            self._buffers.append(aligned_buffer(self._schema, content))
        return self._contents[digest]

    def _operator(self, call: Call) -> Any:
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((call.operator, version(call)), len(self._codes))
        operator.inputs, operator.outputs = self._indices(call.inputs), self._indices(call.outputs)
        if call.options is not None:
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, call.options.table)
            operator.builtinOptions = self._options(call)
        return operator

    def _options(self, call: Call) -> Any:
        assert call.options is not None
        table = getattr(self._schema, f"{call.options.table}T")()
        for name, value in call.options.fields.items():
            if not hasattr(table, name):
                raise ValueError(f"{call.options.table} has no field {name}")
            setattr(table, name, self._enumerated(name, value) if isinstance(value, str) else value)
        for name, block in zip(_BLOCKS.get(call.operator, ()), call.blocks, strict=True):
            setattr(table, name, self._graph(block, f"{call.outputs[0].name}/{name.removesuffix('SubgraphIndex')}"))
        return table

    def _enumerated(self, name: str, value: str) -> int:
        return int(getattr(getattr(self._schema, _ENUMERATIONS[name]), _TYPES.get(value, value)))

    def _operator_code(self, name: str, number: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, _PLACEHOLDER), number
        return code

    def _signature(self) -> Any:
        signature = self._schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs = [self._tensor_map(name, tensor) for name, tensor in self._program.inputs]
        signature.outputs = [self._tensor_map(name, tensor) for name, tensor in self._program.outputs]
        return signature

    def _tensor_map(self, name: str, tensor: Tensor) -> Any:
        entry = self._schema.TensorMapT()
        entry.name, entry.tensorIndex = name, self._index(tensor)
        return entry

    def _metadata(self, name: str, data: bytes) -> Any:
        entry = self._schema.MetadataT()
        entry.name, entry.buffer = name, self._buffer(np.frombuffer(data, np.uint8))
        return entry


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array in row-major order; those of its own where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def aligned_buffer(schema: Any, data: NDArray[np.uint8]) -> Any:
    class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
        """BufferT whose bytes start on a multiple of ``ALIGNMENT`` in the file."""

        def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated API's name
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.data
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return AlignedBuffer(data)
