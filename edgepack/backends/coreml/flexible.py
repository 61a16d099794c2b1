"""One program for a range of sizes, from programs that were lowered at single sizes.

Every lowering of this backend writes for sizes it knows. A program for open sizes is therefore found, not written: the hub is lowered at
several sizes, the programs are compared operation by operation, and whatever is not the same in all of them must follow from the open
sizes by one of these rules:

- the shape that a ``reshape`` asks for, where one entry differs: that entry is what is left (-1);
- the bounds of a ``slice_by_index`` that at every size take all that is left, or lie at one distance from the end: counted from the end;
- the sizes that a ``resize_bilinear`` gives, which are constants: iOS 17's ``resize`` takes computed ones;
- other integers, each of them ``factor * measure + offset``, where a measure is a product of open sizes, or the size of an operand along
  an axis, or exactly the size of some earlier value: computed when the model runs, from the ``shape`` of an input or of that value;
- a constant that at every size is the leading part of the one at the largest (position tables, masks): a slice of that one.

Anything else is refused, with the operation's name. The program is then emitted once more through coremltools' Builder with symbolic input
sizes, so that every shape in it is what coremltools infers, and that must be what each of the compared programs has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.artifact import Binding
from edgepack.backends.coreml.emitter import Var
from edgepack.backends.coreml.frontend import Built
from edgepack.backends.coreml.probes import (
    Measure,
    Node,
    Nodes,
    Observation,
    Place,
    Probe,
    axis_measures,
    line_through,
    nodes_of,
    observe,
    symbol_measures,
    told,
)
from edgepack.backends.coreml.run_time_sizes import RunTimeSizes
from edgepack.mil.environment import coremltools

# Shapes have at most 5 entries, and what stands around them twice that.
_MOST_ENTRIES = 10
# resize came with iOS 17.
_RESIZE_RELEASE = 17
_Integers = NDArray[np.integer[Any]]


def unify(probes: Iterable[Probe], ranges: Mapping[str, tuple[int, int]], ios: int) -> Built:
    """The program that each of ``probes`` is at its sizes, with the inputs' open dimensions named.

    Args:
        probes: the first is the widest: no other has a larger size. Every open size has at least three values among them. One at a time
            is held beside the widest.
        ranges: what the open sizes may be, smallest and largest.
        ios: the release the package is for (17).

    Raises:
        BackendError: the programs differ in something that no rule explains; the message names the operation.
    """
    given = iter(probes)
    widest = next(given)
    nodes = nodes_of(widest.built)
    observations = [observe(widest, nodes), *(observe(probe, nodes) for probe in given)]
    return _Unified(widest.built, nodes, observations, ranges, ios).build()


@dataclass
class _Unified:
    """The widest program, emitted once more with symbolic sizes. The first observation is of the widest program itself."""

    widest: Built
    nodes: Nodes
    observations: Sequence[Observation]
    ranges: Mapping[str, tuple[int, int]]
    ios: int
    # What was emitted for each place of the widest program.
    values: dict[Place, Var] = field(default_factory=dict)
    symbols: dict[str, Any] = field(default_factory=dict)
    # Parts of constants, by the place of the constant.
    parts: dict[Place, Var] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> RunTimeSizes:
        """Sizes of what was emitted, computed when the model runs."""
        places = {(-1, at): self._told((-1, at)) for at in range(len(self.widest.inputs))}
        return RunTimeSizes(self.values, {name: _where(name, places) for name in self.ranges})

    def build(self) -> Built:
        """The program, its inputs and its outputs with their open dimensions."""
        ct = coremltools()
        from coremltools.converters.mil.mil import Builder, Function, Program, get_new_symbol

        self.symbols = {name: get_new_symbol() for name in self.observations[0].sizes}
        inputs = self._opened(self.widest.inputs, [(-1, at) for at in range(len(self.widest.inputs))])
        given = self.widest.program.functions["main"].inputs
        shapes = [[self.symbols.get(str(size), size) for size in held.shape] for held in inputs]
        placeholders = {name: Builder.placeholder(shape, held.dtype) for (name, held), shape in zip(given.items(), shapes, strict=True)}
        program = Program()
        with Function(placeholders, opset_version=getattr(ct.target, f"iOS{self.ios}")) as function:
            self.values.update({(-1, at): value for at, value in enumerate(function.inputs.values())})
            for index, node in enumerate(self.nodes.operations):
                self._emit(index, node)
            function.set_outputs([self.values[place] for place in self.nodes.outputs])
        program.add_function("main", function)
        outputs = self._opened(self.widest.outputs, self.nodes.outputs)
        return replace(self.widest, program=program, inputs=inputs, outputs=outputs)

    def _opened(self, features: Sequence[Binding], places: Sequence[Place]) -> tuple[Binding, ...]:
        return tuple(
            Binding(held.name, held.hub_name, held.dtype, self._told(place), held.permutation)
            for held, place in zip(features, places, strict=True)
        )

    def _told(self, place: Place) -> tuple[int | str, ...]:
        """The shape of a value: an open size as an expression ("2*sequence+1"), "?" where there is no line through it."""
        columns = zip(*(seen.shapes[place] for seen in self.observations), strict=True)
        return tuple(_expression(column, symbol_measures(self.observations)) for column in columns)

    def _emit(self, index: int, node: Node) -> None:
        """Emit one operation. A constant that differs is made where it is read."""
        if node.type == "const":
            if not self._differs((index, 0)):
                self._settle(index, node, self._called(node, {"val": node.held.outputs[0].val}))
        elif node.type.startswith("constexpr_"):
            self._settle(index, node, self._called(node, self._codes(node)))
        else:
            self._settle(index, node, self._called(node, *self._spelled(node)))

    def _spelled(self, node: Node) -> tuple[dict[str, Any], str]:
        """The parameters of an operation for open sizes, and what it is called then."""
        ruled = _RULES[node.type](self, node) if node.type in _RULES else {}
        if "resized_dims" in ruled:
            return ruled, "resize"
        return {**{name: self._read(node, name) for name in node.reads if name not in ruled}, **ruled}, node.type

    def _called(self, node: Node, parameters: Mapping[str, Any], operation: str = "") -> Sequence[Var]:
        from coremltools.converters.mil.mil import Builder

        try:
            found = getattr(Builder, operation or node.type)(**parameters, name=node.held.name)
        except Exception as error:
            raise node.refusal(f"does not take an open size ({' '.join(str(error).split())[:120]})") from error
        return found if isinstance(found, list | tuple) else (found,)

    def _settle(self, index: int, node: Node, found: Sequence[Var]) -> None:
        """Name what was emitted as the widest program does."""
        for at, (before, after) in enumerate(zip(node.held.outputs, found, strict=True)):
            after.name = before.name
            self._check(node, (index, at), after)
            self._check_ends(node, (index, at))
            self.values[index, at] = after

    def _check(self, node: Node, place: Place, value: Var) -> None:
        """BackendError when the shape that coremltools infers is not what a probe has there."""
        for seen in self.observations:
            sizes = {self.symbols[name]: size for name, size in seen.sizes.items()}
            have, want = [_at(size, sizes) for size in value.shape], seen.shapes[place]
            if len(have) != len(want) or any(ours not in (None, theirs) for ours, theirs in zip(have, want, strict=True)):
                raise node.refusal(f"is of shape {want} at {told(seen.sizes)}, where coremltools infers {tuple(value.shape)}")

    def _check_ends(self, node: Node, place: Place) -> None:
        """BackendError when nothing is left at an end of the ranges: Core ML has no empty tensors."""
        for axis, column in enumerate(zip(*(seen.shapes[place] for seen in self.observations), strict=True)):
            line = line_through(column, symbol_measures(self.observations))
            for sizes in ({name: ends[at] for name, ends in self.ranges.items()} for at in (0, 1)):
                if line is not None and line.at(sizes) < 1:
                    raise node.refusal(f"gives nothing along axis {axis} at {told(sizes)}")

    def _codes(self, node: Node) -> dict[str, Any]:
        """The parameters of a weight kept as codes, all constant."""
        for name, places in node.reads.items():
            if any(map(self._differs, places)):
                raise node.refusal(f"has other {name} at another size")
        return {name: self._widest(place) for name, (place,) in node.reads.items()}

    def _differs(self, place: Place) -> bool:
        return any(place in seen.constants for seen in self.observations)

    def _is_constant(self, place: Place) -> bool:
        return place[0] >= 0 and self.nodes.operations[place[0]].type == "const"

    def _widest(self, place: Place) -> Any:
        """A constant in the widest program."""
        return self.nodes.operations[place[0]].held.outputs[0].val

    def _everywhere(self, place: Place) -> list[Any]:
        """A constant in every probe."""
        return [seen.constants.get(place, self._widest(place)) for seen in self.observations]

    def _read(self, node: Node, name: str) -> Any:
        """What a parameter reads: emitted values, or constants that depend on the sizes."""
        values = [self.values[place] if place in self.values else self._made(node, name, place) for place in node.reads[name]]
        return values if name in node.variadic else values[0]

    def _made(self, node: Node, name: str, place: Place) -> Var:
        """A constant that is not the same at every size."""
        arrays = [np.asarray(value) for value in self._everywhere(place)]
        if len({array.shape for array in arrays}) > 1:
            return self._part(node, name, place, arrays)
        if arrays[0].dtype.kind != "i" or arrays[0].ndim > 1 or arrays[0].size > _MOST_ENTRIES:
            raise node.refusal(f"has a constant {name} whose numbers differ between sizes")
        return self._integers(node, name, np.stack(arrays))

    def _part(self, node: Node, name: str, place: Place, arrays: Sequence[NDArray[Any]]) -> Var:
        """The leading part of a constant, sliced once for all that read it."""
        from coremltools.converters.mil.mil import Builder

        if place not in self.parts:
            constant = self.nodes.operations[place[0]].held.outputs[0]
            whole = Builder.const(val=constant.val, name=constant.name)
            self.parts[place] = self._leading(node, name, arrays, whole)
        return self.parts[place]

    def _leading(self, node: Node, name: str, arrays: Sequence[NDArray[Any]], whole: Var) -> Var:
        """``whole``, which is the first of ``arrays``, up to the open sizes.

        Raises:
            BackendError: one of the others is no leading part of it.
        """
        from coremltools.converters.mil.mil import Builder

        if not all(_leads(array, arrays[0]) for array in arrays):
            raise node.refusal(f"has a constant {name} that is no leading part of the one at the largest size")
        shapes = np.array([array.shape for array in arrays])
        fixed = (shapes == shapes[0]).all(axis=0).tolist()
        end = self._integers(node, name, shapes)
        return Builder.slice_by_index(x=whole, begin=[0] * len(fixed), end=end, end_mask=fixed, name=f"{whole.name}_part")

    def _integers(self, node: Node, name: str, rows: _Integers) -> Any:
        """Integers of shape (probes,) or (probes, entries): a constant where they do not differ, else computed when the model runs.

        Raises:
            BackendError: an entry does not follow from the sizes.
        """
        from coremltools.converters.mil.mil import Builder

        if (rows == rows[0]).all():
            return rows[0].astype(np.int32)
        if rows.ndim == 1:
            return Builder.squeeze(x=self._entry(node, name, rows.tolist()), axes=[0])
        entries = [self._entry(node, name, column.tolist()) for column in rows.T]
        return entries[0] if len(entries) == 1 else Builder.concat(values=entries, axis=0)

    def _entry(self, node: Node, name: str, values: Sequence[int]) -> Any:
        """One integer as a vector of one entry."""
        if len(set(values)) == 1:
            return np.array(values[:1], np.int32)
        line = line_through(values, self._measures(node, values))
        if line is None:
            sizes = "; ".join(f"{value} at {told(seen.sizes)}" for value, seen in zip(values[:3], self.observations, strict=False))
            raise node.refusal(f"has a {name} that does not follow from the sizes ({sizes})")
        return self.sizes.on(line)

    def _measures(self, node: Node, values: Sequence[int]) -> Iterator[Measure]:
        """What integers of an operation may follow from, the likeliest first."""
        yield from symbol_measures(self.observations)
        yield from axis_measures(
            [place for places in node.reads.values() for place in places if self._is_computed(place)], self.observations
        )
        earlier = axis_measures(filter(self._is_computed, list(self.values)), self.observations)
        yield from (measure for measure in earlier if measure.values == tuple(values))

    def _is_computed(self, place: Place) -> bool:
        """Whether a value is there when the model runs, and has the shape that the probes have."""
        return place in self.values and (place[0] < 0 or not self.nodes.operations[place[0]].type.startswith("const"))

    def reshape(self, node: Node) -> dict[str, Any]:
        """One entry of the shape that differs is what is left."""
        (place,) = node.reads["shape"]
        if not self._differs(place):
            return {}
        rows = np.array(self._everywhere(place))
        differs = (rows != rows[0]).any(axis=0)
        has_one = differs.sum() == 1 and -1 not in rows
        return {"shape": np.where(differs, -1, rows[0]).astype(np.int32)} if has_one else {}

    def resize(self, node: Node) -> dict[str, Any]:
        """``resize`` of the last two dimensions samples as ``resize_bilinear`` (iOS17/image_resizing.py)."""
        targets = [node.reads[name][0] for name in ("target_size_height", "target_size_width")]
        if self.ios < _RESIZE_RELEASE or not any(map(self._differs, targets)):
            return {}
        rows = np.array([self._everywhere(place) for place in targets]).T
        mode = self._read(node, "sampling_mode")
        sizes = self._integers(node, "target size", rows)
        return {"x": self._read(node, "x"), "shape": sizes, "resized_dims": np.uint32(2), "sampling_mode": mode}

    def slice(self, node: Node) -> dict[str, Any]:
        """Bounds counted from the end of an axis, where they are the same at every size."""
        (x,), (begin,), (end,) = (node.reads[name] for name in ("x", "begin", "end"))
        steps = [node.reads[name][0] for name in ("stride", "end_mask") if name in node.reads]
        known = all(self._is_constant(place) for place in (begin, end, *steps)) and not any(map(self._differs, steps))
        if not known or not (self._differs(begin) or self._differs(end)):
            return {}
        begins, ends = (np.array(self._everywhere(place)) for place in (begin, end))
        sizes = np.array([seen.shapes[x] for seen in self.observations])
        strides, masks = (self._widest(node.reads[name][0]) if name in node.reads else None for name in ("stride", "end_mask"))
        mask = [False] * sizes.shape[1] if masks is None else [bool(held) for held in masks]
        for axis in range(sizes.shape[1]):
            stride = 1 if strides is None else int(strides[axis])
            mask[axis] = mask[axis] or _takes_the_rest(begins[:, axis], ends[:, axis], sizes[:, axis], stride)
            ends[:, axis] = 0 if mask[axis] else _from_end(ends[:, axis], sizes[:, axis])
            begins[:, axis] = _from_end(begins[:, axis], sizes[:, axis])
        return {"begin": self._integers(node, "begin", begins), "end": self._integers(node, "end", ends), "end_mask": mask}


# What an operation does about parameters that differ, before they are computed: parameter -> what is given for it.
_RULES: dict[str, Callable[[_Unified, Node], dict[str, Any]]] = {
    "reshape": _Unified.reshape,
    "slice_by_index": _Unified.slice,
    "resize_bilinear": _Unified.resize,
}


def _where(symbol: str, shapes: Mapping[Place, tuple[int | str, ...]]) -> tuple[Place, int]:
    """The first input that has an open dimension, and its axis there."""
    return next((place, shape.index(symbol)) for place, shape in shapes.items() if symbol in shape)


def _at(size: Any, sizes: Mapping[Any, int]) -> int | None:
    """An inferred size where the symbols have these sizes; None where it has symbols of its own."""
    if isinstance(size, int | np.integer):
        return int(size)
    found = size.subs(sizes)
    return None if found.free_symbols else int(found)


def _expression(values: Sequence[int], measures: Sequence[Measure]) -> int | str:
    if len(set(values)) == 1:
        return int(values[0])
    line = line_through(values, measures)
    if line is None:
        return "?"
    product = "*".join([*([str(line.factor)] if line.factor != 1 else []), *line.measure.symbols])
    return f"{product}{line.offset:+d}" if line.offset else product


def _leads(array: NDArray[Any], whole: NDArray[Any]) -> bool:
    """Whether an array is the leading part of another, bit for bit."""
    fits = array.ndim == whole.ndim and all(ours <= theirs for ours, theirs in zip(array.shape, whole.shape, strict=True))
    return fits and array.tobytes() == whole[tuple(map(slice, array.shape))].tobytes()


def _takes_the_rest(begins: _Integers, ends: _Integers, sizes: _Integers, stride: int) -> bool:
    """Whether a slice whose end differs takes, in every probe, all elements from its beginning on."""
    spans = zip(begins.tolist(), ends.tolist(), sizes.tolist(), strict=True)
    is_rest = all(len(range(begin, end, stride)) == len(range(begin, size, stride)) for begin, end, size in spans)
    return is_rest and bool((ends != ends[0]).any())


def _from_end(bounds: _Integers, sizes: _Integers) -> _Integers:
    """Bounds that differ, as their distance from the end where that is one and not 0; else as they are."""
    distances = bounds - sizes
    return distances if (bounds != bounds[0]).any() and (distances == distances[0]).all() and distances[0] < 0 else bounds
