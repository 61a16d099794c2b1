"""What will be written, as plain data: tensors, operator calls, a signature. Enumerations are spelled by their schema names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgepack.backends.tflite.layout import Layout, Shape
from edgepack.quantize.encoding import Encoding


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the artifact; two are the same only when they are the same object.

    Attributes:
        dtype: numpy name of the stored type.
        shape: as stored.
        encoding: of int8 or int32 codes; its axis counts stored dimensions.
        data: the numbers of a constant, in stored order; None for an activation.
        open_axes: axes whose size only a run tells, and what it is in terms of the inputs' symbols ("2*length+1"; "?" for what no line
            says). ``shape`` holds one it may have.
    """

    name: str
    dtype: str
    shape: Shape
    encoding: Encoding | None = None
    data: NDArray[Any] | None = None
    open_axes: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class View:
    """A hub tensor as it lies in an artifact tensor.

    Attributes:
        layout: how the hub's axes are stored.
        non_negative: an activation before it leaves nothing below zero, so that zero is as good a padding for a maximum as -infinity.
    """

    tensor: Tensor
    layout: Layout
    non_negative: bool = False

    @property
    def shape(self) -> Shape:
        """The hub's shape."""
        return self.layout.shape

    @property
    def stored(self) -> Shape:
        """The artifact's shape."""
        return self.layout.stored

    @property
    def encoding(self) -> Encoding | None:
        """How codes stand for reals; None for a real tensor."""
        return self.tensor.encoding

    @property
    def is_constant(self) -> bool:
        """Whether the numbers are known."""
        return self.tensor.data is not None


@dataclass(frozen=True)
class Options:
    """A builtin options table: its schema name without the trailing ``T`` and its fields; enumeration values by name."""

    table: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One operator: schema name, tensors (None for an omitted input), options, and the graphs that WHILE and IF run, in this order."""

    operator: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Options | None = None
    blocks: tuple[Program, ...] = ()

    def option(self, name: str) -> Any:
        """A field of the options, None when it is not set."""
        return None if self.options is None else self.options.fields.get(name)


@dataclass(frozen=True)
class Program:
    """A whole artifact: signature inputs and outputs by name, calls in execution order, metadata by name."""

    inputs: tuple[tuple[str, Tensor], ...]
    outputs: tuple[tuple[str, Tensor], ...]
    calls: tuple[Call, ...]
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def all_calls(self) -> Iterator[Call]:
        """Its calls, and after each those of its blocks."""
        for call in self.calls:
            yield call
            for block in call.blocks:
                yield from block.all_calls()
