"""make_list and list_* (coremltools iOS15/control_flow.py): a list of equal tensors is held as one array, (length, elements...)."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("make_list", accepts=("init_length", "dynamic_length", "elem_shape", "dtype"))
def make_list(operation: MilOperation) -> Kernel:
    """``init_length`` (default 1) elements, all zeros."""
    declared = operation.outputs[0].shape[1:]
    element = [size for size in declared if size is not None]
    if len(element) < len(declared):
        raise operation.refusal("makes a list whose elements have any size")
    return operation.bind(("init_length",), lambda length: np.zeros((int(length), *element), np.float32), init_length=np.asarray(1))


@implements("list_length", accepts=("ls",))
def list_length(operation: MilOperation) -> Kernel:
    """The number of elements."""
    return operation.bind(("ls",), lambda held: np.asarray(len(held)))


@implements("list_read", accepts=("ls", "index"), selects=True)
def list_read(operation: MilOperation) -> Kernel:
    """The element at ``index``."""
    return operation.bind(("ls", "index"), lambda held, index: held[_within(operation, held, index)])


@implements("list_gather", accepts=("ls", "indices"), selects=True)
def list_gather(operation: MilOperation) -> Kernel:
    """The elements at ``indices``, one after the other: (K, elements...)."""
    return operation.bind(("ls", "indices"), lambda held, indices: held[_within(operation, held, indices)])


@implements("list_write", accepts=("ls", "index", "value"), selects=True)
def list_write(operation: MilOperation) -> Kernel:
    """The list with ``value`` at ``index``; a list that is too short grows, by zeros."""
    return operation.bind(("ls", "index", "value"), lambda held, index, value: _written(operation, held, index, value))


@implements("list_scatter", accepts=("ls", "indices", "value"), selects=True)
def list_scatter(operation: MilOperation) -> Kernel:
    """The list with ``value[i]`` at ``indices[i]``; a list that is too short grows, by zeros."""
    return operation.bind(("ls", "indices", "value"), lambda held, indices, value: _written(operation, held, indices, value))


def _written(operation: MilOperation, held: Array, indices: Array, value: Array) -> Array:
    if indices.size and indices.min() < 0:
        raise operation.refusal("writes at a negative index")
    grown = np.zeros((max(len(held), int(indices.max(initial=-1)) + 1), *held.shape[1:]), held.dtype)
    grown[: len(held)] = held
    grown[indices] = value
    return grown


def _within(operation: MilOperation, held: Array, indices: Array) -> Array:
    if indices.size and not 0 <= indices.min() <= indices.max() < len(held):
        raise operation.refusal(f"reads outside of a list of {len(held)}")
    return indices
