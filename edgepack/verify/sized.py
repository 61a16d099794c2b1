"""Artifacts with open sizes: what they answer at the ends of the range and between, beside their own hub in ONNX Runtime.

The golden samples all have the example's sizes. Samples of other sizes are made of the golden ones' numbers in their order, so that every
number is one the student takes: a longer sequence is several in a row, a larger batch is several samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import ArtifactDescription, Binding
from edgepack.pack.manifest import SizeParity
from edgepack.quantize.scheme import Scheme
from edgepack.student.sizes import sizes_to_check
from edgepack.verify.judge import NETWORK_DB, OWN_CODES_DB, WORST_DB
from edgepack.verify.metrics import non_finite, sqnr_db

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[dict[str, NDArray[Any]]], Arrays]

# Chance of one sample against another: noise of twice the size.
_CHANCE_DB = 6.0


def sample_at(golden: Arrays, inputs: Sequence[Binding], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """One sample in the student's terms, by its input names.

    Args:
        golden: stacked samples; inputs: the artifact's, whose symbols have ``sizes``.
    """
    return {held.hub_name: np.resize(golden[held.hub_name], _hub_shape(held, sizes, golden[held.hub_name].shape[1:])) for held in inputs}


def _hub_shape(held: Binding, sizes: Mapping[str, int], example: tuple[int, ...]) -> tuple[int, ...]:
    order = held.permutation or range(len(held.shape))
    given = {axis: sizes.get(size, example[axis]) if isinstance(size, str) else size for axis, size in zip(order, held.shape, strict=True)}
    return tuple(given[axis] for axis in range(len(given)))


def example_sizes(golden: Arrays, described: ArtifactDescription) -> dict[str, int]:
    """What every open symbol is in the golden samples."""
    found: dict[str | int, int] = {}
    for held in described.inputs:
        order = held.permutation or range(len(held.shape))
        shape = golden[held.hub_name].shape[1:]
        found |= {size: int(shape[axis]) for axis, size in zip(order, held.shape, strict=True) if size in described.sizes}
    return {str(symbol): size for symbol, size in found.items()}


def size_parity(scheme: Scheme, described: ArtifactDescription, golden: Arrays, artifact: Run, hub: Run) -> tuple[SizeParity, ...]:
    """The artifact at its example's sizes, at the ends of its range and between, against what ``hub`` answers.

    Each has a floor: what it reaches at the example's sizes, or what two runtimes of such a network keep where it reaches more, less what
    sizes do. A mean over n numbers has 1 / n of the noise power of one, so that n times as many or as few numbers as in the example
    account for 10 log10 n dB.
    """
    example = example_sizes(golden, described)
    most = OWN_CODES_DB if scheme.activations in ("static", "dynamic") else NETWORK_DB
    found: list[SizeParity] = []
    for sizes in [example, *(held for held in sizes_to_check(described.sizes) if held != example)]:
        feed = sample_at(golden, described.inputs, sizes)
        reached = _furthest(hub(feed), artifact(feed))
        at_example = found[0].sqnr_db if found else reached
        ratio = math.prod(sizes.values()) / math.prod(example.values())
        floor = min(most if at_example is None else at_example, most) - abs(10 * math.log10(ratio)) - _CHANCE_DB
        found.append(SizeParity(sizes, reached, max(floor, WORST_DB)))
    return tuple(found)


def _furthest(reference: Arrays, actual: Arrays) -> float | None:
    """SQNR of the output that is furthest; None where all are equal, and as bad as can be where one has another shape or is not finite."""
    found = [_sqnr(array, actual[name]) for name, array in reference.items()]
    lowest = min(found, default=math.inf)
    return max(lowest, WORST_DB) if lowest < math.inf else None


def _sqnr(reference: NDArray[Any], actual: NDArray[Any]) -> float:
    if reference.shape != actual.shape or non_finite(actual) > non_finite(reference):
        return WORST_DB
    # A decision (a class, an index) may turn on the last bits of what it was made from.
    return sqnr_db(reference, actual) if np.issubdtype(reference.dtype, np.floating) else math.inf


def size_failures(found: Sequence[SizeParity], target: str, scheme: str) -> tuple[str, ...]:
    """One line for each size at which the artifact is below its floor."""
    return tuple(
        f"{target} {scheme}: at {_said(held.sizes)} it is {held.sqnr_db:.1f} dB from its hub, below {held.floor_db:.1f}"
        for held in found
        if held.sqnr_db is not None and held.sqnr_db < held.floor_db
    )


def _said(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())
