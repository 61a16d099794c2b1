"""A random graph as it grows: every node is run in onnxruntime when it is added, so that its shapes and values are known.

A node that onnxruntime refuses, or whose results are not finite or large, is left out and counted; what remains is a valid model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]

OPSET = 21
# Past this the interesting digits of a sum are gone, and an exponential is near.
LARGEST = 1e4
# Small graphs run fast; no kernel needs more to show an error.
MOST_ELEMENTS = 8192
SIZES = (1, 2, 3, 4, 5, 7, 8)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph and what it holds when the graph is fed ``Graph.feed``.

    Attributes:
        is_constant: an initializer.
        is_fed: whether any input leads to it; an output of which that is not true would be refused as a constant.
    """

    name: str
    array: Array = field(repr=False)
    is_constant: bool = False
    is_fed: bool = True

    @property
    def rank(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return self.array.shape


@dataclass(frozen=True)
class Graph:
    """A finished model, the arrays it is fed, and the nodes left out on the way (operator -> count)."""

    model: onnx.ModelProto = field(repr=False)
    feed: dict[str, Array] = field(repr=False)
    left_out: Counter[str] = field(default_factory=Counter, repr=False)

    @property
    def operators(self) -> list[str]:
        """The operator of each node."""
        return [node.op_type for node in self.model.graph.node]


class Builder:
    """Draws tensors and adds nodes; what operators need of it is below.

    Args:
        seed: numbers that say all there is to draw.
        quantizable: whether the only graph input is one float tensor, as a student to be calibrated has.
    """

    def __init__(self, seed: Sequence[int], quantizable: bool = False) -> None:
        self.random = np.random.default_rng(list(seed))
        self.quantizable = quantizable
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.constants: list[Value] = []
        self.left_out: Counter[str] = Counter()

    def chance(self, part: float) -> bool:
        """True in about ``part`` of the draws."""
        return bool(self.random.random() < part)

    def one_of(self, options: Sequence[Any]) -> Any:
        """One of some options."""
        return options[int(self.random.integers(len(options)))]

    def whole(self, low: int, high: int) -> int:
        """A whole number between two, ends included."""
        return int(self.random.integers(low, high + 1))

    def some_of(self, options: Sequence[Any], least: int, most: int) -> list[Any]:
        """Different options, in any order."""
        return [options[int(index)] for index in self.random.permutation(len(options))[: self.whole(least, most)]]

    def shape(self, rank: int) -> tuple[int, ...]:
        """Small sizes; batches of more than 1 are rarer."""
        sizes = [self.one_of(SIZES) for _ in range(rank)]
        if rank > 2 and not self.chance(0.3):
            sizes[0] = 1
        return tuple(sizes)

    def normal(self, shape: Sequence[int], scale: float = 1.0) -> Array:
        """Float32 noise."""
        return (scale * self.random.standard_normal(tuple(shape))).astype(np.float32)

    def constant(self, array: Any, dtype: Any = np.float32) -> Value:
        """An initializer."""
        value = Value(f"c{len(self.constants)}", np.asarray(array, dtype), True, False)
        self.constants.append(value)
        return value

    def input(self, array: Array) -> Value:
        """A new graph input."""
        value = Value(f"x{len(self.inputs)}", array)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def fresh(self, shape: Sequence[int], dtype: Any = np.float32) -> Value:
        """A new tensor: mostly an input while there are few, else a constant."""
        array = self._noise(shape, np.dtype(dtype))
        if not self.inputs or (tuple(shape) and len(self.inputs) < (1 if self.quantizable else 3) and self.chance(0.6)):
            return self.input(array)
        return self.constant(array, dtype)

    def _noise(self, shape: Sequence[int], kind: Any) -> Array:
        scale = self.one_of((1.0, 3.0, 0.1))
        array = {"f": lambda: self.normal(shape, scale), "b": lambda: self.random.random(tuple(shape)) < 0.5}.get(
            kind.kind, lambda: self.random.integers(-20, 21, tuple(shape))
        )()
        return np.asarray(array, kind)

    def tensor(self, ranks: Sequence[int] = (1, 2, 3, 4, 5), dtype: Any = np.float32) -> Value:
        """A tensor of one of these ranks: the latest that fits, another, one reshaped for the purpose, or a new one."""
        fed = [value for value in self.values if value.array.dtype == dtype and value.is_fed]
        fitting = [value for value in fed if value.rank in ranks]
        if fitting and self.chance(0.85):
            return fitting[-1] if self.chance(0.7) else self.one_of(fitting)
        others = [value for value in fed if value.rank not in ranks]
        if others and (self.quantizable or len(self.inputs) > 3 or self.chance(0.5)):
            reshaped = self.add("Reshape", [others[-1], self.constant(self._split(others[-1].array.size, self.one_of(ranks)), np.int64)])
            if reshaped:
                return reshaped[0]
        rank = self.one_of([rank for rank in (4, *ranks) if rank in ranks])
        if fitting and (self.quantizable or len(self.inputs) > 3):
            return fitting[-1]
        return self.input(self._noise(self.shape(rank), np.dtype(dtype)))

    def _split(self, size: int, rank: int) -> list[int]:
        """Sizes of ``rank`` axes whose product is ``size``."""
        sizes = []
        for _ in range(rank - 1):
            divisor = self.one_of([d for d in range(1, min(size, 9) + 1) if size % d == 0])
            sizes.append(divisor)
            size //= divisor
        return [*sizes, size]

    def axis(self, rank: int) -> int:
        """An axis, from either end."""
        return self.whole(-rank, rank - 1)

    def axes(self, rank: int, least: int = 1) -> list[int]:
        """Different axes, each from either end, in any order."""
        chosen = self.some_of(range(rank), least, rank)
        return [axis - rank if self.chance(0.3) else axis for axis in chosen]

    def positive(self, value: Value) -> Value | None:
        """The value, made positive by nodes where it is not."""
        if value.array.min() > 0.05:
            return value
        magnitude = self.add("Abs", [value])
        shifted = self.add("Add", [magnitude[0], self.constant(self.one_of((0.5, 1.0)))]) if magnitude else None
        return shifted[0] if shifted else None

    def add(self, operator: str, inputs: Sequence[Value | None], outputs: int = 1, **attributes: Any) -> list[Value]:
        """Add a node and run it; its outputs, none when it is left out."""
        names = [f"v{len(self.nodes)}" if outputs == 1 else f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        given = {name: value for name, value in attributes.items() if value is not None}
        node = helper.make_node(
            operator, [value.name if value else "" for value in inputs], names, f"{operator}_{len(self.nodes)}", **given
        )
        arrays = run_node(node, [value for value in inputs if value])
        if arrays is None or not all(_is_sound(array) for array in arrays):
            self.left_out[operator] += 1
            return []
        self.nodes.append(node)
        is_fed = any(value.is_fed for value in inputs if value)
        made = [Value(name, array, False, is_fed) for name, array in zip(names, arrays, strict=True)]
        self.values.extend(made)
        return made

    def finish(self) -> Graph | None:
        """The model: what nobody reads is an output, save a rare dead end; so is, at times, what somebody reads or an input."""
        self._give_axes()
        read = {name for node in self.nodes for name in node.input}
        computed = {name for node in self.nodes for name in node.output}
        # Codes of one byte are no student's outputs.
        fit = [value for value in self.values if value.name in computed and value.is_fed and value.array.dtype not in (np.uint8, np.int8)]
        ends = [value for value in fit if value.name not in read]
        kept = [value for value in ends if not self.chance(0.05)] or ends[:1]
        others = [value for value in fit if value.name in read]
        kept += [self.one_of(others)] if others and self.chance(0.2) else []
        used = [value for value in self.inputs if value.name in read]
        returned = [value for value in used if value.array.dtype != bool]
        kept += returned[:1] if not self.quantizable and self.chance(0.02) else []
        # An input nobody reads would only be carried along.
        if not kept or not used:
            return None
        graph = helper.make_graph(
            self.nodes,
            "fuzz",
            [described(value) for value in used],
            [described(value) for value in kept],
            [numpy_helper.from_array(value.array, value.name) for value in self.constants if value.name in read],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        return Graph(model, {value.name: value.array for value in used}, self.left_out)

    def _give_axes(self) -> None:
        """Most scalars that nobody reads get an axis: a student that returns scalars is rare, and Core ML has none."""
        read = {name for node in self.nodes for name in node.input}
        for value in list(self.values):
            if value.rank == 0 and value.name not in read and self.chance(0.85):
                self.add("Reshape", [value, self.constant([1], np.int64)])


def described(value: Value) -> onnx.ValueInfoProto:
    """Name, element type and shape of a value."""
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.array.dtype), value.shape)


def _is_sound(array: Array) -> bool:
    """Whether a result is fit to be computed with: finite, not large, not empty."""
    if array.size == 0 or array.size > MOST_ELEMENTS:
        return False
    return array.dtype == bool or bool(np.isfinite(array).all() and np.abs(array.astype(np.float64)).max() <= LARGEST)


def run_node(node: onnx.NodeProto, values: Sequence[Value]) -> list[Array] | None:
    """One node in onnxruntime; None when it refuses it."""
    known = {value.name: value for value in values}
    inputs = [described(value) for value in known.values() if not value.is_constant]
    constants = [numpy_helper.from_array(value.array, value.name) for value in known.values() if value.is_constant]
    graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in node.output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    try:
        return run_model(model, {value.name: value.array for value in known.values() if not value.is_constant})
    except Exception:
        return None


def run_model(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    """All outputs of a model in onnxruntime, no optimization, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, feed)
    return results
