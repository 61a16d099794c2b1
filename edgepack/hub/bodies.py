"""Function bodies of operators that came after the hub's opset and that ONNX defines as no function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import HubError

if TYPE_CHECKING:
    import onnx

Types = Mapping[str, "onnx.TypeProto"]
Constants = Mapping[str, NDArray[Any]]
Body = Callable[["onnx.NodeProto", Types, Constants], "onnx.FunctionProto | None"]
# The square of an axis is written out; beyond this it would be 64 MB of booleans alone.
_LONGEST = 8192


def cumulative_product(node: onnx.NodeProto, types: Types, constants: Constants) -> onnx.FunctionProto | None:
    """ONNX CumProd-26 along a known axis of known size n: the product over the last of (..., n, n), with 1 where a factor is not in it."""
    from onnx import helper

    held = types.get(node.input[0])
    if held is None:
        return None
    sizes, axis = [size.dim_value for size in held.tensor_type.shape.dim], constants.get(node.input[1])
    if axis is None or not sizes or not 0 < sizes[int(axis.item())] <= _LONGEST:
        raise HubError(
            f"CumProd '{node.name}' has an axis that is computed at run time, or whose size is", "give axis and shape as constants"
        )
    flags = {given.name: given.i for given in node.attribute}
    rank, along = len(sizes), int(axis.item()) % len(sizes)
    size = sizes[along]
    rows, columns = np.arange(size)[:, None], np.arange(size)[None, :]
    distance = columns - rows if flags.get("reverse", 0) else rows - columns
    kept = distance > 0 if flags.get("exclusive", 0) else distance >= 0
    one = np.ones((), helper.tensor_dtype_to_np_dtype(held.tensor_type.elem_type))
    order = [*(other for other in range(rank) if other != along), along]
    numbers = {"kept": kept, "one": one, "before": np.asarray([-2]), "last": np.asarray([-1])}
    nodes = [
        *_given(numbers),
        helper.make_node("Transpose", ["x"], ["moved"], perm=order),
        helper.make_node("Unsqueeze", ["moved", "before"], ["rows"]),
        helper.make_node("Where", ["kept", "rows", "one"], ["factors"]),
        helper.make_node("ReduceProd", ["factors", "last"], ["product"], keepdims=0),
        helper.make_node("Transpose", ["product"], ["y"], perm=[int(place) for place in np.argsort(order)]),
    ]
    return helper.make_function("", "CumProd", ["x", "axis"], ["y"], nodes, [helper.make_opsetid("", 21)], ["exclusive", "reverse"])


def shift(node: onnx.NodeProto, types: Types, constants: Constants) -> onnx.FunctionProto | None:
    """ONNX BitShift-28 of signed numbers: products with a power of two to the left, whole quotients to the right.

    By a negative amount, or by all bits and more, every bit shifted in is the sign (right) or 0 (left).
    """
    from onnx import helper

    held = types.get(node.input[0])
    if held is None:
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(held.tensor_type.elem_type))
    if dtype.kind != "i":
        raise HubError(f"BitShift '{node.name}' is of {dtype}", "use the opset of the hub for it")
    is_left = any(given.name == "direction" and given.s == b"LEFT" for given in node.attribute)
    most = dtype.itemsize * 8 - (1 if is_left else 2)
    powers = np.asarray([1 << amount for amount in range(most + 1)], np.uint64).astype(dtype)
    numbers = {"zero": np.zeros((), dtype), "most": np.asarray(most, dtype), "filled": -np.ones((), dtype), "powers": powers}
    nodes = [
        helper.make_node("Max", ["y", "zero"], ["above"]),
        helper.make_node("Min", ["above", "most"], ["amount"]),
        helper.make_node("Cast", ["amount"], ["place"], to=7),
        helper.make_node("Gather", ["powers", "place"], ["power"]),
        helper.make_node("Equal", ["amount", "y"], ["is_within"]),
    ]
    if is_left:
        nodes += [helper.make_node("Mul", ["x", "power"], ["moved"]), helper.make_node("Where", ["is_within", "moved", "zero"], ["z"])]
    else:
        nodes += [
            # x >> n is -1 - ((-1 - x) >> n) below 0: the quotient is of numbers that are never negative, nor beyond the largest.
            helper.make_node("Less", ["x", "zero"], ["is_negative"]),
            helper.make_node("Sub", ["filled", "x"], ["turned"]),
            helper.make_node("Where", ["is_negative", "turned", "x"], ["whole"]),
            helper.make_node("Div", ["whole", "power"], ["quotient"]),
            helper.make_node("Sub", ["filled", "quotient"], ["back"]),
            helper.make_node("Where", ["is_negative", "back", "quotient"], ["moved"]),
            helper.make_node("Where", ["is_negative", "filled", "zero"], ["sign"]),
            helper.make_node("Where", ["is_within", "moved", "sign"], ["z"]),
        ]
    return helper.make_function("", "BitShift", ["x", "y"], ["z"], [*_given(numbers), *nodes], [helper.make_opsetid("", 21)], ["direction"])


def _given(numbers: Mapping[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    return [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)) for name, array in numbers.items()]


BODIES: dict[str, Body] = {"BitShift": shift, "CumProd": cumulative_product}
