"""Sizes of a student that stay open: symbolic dimensions that an artifact takes in a range (docs/sizes.md).

A symbolic dimension without a range stays symbolic in ONNX Runtime and gets the example's size elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.student.spec import StudentDescription, StudentError, TensorSpec

if TYPE_CHECKING:
    import onnx

# Symbol -> (smallest, largest), both included.
Sizes = dict[str, tuple[int, int]]

# Power of the error over that of the signal, 40 dB: no two fp32 runs of one network are further apart (FACTS: 65 dB and more).
_FURTHEST = 1e-4

Run = Callable[[dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

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


def sizes_to_check(held: Mapping[str, tuple[int, int]]) -> list[dict[str, int]]:
    """All symbols at their smallest, in the middle, and at their largest."""
    ends = [{symbol: low + (high - low) * part // 2 for symbol, (low, high) in held.items()} for part in (0, 1, 2)]
    return [sizes for place, sizes in enumerate(ends) if sizes not in ends[:place]]


def refuse_other_answers(run: Run, captured: Run, student: StudentDescription, example: Mapping[str, NDArray[Any]]) -> None:
    """The captured model must be the student at other sizes too: what torch.export takes for a constant shows only there.

    Args:
        run: the student; captured: what was captured of it.

    Raises:
        StudentError: the student does not run at a size of its range, or the captured model answers otherwise.
    """
    for sizes in sizes_to_check(student.sizes):
        feed = {spec.name: np.resize(example[spec.name], _shape(spec, sizes, example[spec.name].shape)) for spec in student.inputs}
        said = ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())
        try:
            wanted = run(feed)
        except StudentError as error:
            raise StudentError(f"at {said}: {error.cause}", "narrow its range in sizes") from error
        found = captured(feed)
        for name, array in wanted.items():
            if not _alike(array, found[name]):
                cause = f"at {said} the captured model answers otherwise than the student in output '{name}'"
                raise StudentError(cause, "rewrite what depends on the size there, or leave it out of sizes")


def _shape(spec: TensorSpec, sizes: Mapping[str, int], example: Sequence[int]) -> list[int]:
    return [sizes.get(size, held) if isinstance(size, str) else size for size, held in zip(spec.shape or (), example, strict=True)]


def _alike(wanted: NDArray[Any], found: NDArray[Any]) -> bool:
    """Of the same shape and, where they are reals, no further apart than ``_FURTHEST``: a decision may turn on the last bits."""
    if wanted.shape != found.shape or wanted.dtype.kind != "f":
        return wanted.shape == found.shape
    error = np.square(wanted.astype(np.float64) - found).sum()
    return bool(error <= _FURTHEST * np.square(wanted.astype(np.float64)).sum())


def say_sizes(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Write open sizes into a model's metadata."""
    if sizes:
        model.metadata_props.add(key=_METADATA, value=json.dumps({symbol: list(held) for symbol, held in sorted(sizes.items())}))


def sizes_of(metadata: Mapping[str, str]) -> Sizes:
    """The open sizes that a model's metadata (``ir.Model.metadata_props``) tells of, empty for none."""
    return {str(symbol): (int(low), int(high)) for symbol, (low, high) in json.loads(metadata.get(_METADATA, "{}")).items()}
