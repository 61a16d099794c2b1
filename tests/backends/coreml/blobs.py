"""A second reader of packages: protobuf messages and the blob file by its layout, sharing nothing with writer or interpreter.

weight.bin (MILBlob/Blob/StorageFormat.hpp in coremltools' source): a 64-byte file header (count, version 2), then for each blob 64 bytes
of metadata, 64-byte aligned: sentinel 0xDEADBEEF (u32), data type (u32), size in bytes (u64), offset of the data in the file (u64).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.mil.environment import coremltools

SENTINEL = 0xDEADBEEF
# MIL.proto, DataType.
NUMPY_TYPES = {10: np.float16, 11: np.float32, 21: np.int8, 23: np.int32, 31: np.uint8}


class Decoded:
    """Operations of a package by output name: (type, parameters)."""

    def __init__(self, package: Path) -> None:
        data = package / "Data" / "com.apple.CoreML"
        spec = coremltools().proto.Model_pb2.Model()
        spec.ParseFromString((data / "model.mlmodel").read_bytes())
        self.description = spec.description
        self._blob = (data / "weights" / "weight.bin").read_bytes()
        (function,) = spec.mlProgram.functions.values()
        (block,) = function.block_specializations.values()
        self._constants = {op.outputs[0].name: self._value(op.attributes["val"]) for op in block.operations if op.type == "const"}
        self.operations = {op.outputs[0].name: (op.type, self._parameters(op)) for op in block.operations if op.type != "const"}

    def _parameters(self, operation: Any) -> dict[str, Any]:
        held = {name: self._value(value) for name, value in operation.attributes.items() if name != "name"}
        for name, argument in operation.inputs.items():
            bound = argument.arguments[0]
            held[name] = self._value(bound.value) if bound.HasField("value") else self._constants.get(bound.name, bound.name)
        return held

    def _value(self, value: Any) -> NDArray[Any] | str | None:
        tensor = value.type.tensorType
        shape = [dimension.constant.size for dimension in tensor.dimensions]
        dtype = NUMPY_TYPES.get(tensor.dataType)
        if dtype is None:
            return None
        if value.HasField("blobFileValue"):
            return self._read(value.blobFileValue.offset, dtype, shape)
        held = value.immediateValue.tensor
        kind = held.WhichOneof("value")
        raw = getattr(held, kind).values
        return (np.frombuffer(raw, dtype) if kind == "bytes" else np.array(raw, dtype)).reshape(shape)

    def _read(self, at: int, dtype: type, shape: list[int]) -> NDArray[Any]:
        sentinel, _, size, offset = struct.unpack_from("<IIQQ", self._blob, at)
        assert sentinel == SENTINEL
        assert size == int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self._blob, dtype, int(np.prod(shape)), offset).reshape(shape)
