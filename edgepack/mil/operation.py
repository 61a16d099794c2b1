"""One MIL operation as the interpreter sees it, and the table of what it can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepack.mil.errors import KernelError, MilError

Array = NDArray[Any]

# Computes the outputs from the run-time inputs, by parameter name. fp16 tensors arrive widened to float32.
Kernel = Callable[..., "Array | Sequence[Array]"]


@dataclass(frozen=True)
class TensorType:
    """A value's name, numpy dtype name and shape; None stands for a size that is known at run time only."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def allows(self, shape: Sequence[int]) -> bool:
        """Whether an array of ``shape`` is of this type."""
        return len(shape) == len(self.shape) and all(want in (None, size) for want, size in zip(self.shape, shape, strict=True))


@dataclass
class State:
    """A tensor that a package keeps from one run to the next; fp16 widened to float32."""

    array: Array


class Block(Protocol):
    """Operations nested in another one."""

    def run(self, arguments: Sequence[Array], scope: Mapping[str, Any]) -> list[Array]:
        """What it gives for these arguments, in order, among the values of ``scope``."""


# The run-time parameter of an operation with blocks: all values from outside that they read, by name.
SCOPE = "scope"


@dataclass(frozen=True)
class MilOperation:
    """One operation of a loaded program.

    Attributes:
        type: MIL's name ("conv").
        name: of the operation, for messages.
        constants: parameters known at load: arrays (fp16 widened to float32) or strings.
        inputs: run-time parameters: the name of the value read, several for a variadic parameter.
        outputs: what it declares to give.
        blocks: nested in it, of control flow.
    """

    type: str
    name: str
    constants: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[TensorType, ...]
    blocks: tuple[Block, ...] = ()

    def array(self, parameter: str) -> Array:
        """A constant tensor parameter; MilError when it is absent or computed at run time."""
        held = self._given(parameter, None)
        if held is None:
            raise self.refusal(f"needs a constant '{parameter}'")
        return np.asarray(held)

    def integers(self, parameter: str, default: Sequence[int]) -> tuple[int, ...]:
        """A constant vector of integers, ``default`` when the parameter is absent."""
        return tuple(int(value) for value in np.ravel(self._given(parameter, default)))

    def number(self, parameter: str, default: float) -> np.float32:
        """A constant real number as float32, ``default`` when the parameter is absent."""
        return np.float32(self._given(parameter, default))

    def flag(self, parameter: str) -> bool:
        """A constant boolean, False when the parameter is absent."""
        return bool(self._given(parameter, False))

    def text(self, parameter: str, default: str) -> str:
        """A constant string, ``default`` when the parameter is absent."""
        return str(self._given(parameter, default))

    def has(self, parameter: str) -> bool:
        """Whether the parameter is given, as a constant or at run time."""
        return parameter in self.constants or parameter in self.inputs

    def bind(self, parameters: Sequence[str], function: Callable[..., Array | Sequence[Array]], **defaults: Array | None) -> Kernel:
        """A kernel that calls ``function`` with these parameters in order, constants and ``defaults`` filled in.

        Raises:
            MilError: another parameter is computed at run time, or one of these is absent and has no default.
        """
        for name in self.inputs:
            if name not in parameters:
                raise self._at_run_time(name)
        fixed = {name: self._fixed(name, defaults) for name in parameters if name not in self.inputs}

        def kernel(**runtime: Array) -> Array | Sequence[Array]:
            return function(*(fixed[name] if name in fixed else runtime[name] for name in parameters))

        return kernel

    def _fixed(self, parameter: str, defaults: Mapping[str, Array | None]) -> Array | None:
        if parameter in defaults and parameter not in self.constants:
            return defaults[parameter]
        return self.array(parameter)

    def _given(self, parameter: str, default: Any) -> Any:
        if parameter in self.inputs:
            raise self._at_run_time(parameter)
        return self.constants.get(parameter, default)

    def _at_run_time(self, parameter: str) -> MilError:
        return self.refusal(f"has a '{parameter}' that is computed at run time")

    def refusal(self, cause: str) -> MilError:
        """The error to raise for a form of this operation that is not implemented."""
        return MilError(self._told(cause), "verify this package with the coreml runner on a Mac")

    def fault(self, cause: str) -> KernelError:
        """The error to raise when running this operation went wrong."""
        return KernelError(self._told(cause), "report this with the model: the package must not ship")

    def _told(self, cause: str) -> str:
        return f"MIL operation {self.type} '{self.name}' {cause}"


Build = Callable[[MilOperation], Kernel]


@dataclass(frozen=True)
class Implementation:
    """How one MIL operation is run: ``build`` prepares its constants once and returns the kernel.

    ``selects``: every output element is an input element, or a number of its dtype, so that nothing has to be rounded.
    """

    build: Build
    accepts: frozenset[str]
    selects: bool


_TABLE: dict[str, Implementation] = {}


def implements(*types: str, accepts: Sequence[str], selects: bool = False) -> Callable[[Build], Build]:
    """Register ``build`` for MIL operations; a parameter outside ``accepts`` is refused, and what ``selects`` is not rounded."""

    def register(build: Build) -> Build:
        for name in types:
            if name in _TABLE:
                raise ValueError(f"MIL operation {name} is implemented twice")
            _TABLE[name] = Implementation(build, frozenset(accepts), selects)
        return build

    return register


def kernel_of(operation: MilOperation) -> Kernel:
    """The prepared kernel of an operation.

    Raises:
        MilError: the operation, one of its parameters or their form is not implemented.
    """
    known = _TABLE.get(operation.type)
    if known is None:
        raise operation.refusal("is not implemented by the interpreter")
    extra = sorted((set(operation.constants) | set(operation.inputs)) - known.accepts)
    if extra:
        raise operation.refusal(f"has a parameter '{extra[0]}' that the interpreter does not know")
    return known.build(operation)


def selects(operation: MilOperation) -> bool:
    """Whether the operation gives elements of its inputs as they are."""
    return _TABLE[operation.type].selects


def implemented() -> list[str]:
    """The MIL operations the interpreter runs, sorted."""
    return sorted(_TABLE)
