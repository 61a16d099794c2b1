"""Running torch code in float64, constants and casts of its own included."""

from __future__ import annotations

from collections.abc import Iterator
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
            # What an in-place operator writes to must stay the tensor that the caller holds.
            convert = dtypes_only if func._schema.is_mutable else promoted
            return func(*tree_map(convert, args), **tree_map(convert, kwargs or {}))

    return Promoting()
