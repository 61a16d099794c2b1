"""Elements taken by index, and by rank (coremltools iOS15 to iOS17 scatter_gather.py, tensor_operation.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements

# Checks indices into an axis of the given size, and answers them as int64.
Checked = Callable[[Array, int], Array]


@implements("gather", accepts=("x", "indices", "axis", "batch_dims", "validate_indices"), selects=True)
def gather(operation: MilOperation) -> Kernel:
    """``x`` taken at ``indices`` along ``axis``; the first ``batch_dims`` dimensions of both go together."""
    (axis,), (batch,) = operation.integers("axis", (0,)), operation.integers("batch_dims", (0,))
    checked = checking(operation)

    def kernel(x: Array, indices: Array) -> Array:
        place = axis % x.ndim
        held = checked(indices, x.shape[place])
        if not batch:
            return np.take(x, held, axis=place)
        pairs = zip(x.reshape(-1, *x.shape[batch:]), held.reshape(-1, *held.shape[batch:]), strict=True)
        taken = np.stack([np.take(part, places, axis=place - batch) for part, places in pairs])
        return taken.reshape(*x.shape[:batch], *taken.shape[1:])

    return operation.bind(("x", "indices"), kernel)


@implements("gather_along_axis", accepts=("x", "indices", "axis", "validate_indices"), selects=True)
def gather_along_axis(operation: MilOperation) -> Kernel:
    """For every place of ``indices`` the element of ``x`` at the same place, but for ``axis``, where the index says."""
    (axis,) = operation.integers("axis", (0,))
    checked = checking(operation)

    def kernel(x: Array, indices: Array) -> Array:
        place = axis % x.ndim
        shared = tuple(slice(None) if at == place else slice(size) for at, size in enumerate(indices.shape))
        return np.take_along_axis(x[shared], checked(indices, x.shape[place]), axis=place)

    return operation.bind(("x", "indices"), kernel)


@implements("gather_nd", accepts=("x", "indices", "batch_dims", "validate_indices"), selects=True)
def gather_nd(operation: MilOperation) -> Kernel:
    """The last dimension of ``indices`` is a place in ``x`` after its first ``batch_dims`` dimensions, which go together in both."""
    (batch,) = operation.integers("batch_dims", (0,))
    checked = checking(operation)

    def kernel(x: Array, indices: Array) -> Array:
        places = [checked(indices[..., at], x.shape[batch + at]) for at in range(indices.shape[-1])]
        grid = np.ogrid[tuple(map(slice, x.shape[:batch]))] if batch else []
        aligned = [along.reshape(*along.shape, *[1] * (indices.ndim - 1 - batch)) for along in grid]
        return np.asarray(x[(*aligned, *places)])

    return operation.bind(("x", "indices"), kernel)


def checking(operation: MilOperation) -> Checked:
    """What an index may be: within the size, or counted from the end before iOS 17. Core ML leaves all others undefined; refused here."""
    is_ios_17 = operation.has("validate_indices")

    def checked(indices: Array, size: int) -> Array:
        wide = indices.astype(np.int64)
        low = 0 if is_ios_17 else -size
        if wide.size and (wide.min() < low or wide.max() >= size):
            raise operation.refusal(f"takes an index outside [{low}, {size - 1}], which Core ML leaves undefined")
        return wide % max(size, 1)

    return checked


@implements("topk", accepts=("x", "k", "axis", "ascending", "sort", "return_indices", "output_indices_dtype"))
def topk(operation: MilOperation) -> Kernel:
    """The ``k`` largest elements along ``axis``, or the smallest, in order, and their places; of equal ones the first."""
    (axis,) = operation.integers("axis", (-1,))
    ascends = operation.flag("ascending")

    def kernel(x: Array, k: Array) -> list[Array]:
        places = np.take(_order(x, axis, ascends), range(int(k)), axis=axis)
        return [np.take_along_axis(x, places, axis=axis), places][: len(operation.outputs)]

    return operation.bind(("x", "k"), kernel, k=np.asarray(1))


@implements("argsort", accepts=("x", "axis", "ascending", "output_dtype"))
def argsort(operation: MilOperation) -> Kernel:
    """The places of the elements along ``axis``, the largest first unless ``ascending``."""
    (axis,) = operation.integers("axis", (-1,))
    ascends = operation.flag("ascending")
    return operation.bind(("x",), lambda x: _order(x, axis, ascends))


def _order(x: Array, axis: int, ascends: bool) -> Array:
    """Places along ``axis`` in order of their elements, equal ones as they come."""
    if ascends:
        return np.argsort(x, axis=axis, kind="stable")
    # Reversed before and after, so that equal elements stay in order.
    backward = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.asarray(x.shape[axis] - 1 - np.flip(backward, axis))
