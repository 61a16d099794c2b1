"""Reading .onnx files from anyone: the one place where a model of a user or of a pack becomes a ModelProto."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgepack.errors import one_line
from edgepack.hub.external import ModelFileError, refuse_foreign_files

if TYPE_CHECKING:
    import onnx

_UNREADABLE = "it is damaged, or no ONNX model: export it again"


def load_model(path: Path, weights: bool = True) -> onnx.ModelProto:
    """A model with its weights, also those in files beside it.

    Args:
        weights: False leaves tensors in other files where they are, unread; a file that is not there is then no error.

    Raises:
        ModelFileError: it is no ONNX model, or reads files that are not beside it, or declares tensors larger than what is stored.
    """
    import onnx

    refuse_foreign_files(path, may_be_absent=not weights)
    try:
        model = onnx.load(path, load_external_data=weights)
    except Exception as error:
        raise ModelFileError(f"{path} is not a valid ONNX model ({one_line(error)})", _UNREADABLE) from error
    for tensor in stored_tensors(model):
        _refuse_claims(tensor, path)
    return model


def stored_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: of its graphs at any depth, and of its functions."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        held = pending.pop()
        yield from getattr(held, "initializer", ())
        for sparse in getattr(held, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (each for node in held.node for each in node.attribute):
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            pending += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


# Fields that hold a tensor's numbers one by one, and how many numbers of less than a word one entry may hold.
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_MOST_IN_ONE = 16
_BITS_OF_A_BYTE = 8


def _refuse_claims(tensor: onnx.TensorProto, path: Path) -> None:
    """Sizes that are negative, or that promise more numbers than are stored: 2^40 zeros of which no byte is there."""
    count = math.prod(tensor.dims)
    stored = _MOST_IN_ONE * (_BITS_OF_A_BYTE * len(tensor.raw_data) + sum(len(getattr(tensor, field)) for field in _FIELDS))
    is_elsewhere = tensor.data_location == tensor.EXTERNAL
    if any(size < 0 for size in tensor.dims) or (count > stored and not is_elsewhere):
        claim = f"tensor '{tensor.name[:80]}' of {path} claims {list(tensor.dims)[:8]} numbers and does not hold them"
        raise ModelFileError(claim, _UNREADABLE)
