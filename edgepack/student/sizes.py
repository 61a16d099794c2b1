"""Sizes of a student that stay open: symbolic dimensions that an artifact takes in a range (docs/sizes.md).

A symbolic dimension without a range stays symbolic in ONNX Runtime and gets the example's size elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgepack.student.spec import StudentError, TensorSpec

if TYPE_CHECKING:
    import onnx

# Symbol -> (smallest, largest), both included.
Sizes = dict[str, tuple[int, int]]

# Where a model of the build says which sizes are open: symbol -> [smallest, largest], as JSON.
_METADATA = "edgepack.sizes"


def checked(sizes: Mapping[str, Sequence[int]], inputs: Sequence[TensorSpec], example: Mapping[str, Sequence[int]]) -> Sizes:
    """The ranges as declared.

    Args:
        sizes: symbol -> (smallest, largest); inputs: with their shapes filled in; example: shape of the example by input name.

    Raises:
        StudentError: no input has that symbol, it is no range of sizes, or the example lies outside.
    """
    held = sizes_at(inputs, example)
    for symbol, given in sizes.items():
        if symbol not in held:
            names = ", ".join(held) or "none"
            raise StudentError(
                f"sizes names '{symbol}', which no input has", f"symbols of its inputs: {names}; name it in a TensorSpec's shape"
            )
        if len(given) != 2 or not all(isinstance(size, int) for size in given) or not 1 <= given[0] <= given[1]:
            raise StudentError(f"sizes gives '{symbol}' {tuple(given)}, which is no range", "give (smallest, largest), 1 or more")
        if not given[0] <= held[symbol] <= given[1]:
            raise StudentError(f"the example has {symbol} = {held[symbol]}, outside its range {given[0]}..{given[1]}", "widen one of them")
    return {symbol: (given[0], given[1]) for symbol, given in sizes.items()}


def sizes_at(inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """What every symbol is where the inputs have these shapes (input name -> sizes)."""
    pairs = (pair for spec in inputs for pair in zip(spec.shape or (), shapes[spec.name], strict=True))
    return {dimension: int(size) for dimension, size in pairs if isinstance(dimension, str)}


def say_sizes(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Write open sizes into a model's metadata."""
    if sizes:
        model.metadata_props.add(key=_METADATA, value=json.dumps({symbol: list(held) for symbol, held in sorted(sizes.items())}))


def sizes_of(metadata: Mapping[str, str]) -> Sizes:
    """The open sizes that a model's metadata (``ir.Model.metadata_props``) tells of, empty for none."""
    return {str(symbol): (int(low), int(high)) for symbol, (low, high) in json.loads(metadata.get(_METADATA, "{}")).items()}
