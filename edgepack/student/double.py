"""Running torch code in float64, constants and casts of its own included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def everything_in_float64() -> Iterator[None]:
    """Within, torch computes in float64 whatever the module asks for.

    ``module.double()`` converts parameters and buffers; a forward that makes constants (``torch.ones(8, 8)``) or casts (``x.float()``,
    ``softmax(dtype=torch.float32)``) would still mix or lose precision. Here new tensors default to float64, every operator that is
    told a lower precision is told float64, every lower operand is promoted, and the assertions of torch.export about dtypes are skipped.
    """
    import torch

    held = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _promoting_mode():
            yield
    finally:
        torch.set_default_dtype(held)


def _promoting_mode() -> Any:
    """A dispatch mode: it sees every aten operator, of eager modules and of exported programs alike."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    lower = (torch.float32, torch.float16, torch.bfloat16)

    def promoted(argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return torch.float64 if argument in lower else argument
        return argument.double() if isinstance(argument, torch.Tensor) and argument.dtype in lower else argument

    def dtypes_only(argument: Any) -> Any:
        return promoted(argument) if isinstance(argument, torch.dtype) else argument

    class Promoting(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._assert_tensor_metadata.default:
                return None
            if func._schema.name in _ON_CODES:
                return _ON_CODES[func._schema.name](*tree_map(promoted, args))
            # What an in-place operator writes to must stay the tensor that the caller holds.
            convert = dtypes_only if func._schema.is_mutable else promoted
            return func(*tree_map(convert, args), **tree_map(convert, kwargs or {}))

    return Promoting()


def _quantize(x: Any, scale: Any, zero_point: Any, smallest: int, largest: int, dtype: Any) -> Any:
    """torch.ao's quantize_per_tensor, which takes float32 only: divide, round half to even, add the zero point, saturate."""
    import torch

    return torch.clamp(torch.round(x.double() / scale) + zero_point, smallest, largest).to(dtype)


def _dequantize(codes: Any, scale: Any, zero_point: Any, *_: Any) -> Any:
    """torch.ao's dequantize_per_tensor: scale * (code - zero point)."""
    return (codes.double() - zero_point) * scale


def _quantize_channels(x: Any, scales: Any, zero_points: Any, axis: int, smallest: int, largest: int, dtype: Any) -> Any:
    return _quantize(x, _along(scales, axis, x), _along(zero_points, axis, x), smallest, largest, dtype)


def _dequantize_channels(codes: Any, scales: Any, zero_points: Any, axis: int, *_: Any) -> Any:
    return _dequantize(codes, _along(scales, axis, codes).double(), 0 if zero_points is None else _along(zero_points, axis, codes))


def _along(values: Any, axis: int, x: Any) -> Any:
    return values.reshape([-1 if index == axis % x.ndim else 1 for index in range(x.ndim)])


# What torch.export leaves of a quantized module (torch.ao.quantization.fx._decomposed): these refuse float64 operands.
_ON_CODES: dict[str, Callable[..., Any]] = {
    "quantized_decomposed::quantize_per_tensor": _quantize,
    "quantized_decomposed::dequantize_per_tensor": _dequantize,
    "quantized_decomposed::quantize_per_channel": _quantize_channels,
    "quantized_decomposed::dequantize_per_channel": _dequantize_channels,
}
