"""Elements put by index (coremltools iOS15 and iOS17 scatter_gather.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.gather import checking

# How an update joins what is there, at places that may repeat.
_MODES: dict[str, Callable[[Array, tuple[Array, ...], Array], object]] = {
    "update": lambda data, places, updates: data.__setitem__(places, updates),
    "add": np.add.at,
    "sub": np.subtract.at,
    "mul": np.multiply.at,
    "div": lambda data, places, updates: np.divide.at(data, places, updates),
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _mode(operation: MilOperation) -> Callable[[Array, tuple[Array, ...], Array], object]:
    mode = operation.text("mode", "add")
    if mode not in _MODES:
        raise operation.refusal(f"has mode {mode}")
    return _MODES[mode]


@implements("scatter", accepts=("data", "indices", "updates", "axis", "mode", "validate_indices"))
def scatter(operation: MilOperation) -> Kernel:
    """``updates`` joined to the slices of ``data`` that ``indices`` (any rank) name along ``axis``."""
    (axis,) = operation.integers("axis", (0,))
    join, checked = _mode(operation), checking(operation)

    def kernel(data: Array, indices: Array, updates: Array) -> Array:
        place, result = axis % data.ndim, data.copy()
        join(result, (*[slice(None)] * place, checked(indices, data.shape[place])), updates)  # type: ignore[arg-type]
        return result

    return operation.bind(("data", "indices", "updates"), kernel)


@implements("scatter_along_axis", accepts=("data", "indices", "updates", "axis", "mode", "validate_indices"))
def scatter_along_axis(operation: MilOperation) -> Kernel:
    """Every element of ``updates`` joined to ``data`` at its own place, but for ``axis``, where the index says."""
    (axis,) = operation.integers("axis", (0,))
    join, checked = _mode(operation), checking(operation)

    def kernel(data: Array, indices: Array, updates: Array) -> Array:
        place, result = axis % data.ndim, data.copy()
        places: list[Array] = list(np.indices(indices.shape))
        places[place] = checked(indices, data.shape[place])
        join(result, tuple(places), updates)
        return result

    return operation.bind(("data", "indices", "updates"), kernel)


@implements("scatter_nd", accepts=("data", "indices", "updates", "mode", "validate_indices"))
def scatter_nd(operation: MilOperation) -> Kernel:
    """``updates`` joined to ``data`` at the places that the last dimension of ``indices`` spells."""
    join, checked = _mode(operation), checking(operation)

    def kernel(data: Array, indices: Array, updates: Array) -> Array:
        result = data.copy()
        join(result, tuple(checked(indices[..., at], data.shape[at]) for at in range(indices.shape[-1])), updates)
        return result

    return operation.bind(("data", "indices", "updates"), kernel)
