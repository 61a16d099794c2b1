"""Programs of one model at several sizes -> one program for every size between.

The programs must have the same operators in the same order with the same wiring. What is equal in all of them stays. A shape that differs
is open: the interpreter infers it. A constant that differs must be explained by a rule, else the model is refused:

- a RESHAPE's target with one entry that differs holds -1 there, as does a SLICE's size up to the end;
- other integers that are ``slope * size + offset`` of one symbol are computed at run time, from the shape of an input;
- numbers that are the leading part of the largest probe's (a table of positions, a mask) are a run-time SLICE of those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.table import BackendError
from edgepack.backends.tflite.layout import Shape
from edgepack.backends.tflite.program import Call, Options, Program, Tensor
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import Operation

Sizes = Mapping[str, int]
HINT = "give the size a fixed value: leave it out of sizes"
# More integers than these are a table, not a shape; none of ONNX's operators takes one as long.
_MOST_COMPUTED = 64


@dataclass(frozen=True)
class Line:
    """``slope * size of the symbol + offset``."""

    symbol: str
    slope: int
    offset: int

    def at(self, sizes: Sizes) -> int:
        """The value where the symbols have these sizes."""
        return self.slope * sizes[self.symbol] + self.offset

    def __str__(self) -> str:
        factor = "" if self.slope == 1 else f"{self.slope}*"
        return f"{factor}{self.symbol}" + (f"{self.offset:+d}" if self.offset else "")


def line_through(values: Iterable[int], sizes: Sequence[Sizes]) -> Line | None:
    """The line that gives ``values`` at ``sizes``, None where there is none in one symbol with integer coefficients."""
    held_values = [int(value) for value in values]
    for symbol in sizes[0]:
        points = sorted({(held[symbol], value) for held, value in zip(sizes, held_values, strict=True)})
        (first, low), (last, high) = points[0], points[-1]
        slope, rest = divmod(high - low, last - first) if last != first else (0, 1)
        line = Line(symbol, slope, low - slope * first)
        if rest == 0 and all(line.at({symbol: size}) == value for size, value in points):
            return line
    return None


def unified(programs: Sequence[Program], sizes: Sequence[Sizes], example: Sizes, makers: Mapping[Tensor, Operation]) -> Program:
    """One program that takes every size.

    Args:
        programs: of one model at ``sizes``, the largest last; metadata are the first one's.
        example: what the written shapes hold.
        makers: which operation makes a tensor of the first program.

    Raises:
        BackendError: the programs differ in a way that no rule explains.
    """
    return _Union(programs, sizes, example, makers).program()


class _Union:
    def __init__(self, programs: Sequence[Program], sizes: Sequence[Sizes], example: Sizes, makers: Mapping[Tensor, Operation]) -> None:
        self._programs, self._sizes, self._example, self._makers = programs, sizes, example, makers
        # Tensor of the first program -> those of all, and the one that is written.
        self._slots: dict[Tensor, tuple[Tensor, ...]] = {}
        self._written: dict[Tensor, Tensor] = {}
        self._computed: dict[str, Tensor] = {}
        self._calls: list[Call] = []
        self._names: set[str] = set()

    def program(self) -> Program:
        base = self._programs[0]
        inputs = [self._end(program.inputs[place][1] for program in self._programs) for place in range(len(base.inputs))]
        for place, call in enumerate(base.calls):
            others = [program.calls[place] if place < len(program.calls) else None for program in self._programs]
            self._join(call, [held for held in others if held is not None])
        if any(len(program.calls) != len(base.calls) for program in self._programs):
            self._refuse(base.calls[-1], "the model takes more operators at some sizes than at others")
        for pairs in zip(*(program.outputs for program in self._programs), strict=True):
            self._match(base.calls[-1], [tensor for _, tensor in pairs])
        ends = [self._written[tensor] for _, tensor in base.outputs]
        named = [
            tuple(zip((name for name, _ in held), tensors, strict=True)) for held, tensors in ((base.inputs, inputs), (base.outputs, ends))
        ]
        return replace(base, inputs=named[0], outputs=named[1], calls=tuple(self._calls))

    def _end(self, held: Iterator[Tensor]) -> Tensor:
        tensors = tuple(held)
        self._slots[tensors[0]] = tensors
        return self._open(tensors)

    def _open(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensor with axes open that are not everywhere of one size."""
        shapes = np.array([tensor.shape for tensor in tensors]).reshape(len(tensors), -1)
        lines = {int(axis): line_through(shapes[:, axis], self._sizes) for axis in np.flatnonzero((shapes != shapes[0]).any(axis=0))}
        # Where no line tells a size at the example, it is that of the first probe, which the interpreter corrects as it starts.
        told = {axis: line.at(self._example) for axis, line in lines.items() if line is not None}
        shape = tuple(told.get(axis, size) for axis, size in enumerate(tensors[0].shape))
        axes = tuple((axis, str(line or "?")) for axis, line in lines.items())
        self._written[tensors[0]] = replace(tensors[0], shape=shape, open_axes=axes) if axes else tensors[0]
        return self._written[tensors[0]]

    def _join(self, call: Call, alike: Sequence[Call]) -> None:
        """Write one call of the first program, which must be that of all."""
        if len(alike) != len(self._programs) or any(_form(other) != _form(call) for other in alike):
            self._refuse(call, "other operators or options compute it at other sizes")
        if call.blocks:
            self._refuse(call, "what a loop or a branch computes has no open sizes")
        if call.operator == "DEQUANTIZE" and self._differs([held.inputs[0] for held in alike]):
            self._sliced_after(call, alike)
            return
        inputs = [self._input(call, alike, place) for place in range(len(call.inputs))]
        outputs = []
        for place in range(len(call.outputs)):
            tensors = tuple(held.outputs[place] for held in alike)
            if len({(tensor.dtype, len(tensor.shape)) for tensor in tensors}) > 1 or not _encoded_alike(tensors):
                self._refuse(call, "its result has another type or encoding at other sizes")
            self._slots[tensors[0]] = tensors
            outputs.append(self._open(tensors))
        self._calls.append(replace(call, inputs=tuple(inputs), outputs=tuple(outputs), options=_options(call, inputs)))

    def _input(self, call: Call, alike: Sequence[Call], place: int) -> Tensor | None:
        held = [other.inputs[place] for other in alike]
        tensors = [tensor for tensor in held if tensor is not None]
        if len(tensors) != len(held):
            if tensors:
                self._refuse(call, "an input is left out at some sizes")
            return None
        if tensors[0].data is None:
            return self._match(call, tensors)
        return self._constant(call, alike, place, tensors) if self._differs(tensors) else tensors[0]

    def _match(self, call: Call, tensors: Sequence[Tensor]) -> Tensor:
        """An activation, or an end, must be the same one everywhere."""
        if self._slots.get(tensors[0]) != tuple(tensors):
            self._refuse(call, "it reads other tensors at other sizes")
        return self._written[tensors[0]]

    @staticmethod
    def _differs(tensors: Sequence[Tensor | None]) -> bool:
        first = tensors[0]
        if first is None or first.data is None:
            return False
        return not all(
            tensor is not None and tensor.data is not None and tensor.dtype == first.dtype and np.array_equal(tensor.data, first.data)
            for tensor in tensors
        ) or not _encoded_alike([tensor for tensor in tensors if tensor is not None])

    # Constants that differ

    def _constant(self, call: Call, alike: Sequence[Call], place: int, tensors: Sequence[Tensor]) -> Tensor:
        data = [tensor.data for tensor in tensors if tensor.data is not None]
        if len(data) != len(tensors) or not _encoded_alike(tensors) or len({(held.dtype, held.ndim) for held in data}) > 1:
            self._refuse(call, f"constant '{tensors[0].name}' has another type or encoding at other sizes")
        if len({held.shape for held in data}) > 1:
            return self._leading(call, tensors, data)
        if data[0].dtype != np.int32 or data[0].size > _MOST_COMPUTED:
            self._refuse(call, f"constant '{tensors[0].name}' holds numbers that depend on the size")
        rows = np.stack([held.ravel() for held in data])
        open_entries = np.flatnonzero((rows != rows[0]).any(axis=0))
        if (call.operator, place) == ("RESHAPE", 1) and len(open_entries) == 1:
            return self._with_entries(tensors[0], open_entries, -1)
        if (call.operator, place) == ("SLICE", 2) and all(self._ends(alike, int(entry)) for entry in open_entries):
            return self._with_entries(tensors[0], open_entries, -1)
        return self._vector(call, tensors[0], [self._entry(call, tensors[0], rows[:, entry]) for entry in range(rows.shape[1])])

    @staticmethod
    def _with_entries(tensor: Tensor, entries: NDArray[Any], value: int) -> Tensor:
        assert tensor.data is not None
        data = tensor.data.copy()
        data[entries] = value
        return replace(tensor, data=data)

    @staticmethod
    def _ends(alike: Sequence[Call], axis: int) -> bool:
        """Whether a SLICE goes to the end of an axis at every probe, from one place."""
        begins = set()
        for call in alike:
            source, begin, size = call.inputs[:3]
            if source is None or begin is None or begin.data is None or size is None or size.data is None:
                return False
            begins.add(int(begin.data[axis]))
            if begin.data[axis] + size.data[axis] != source.shape[axis]:
                return False
        return len(begins) == 1

    def _entry(self, call: Call, tensor: Tensor, values: NDArray[Any]) -> Line | int:
        if (values == values[0]).all():
            return int(values[0])
        line = line_through(values, self._sizes)
        if line is None:
            at = ", ".join(f"{value} at {_said(sizes)}" for value, sizes in zip(values[:3], self._sizes[:3], strict=True))
            self._refuse(call, f"constant '{tensor.name}' depends on the size in no simple way ({at})")
        return line

    def _leading(self, call: Call, tensors: Sequence[Tensor], data: Sequence[NDArray[Any]]) -> Tensor:
        """A run-time SLICE of the largest, of which all others are the leading part."""
        if not _is_leading(data):
            self._refuse(call, f"constant '{tensors[0].name}' is no leading part of that of the largest size")
        written = self._open(tensors)
        self._slice(call, replace(tensors[-1], name=self._named(f"{tensors[0].name}/whole")), replace(written, data=None), tensors)
        return self._calls[-1].outputs[0]

    def _sliced_after(self, call: Call, alike: Sequence[Call]) -> None:
        """Codes or halves of a table: no kernel slices them all, so that the reals are."""
        sources = [held.inputs[0] for held in alike]
        tensors = [tensor for tensor in sources if tensor is not None and tensor.data is not None]
        data = [tensor.data for tensor in tensors if tensor.data is not None]
        outputs = tuple(held.outputs[0] for held in alike)
        whole = data[-1]
        if len({held.ndim for held in data}) > 1 or not _encoded_alike(tensors) or not _is_leading(data):
            self._refuse(call, f"constant '{tensors[0].name}' is no leading part of that of the largest size")
        real = replace(outputs[0], name=self._named(f"{outputs[0].name}/whole"), shape=whole.shape)
        self._calls.append(replace(call, inputs=(tensors[-1],), outputs=(real,)))
        self._slots[outputs[0]] = outputs
        self._slice(call, real, self._open(outputs), outputs)

    def _slice(self, call: Call, whole: Tensor, part: Tensor, parts: Sequence[Tensor]) -> None:
        shapes = np.array([tensor.shape for tensor in parts])
        sizes = [self._entry(call, parts[0], shapes[:, axis]) for axis in range(shapes.shape[1])]
        begin = self._integers(f"{part.name}/begin", [0] * len(sizes))
        size = self._vector(call, replace(begin, name=self._named(f"{part.name}/size")), sizes)
        self._calls.append(Call("SLICE", (whole, begin, size), (part,), Options("SliceOptions")))

    # Integers of run time

    def _vector(self, call: Call, like: Tensor, entries: Sequence[Line | int]) -> Tensor:
        """An int32 tensor of the shape of ``like`` with these entries, computed."""
        pieces = [self._value(entry) if isinstance(entry, Line) else self._integers("fixed", [entry]) for entry in entries]
        joined = pieces[0]
        if len(pieces) > 1:
            options = Options("ConcatenationOptions", {"axis": 0, "fusedActivationFunction": "NONE"})
            joined = self._emit("CONCATENATION", pieces, f"{like.name}/computed", (len(pieces),), options)
        if like.shape == joined.shape:
            return joined
        shape = self._integers("shape", list(like.shape))
        options = Options("ReshapeOptions", {"newShape": list(like.shape)})
        return self._emit("RESHAPE", [joined, shape], f"{like.name}/computed", like.shape, options)

    def _value(self, line: Line) -> Tensor:
        """One entry, of shape (1,)."""
        if str(line) in self._computed:
            return self._computed[str(line)]
        value = self._size(line.symbol)
        if line.slope != 1:
            options = Options("MulOptions", {"fusedActivationFunction": "NONE"})
            value = self._emit("MUL", [value, self._integers("slope", [line.slope])], str(line), (1,), options)
        if line.offset:
            options = Options("AddOptions", {"fusedActivationFunction": "NONE"})
            value = self._emit("ADD", [value, self._integers("offset", [line.offset])], str(line), (1,), options)
        self._computed[str(line)] = value
        return value

    def _size(self, symbol: str) -> Tensor:
        """The size of a symbol, of shape (1,): read off the first input axis that is as long."""
        if symbol not in self._computed:
            tensor, axis = next(self._axes_of(symbol))
            shape = self._emit(
                "SHAPE", [tensor], f"{tensor.name}/shape", (len(tensor.shape),), Options("ShapeOptions", {"outType": "int32"})
            )
            begin, size = self._integers("begin", [axis]), self._integers("size", [1])
            self._computed[symbol] = self._emit("SLICE", [shape, begin, size], symbol, (1,), Options("SliceOptions"))
        return self._computed[symbol]

    def _axes_of(self, symbol: str) -> Iterator[tuple[Tensor, int]]:
        wanted = [sizes[symbol] for sizes in self._sizes]
        for _, tensor in self._programs[0].inputs:
            for axis in range(len(tensor.shape)):
                if [held.shape[axis] for held in self._slots[tensor]] == wanted:
                    yield self._written[tensor], axis

    def _emit(self, operator: str, inputs: Sequence[Tensor], name: str, shape: Shape, options: Options) -> Tensor:
        made = Tensor(self._named(f"sizes/{name}"), "int32", shape)
        self._calls.append(Call(operator, tuple(inputs), (made,), options))
        return made

    def _integers(self, name: str, values: Sequence[int]) -> Tensor:
        data = np.asarray(values, np.int32)
        return Tensor(self._named(f"sizes/{name}"), "int32", data.shape, None, data)

    def _named(self, name: str) -> str:
        count = sum(held == name or held.rpartition("_")[0] == name for held in self._names)
        chosen = f"{name}_{count}" if count else name
        self._names.add(chosen)
        return chosen

    def _refuse(self, call: Call, cause: str) -> NoReturn:
        maker = self._makers.get(call.outputs[0])
        where = f"{maker.op_type} '{maker.name}'" if maker is not None else f"'{call.outputs[0].name}'"
        raise BackendError(f"tflite: {where}: open sizes: {cause}", HINT)


def _form(call: Call) -> tuple[Any, ...]:
    """What must be equal at all sizes: operator, number of tensors, options. A RESHAPE's target is an input as well."""
    options = call.options
    fields = {} if options is None or call.operator == "RESHAPE" else dict(options.fields)
    return call.operator, len(call.inputs), len(call.outputs), options and options.table, fields


def _options(call: Call, inputs: Sequence[Tensor | None]) -> Options | None:
    """The call's options; those of a RESHAPE say its target again, where it is known."""
    target = inputs[1] if call.operator == "RESHAPE" else None
    if target is None:
        return call.options
    return Options("ReshapeOptions", {} if target.data is None else {"newShape": target.data.tolist()})


def _is_leading(data: Sequence[NDArray[Any]]) -> bool:
    """Whether each is the leading part of the last."""
    whole = data[-1]
    return all(
        all(size <= most for size, most in zip(held.shape, whole.shape, strict=True))
        and np.array_equal(held, whole[tuple(slice(size) for size in held.shape)])
        for held in data
    )


def _encoded_alike(tensors: Sequence[Tensor]) -> bool:
    return all(_same_encoding(tensors[0].encoding, tensor.encoding) for tensor in tensors)


def _same_encoding(first: Encoding | None, second: Encoding | None) -> bool:
    if first is None or second is None:
        return first is second
    same = first.dtype == second.dtype and first.axis == second.axis
    return same and np.array_equal(first.scale, second.scale) and np.array_equal(first.zero_point, second.zero_point)


def _said(sizes: Sizes) -> str:
    return ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
