"""Attention as one operation, which MIL has from iOS 18 on: ``softmax(query @ key.T / sqrt(E) + mask) @ value``.

Source: coremltools iOS18/transformers.py. The operation's own scale is 1 / sqrt(E), E the last size of query and key; a mask is added,
and may have no more axes than the scores, whose last size it has; query, key and value are of one rank, 3 or more.

ONNX's Attention reaches a backend as its function body, torch's scaled_dot_product_attention and the models that spell attention out as
products: all are MatMul, Softmax and MatMul with scalars and masks between. What is found there becomes the operation where it says the
same number for number:

- Scalars that multiply scores, query or key become one factor; what is left of it after 1 / sqrt(E) multiplies the query.
- What is added to scores is the mask, and so is ``Where(condition, scores, -inf)``: with 0 in place of the scores it is what remains.
- A key that was transposed for the product is read before it was.
- Scores of which every one is hidden are equal in ONNX, where the smallest float32 swallows them. In float16 the operation does not round
  between sum and softmax, so that they would come through: the query of such a row is multiplied by 0.
- Rows whose weights are replaced by 0 where nothing is to be seen are 0 in the product.
- Scores that something else reads, and quantized ones, stay as they are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from edgepack.backends.coreml.operations import Hub
from edgepack.quantize.fold import Operand, Operation

# Query, key, value and, where there is one, the mask.
ATTENTION = "edgepack::Attention"
# The first release whose opset has the operation.
RELEASE = 18
# Leading axes, rows and columns: coremltools refuses less.
_LEAST_RANK = 3
# A factor of 1 / sqrt(E) is at most four scalars (of scores, query, key, and a root), each rounded to float32 once: 4 * 2^-24.
_ROUNDING = 2.0**-22
# What hides a score: minus infinity, or a number near the smallest (see Emitter's masks).
_HIDES = -float(np.finfo(np.float32).max) / 2
# In float16 the smallest number is what a mask's became when it was written.
_HIDES_IN_HALF = -float(np.finfo(np.float16).max) / 2
_ONNX_FLOAT = 1
# What leaves a scalar factor a factor.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze"})


def with_attention(hub: Hub, dtype: str) -> Hub:
    """The hub with every attention that can be as one operation; ``dtype`` is what it will be computed in."""
    graph = _Graph(hub, dtype)
    operations = [new for operation in hub.operations for new in graph.fused(operation)]
    return replace(hub, operations=tuple(_read(operations, {held.name for held in hub.outputs})))


def _read(operations: Sequence[Operation], results: set[str]) -> list[Operation]:
    """Without operations that nothing reads any more, in order."""
    wanted, kept = set(results), []
    for operation in reversed(operations):
        if any(held.name in wanted for held in operation.outputs):
            kept.append(operation)
            wanted.update(held.name for held in operation.inputs if held is not None)
    return kept[::-1]


@dataclass(frozen=True)
class _Scores:
    """``factor * product + mask``; ``shape`` is the scores' where the mask is added: of as many rows and columns as the product's."""

    product: Operation
    factor: float
    shape: tuple[int, ...]
    mask: Operand | None = None


@dataclass
class _Graph:
    """What makes and reads each value.

    Attributes:
        made: the operations that were added, by output name: what two attentions share is added once.
        pending: those of the attention at hand.
    """

    hub: Hub
    dtype: str
    made: dict[str, Operation] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        operations = self.hub.operations
        self._makers = {held.name: operation for operation in operations for held in operation.outputs if held.name}
        reads = [held.name for operation in operations for held in operation.inputs if held is not None]
        self._reads = Counter([*reads, *(held.name for held in self.hub.outputs)])

    def fused(self, operation: Operation) -> list[Operation]:
        """The operations in the place of one: itself, or an attention whose last product it is and what leads to it."""
        self.pending = []
        found = self._attention(operation)
        if found is None:
            return [operation]
        self.made |= {held.outputs[0].name: held for held in self.pending}
        return [*self.pending, *found]

    def _attention(self, operation: Operation) -> list[Operation] | None:
        if operation.op_type != "MatMul" or not all(operation.inputs):
            return None
        weights, value = operation.inputs
        assert weights is not None and value is not None
        softmax, blind = self._softmax(weights)
        scores = None if softmax is None or softmax.inputs[0] is None else self._scores(softmax.inputs[0])
        if scores is None:
            return None
        query, key = scores.product.inputs[:2]
        if query is None or key is None or not _fits(query, key, value, operation.outputs[0], scores.shape) or not self._can_hide(scores):
            return None
        return self._joined(operation, (query, key, value), scores, blind)

    def _joined(
        self, operation: Operation, read: tuple[Operand, Operand, Operand], scores: _Scores, blind: Operand | None
    ) -> list[Operation]:
        query, key, value = read
        asked, first = self._without_factor(query)
        matched, second = self._without_factor(key)
        left = scores.factor * first * second * math.sqrt(query.shape[-1])
        if abs(left - 1) > _ROUNDING:
            asked = self._add("Mul", f"{asked.name}*{left!r}", asked, _scalar(left))
        if scores.mask is not None and scores.mask.constant is None and self.dtype == "float16" and self._hides(scores.mask):
            asked = self._add("Mul", f"{asked.name}*{scores.mask.name}", asked, self._seeing(scores.mask))
        lead, result = scores.shape[:-2], operation.outputs[0]
        inputs = [self._led(held, lead) for held in (asked, self._untransposed(matched), value)]
        steps: list[tuple[str, Sequence[Operand], tuple[int, ...]]] = []
        if result.shape[:-2] != lead:
            steps.append(("Reshape", (_sizes(result.shape),), result.shape))
        if blind is not None:
            steps.append(("Where", (blind, _scalar(0.0)), result.shape))
        held = [*inputs, *([] if scores.mask is None else [scores.mask])]
        return _chained(operation, Operation(ATTENTION, operation.name, {}, tuple(held), ()), (*lead, *result.shape[-2:]), steps)

    def _led(self, value: Operand, lead: tuple[int, ...]) -> Operand:
        """A value with these leading axes, where it is of as many elements."""
        shape = (*lead, *value.shape[-2:])
        if value.shape == shape or prod(value.shape) != prod(shape):
            return value
        return self._put(Operation("Reshape", "", {}, (), ()), f"{value.name}/led", (value, _sizes(shape)), shape)

    def _softmax(self, weights: Operand) -> tuple[Operation | None, Operand | None]:
        """The softmax over the last axis that a product reads, and nothing else does.

        ONNX's Attention weights nothing in rows that see nothing: the second answer tells these rows, with 1 in place of the columns.
        """
        maker, blind = self._only_maker(weights), None
        if maker is not None and maker.op_type == "Where" and all(maker.inputs):
            blind, zero, inner = maker.inputs
            assert blind is not None and zero is not None and inner is not None
            is_of_rows = blind.shape[-1:] in ((), (1,))
            if zero.constant is None or zero.constant.any() or not is_of_rows or inner.shape != weights.shape:
                return None, None
            maker = self._only_maker(inner)
            blind = None if blind.constant is not None and not blind.constant.any() else blind
        is_softmax = maker is not None and maker.op_type == "Softmax" and maker.attributes.get("axis", -1) in (-1, weights.rank - 1)
        return (maker, blind) if is_softmax else (None, None)

    def _only_maker(self, value: Operand) -> Operation | None:
        """What makes a value of float32 that has one reader."""
        is_inner = self._reads[value.name] == 1 and value.dtype == "float32" and value.encoding is None
        return self._makers.get(value.name) if is_inner else None

    def _scores(self, value: Operand) -> _Scores | None:
        maker = self._only_maker(value)
        if maker is None or maker.op_type == "MatMul":
            return None if maker is None else _Scores(maker, 1.0, value.shape)
        for position, read in enumerate(maker.inputs):
            if read is not None and read.constant is None and maker.op_type in _STEPS:
                inner = self._scores(read)
                found = None if inner is None else _STEPS[maker.op_type](self, maker, position, inner)
                if found is not None:
                    return found
        return None

    def _multiplied(self, maker: Operation, position: int, inner: _Scores) -> _Scores | None:
        factor = _factor(maker, position)
        if factor is None or inner.mask is not None or inner.shape != maker.outputs[0].shape:
            return None
        return replace(inner, factor=inner.factor * factor)

    def _added(self, maker: Operation, position: int, inner: _Scores) -> _Scores | None:
        other = maker.inputs[1 - position]
        if other is None or other.encoding is not None or inner.shape != maker.outputs[0].shape:
            return None
        mask = other if inner.mask is None else self._add("Add", f"{inner.mask.name}+{other.name}", inner.mask, other)
        return replace(inner, mask=mask)

    def _chosen(self, maker: Operation, position: int, inner: _Scores) -> _Scores | None:
        """Where(condition, scores, smallest number), or the other way round, with 0 for the scores."""
        other = maker.inputs[3 - position] if position else None
        if other is None or other.constant is None or other.encoding is not None or not (other.constant <= _HIDES).all():
            return None
        if inner.shape != maker.outputs[0].shape:
            return None
        seen = _scalar(0.0) if inner.mask is None else inner.mask
        condition = maker.inputs[0]
        assert condition is not None
        choices = (seen, other) if position == 1 else (other, seen)
        name = "|".join(held.name for held in (condition, *choices))
        return replace(inner, mask=self._add("Where", name, condition, *choices))

    def _reshaped(self, maker: Operation, position: int, inner: _Scores) -> _Scores | None:
        """Heads and batch taken apart or together; once there is a mask, its axes remain the scores'."""
        shape = maker.outputs[0].shape
        if len(shape) < _LEAST_RANK or shape[-2:] != inner.shape[-2:]:
            return None
        return inner if inner.mask is not None else replace(inner, shape=shape)

    def _can_hide(self, scores: _Scores) -> bool:
        """Whether the mask is one that the operation takes; a constant one must leave something to see in every row."""
        mask, shape = scores.mask, scores.shape
        if mask is None:
            return True
        if not mask.shape or mask.shape[-1] != shape[-1] or len(mask.shape) > len(shape) or np.broadcast_shapes(mask.shape, shape) != shape:
            return False
        return mask.constant is None or bool((mask.constant.max(axis=-1) > _HIDES).all())

    def _hides(self, mask: Operand) -> bool:
        """Whether anything that leads to a mask is minus infinity or near it."""
        waiting, seen = [mask], set[str]()
        while waiting:
            held = waiting.pop()
            if held.constant is not None and held.constant.dtype.kind == "f" and (held.constant <= _HIDES).any():
                return True
            maker = self._maker(held.name)
            if maker is not None and held.name not in seen:
                waiting += [read for read in maker.inputs if read is not None]
            seen.add(held.name)
        return False

    def _seeing(self, mask: Operand) -> Operand:
        """1 for a row of scores of which not all are hidden, else 0."""
        axes = Operand(f"{mask.name}/axes", (1,), "int64", None, np.asarray([mask.rank - 1]))
        widest = self._add("ReduceMax", f"{mask.name}/widest", mask, axes, keepdims=1)
        sees = self._add("Greater", f"{mask.name}/sees", widest, _scalar(_HIDES_IN_HALF))
        return self._add("Cast", f"{mask.name}/seeing", sees, to=_ONNX_FLOAT)

    def _without_factor(self, value: Operand) -> tuple[Operand, float]:
        """A value as what it is a multiple of, and the factor."""
        maker = self._only_maker(value)
        if maker is None:
            return value, 1.0
        for position, read in enumerate(maker.inputs):
            factor = _factor(maker, position) if read is not None and read.shape == value.shape else None
            if read is not None and factor is not None:
                return read, factor
        source = maker.inputs[0] if maker.op_type in _MOVES else None
        inner, factor = (None, 1.0) if source is None else self._without_factor(source)
        if inner is None or factor == 1.0:
            return value, 1.0
        moved = self._put(maker, f"{value.name}/unscaled", (inner, *maker.inputs[1:]), value.shape)
        return moved, factor

    def _untransposed(self, key: Operand) -> Operand:
        """A matrix for the right of a product with its two last axes swapped."""
        order = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
        shape = tuple(key.shape[axis] for axis in order)
        maker = self._maker(key.name)
        source = None if maker is None else maker.inputs[0]
        if maker is not None and source is not None and source.constant is None and source.encoding is None:
            if maker.op_type == "Transpose":
                order = [maker.attributes.get("perm", range(key.rank)[::-1])[axis] for axis in order]
                return source if order == sorted(order) else self._add("Transpose", f"{key.name}/rows", source, perm=order)
            if maker.op_type == "Reshape" and source.rank >= 2 and source.shape[-2:] == key.shape[-2:]:
                return self._put(replace(maker, attributes={}), f"{key.name}/rows", (self._untransposed(source), _sizes(shape)), shape)
        return self._add("Transpose", f"{key.name}/rows", key, perm=order)

    def _maker(self, name: str) -> Operation | None:
        return self._makers.get(name) or self.made.get(name) or next((new for new in self.pending if new.outputs[0].name == name), None)

    def _add(self, op_type: str, name: str, *inputs: Operand, **attributes: Any) -> Operand:
        """An operation of ONNX's, or what it gives where that is known."""
        known = [held.constant for held in inputs if held.constant is not None]
        if op_type in _COMPUTED and len(known) == len(inputs):
            array = np.asarray(_COMPUTED[op_type](*known))
            return Operand(name, array.shape, inputs[-1].dtype, None, array)
        shape = _shape(op_type, inputs, attributes)
        return self._put(Operation(op_type, name, attributes, (), ()), name, inputs, shape, "bool" if op_type == "Greater" else "float32")

    def _put(self, like: Operation, name: str, inputs: Sequence[Operand | None], shape: tuple[int, ...], dtype: str = "float32") -> Operand:
        output = Operand(name, shape, dtype)
        if name not in self.made and all(held.outputs[0].name != name for held in self.pending):
            self.pending.append(Operation(like.op_type, name, like.attributes, tuple(inputs), (output,)))
        return output


_STEPS = {"Mul": _Graph._multiplied, "Div": _Graph._multiplied, "Add": _Graph._added, "Where": _Graph._chosen, "Reshape": _Graph._reshaped}
_COMPUTED: dict[str, Callable[..., Any]] = {"Add": np.add, "Where": np.where}


def _shape(op_type: str, inputs: Sequence[Operand], attributes: dict[str, Any]) -> tuple[int, ...]:
    if op_type == "Transpose":
        return tuple(inputs[0].shape[axis] for axis in attributes["perm"])
    if op_type == "ReduceMax":
        return (*inputs[0].shape[:-1], 1)
    return np.broadcast_shapes(*(held.shape for held in inputs))


def _scalar(value: float) -> Operand:
    return Operand(f"number {value!r}", (), "float32", None, np.asarray(value, np.float32))


def _factor(maker: Operation, position: int) -> float | None:
    """What an operation multiplies its input at ``position`` by, None when it does something else."""
    other = maker.inputs[1 - position] if maker.op_type == "Mul" or (maker.op_type == "Div" and position == 0) else None
    if other is None or other.constant is None or other.encoding is not None or other.constant.size != 1:
        return None
    value = float(other.constant.reshape(()))
    if not math.isfinite(value) or value == 0:
        return None
    return value if maker.op_type == "Mul" else 1 / value


def _chained(
    last: Operation, first: Operation, shape: tuple[int, ...], steps: Sequence[tuple[str, Sequence[Operand], tuple[int, ...]]]
) -> list[Operation]:
    """``first`` and the steps after it in the place of ``last``; a step reads what was before it, Reshape first and Where last."""
    chain, outputs = [first], [shape, *(step[2] for step in steps)]
    names = [*(f"{last.outputs[0].name}/{index}" for index in range(len(steps))), last.outputs[0].name]
    held = [Operand(name, size, "float32") for name, size in zip(names, outputs, strict=True)]
    chain[0] = replace(first, outputs=(held[0],))
    for (kind, others, _), before, after in zip(steps, held, held[1:], strict=False):
        inputs = (before, *others) if kind == "Reshape" else (*others, before)
        chain.append(Operation(kind, last.name, {}, inputs, (after,)))
    return chain


def _sizes(shape: tuple[int, ...]) -> Operand:
    return Operand(f"sizes {shape}", (len(shape),), "int64", None, np.asarray(shape))


def _fits(query: Operand, key: Operand, value: Operand, result: Operand, scores: tuple[int, ...]) -> bool:
    """Whether the products are those of the operation: of three axes or more, and no axis that only their result has."""
    if any(held.encoding is not None or held.dtype != "float32" or held.rank < _LEAST_RANK for held in (query, key, value)):
        return False
    leads = [held.shape[:-2] for held in (query, key, value, result)]
    if len({prod(lead) for lead in (*leads, scores[:-2])}) == 1:
        return True
    return leads[0] == leads[3] == scores[:-2] and len({len(lead) for lead in leads}) == 1
