"""Recurrent layers: LSTM, GRU and RNN with time first, and said step by step for a backend that has no operator for them.

The hub keeps the layer as one node, which onnxruntime runs fused; a backend asks for the steps (``UNROLLED``) when it reads the hub.
Source of all: ONNX LSTM-14, GRU-14, RNN-14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.hub.graph import HubError, attribute, constant, dtype_name, label
from edgepack.hub.passes.editing import Speller, Spellers, Spelling, is_read, known_shape, respelled, set_attributes

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

OPERATORS = ("LSTM", "GRU", "RNN")
# Positions of the inputs.
X, W, R, B, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES = range(8)
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# The activation of an LSTM's cell.
_CELL = 2
# A step of an LSTM that is written out is 12 operators and 1.8 KB of a .tflite file: this many are 7 MB, and load in a second or two.
MOST_STEPS = 4096


def plain_layers(model: ir.Model) -> bool:
    """Layout 0 (time before batch), which is the one onnxruntime runs, and the hidden size, without which no shape is known."""
    spellers: dict[str, Speller] = dict.fromkeys(OPERATORS, _time_first)
    changed = respelled(model, spellers)
    said = [_say_hidden_size(node) for node in model.graph if node.op_type in OPERATORS]
    return changed or any(said)


def are_plain(model: ir.Model) -> str | None:
    found = next((node for node in model.graph if node.op_type in OPERATORS and attribute(node, "layout", 0)), None)
    return None if found is None else f"{label(found)} has layout 1"


def _say_hidden_size(node: ir.Node) -> bool:
    shape = known_shape(node.inputs[R])
    if shape is None or "hidden_size" in node.attributes:
        return False
    set_attributes(node, {"hidden_size": shape[-1]})
    return True


def _time_first(node: ir.Node, spell: Spelling) -> Values | None:
    """Batchwise sequences and states (layout 1) as transposes around a layer of layout 0."""
    if not attribute(node, "layout", 0):
        return None
    inputs = list(node.inputs)
    for position in (X, INITIAL_H, INITIAL_C):
        if position < len(inputs) and inputs[position] is not None:
            inputs[position] = spell("Transpose", inputs[position], perm=[1, 0, 2])
    kept = {name: attribute(node, name) for name in node.attributes if name != "layout"}
    results = spell.many(node.op_type, inputs, len(node.outputs), **kept)
    perms = ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2])
    return [
        spell("Transpose", new, perm=perm) if is_read(old) else None for old, new, perm in zip(node.outputs, results, perms, strict=False)
    ]


@dataclass(frozen=True)
class Activation:
    """One activation of a recurrent layer.

    Attributes:
        alpha, beta: None where the function has none.
    """

    name: str
    alpha: float | None
    beta: float | None


# Activations with parameters: the defaults of alpha and beta, those of the ONNX operators of these names; None where there is none.
_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0, None),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, None),
    "ScaledTanh": (1.0, 1.0),
    "ThresholdedRelu": (1.0, None),
}
_PLAIN = ("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh")


def activations(node: ir.Node) -> list[Activation]:
    """The functions f, g, h of every direction, one direction after the other; alphas and betas go to those that have one, in order."""
    names = attribute(node, "activations") or list(_DEFAULT_ACTIVATIONS[node.op_type]) * _directions(node)
    known = {name.lower(): name for name in (*_PARAMETERS, *_PLAIN)}
    alphas, betas = (list(attribute(node, f"activation_{which}") or ()) for which in ("alpha", "beta"))
    found = []
    for name in names:
        if name.lower() not in known:
            raise HubError(f"{label(node)} has activation {name}", f"use one of {', '.join(sorted(known.values()))}")
        alpha, beta = _PARAMETERS.get(known[name.lower()], (None, None))
        alpha = alphas.pop(0) if alpha is not None and alphas else alpha
        beta = betas.pop(0) if beta is not None and betas else beta
        found.append(Activation(known[name.lower()], alpha, beta))
    return found


def _directions(node: ir.Node) -> int:
    return 2 if attribute(node, "direction", "forward") == "bidirectional" else 1


def all_steps(node: ir.Node) -> bool:
    """Whether every sequence of the batch has all steps."""
    lengths = node.inputs[LENGTHS] if len(node.inputs) > LENGTHS else None
    held, shape = constant(lengths), known_shape(node.inputs[X])
    return lengths is None or (held is not None and shape is not None and bool((held == shape[0]).all()))


def given(node: ir.Node, position: int) -> ir.Value | None:
    """An optional input, None for an absent one and for a state, bias or peephole of zeros."""
    value = node.inputs[position] if position < len(node.inputs) else None
    held = constant(value)
    return None if held is not None and not held.any() else value


class _Direction:
    """One direction of a layer while it is spelled."""

    def __init__(self, node: ir.Node, spell: Spelling, index: int) -> None:
        self.node, self.spell, self.index = node, spell, index
        source, recurrent = node.inputs[X], node.inputs[R]
        shape, hidden = known_shape(source), known_shape(recurrent)
        if source is None or shape is None or hidden is None:
            raise HubError(f"{label(node)}: how long its sequence is, is only known at run time", "declare fixed sizes in the student")
        (self.steps, self.batch, self.width), self.hidden = shape, hidden[-1]
        if self.steps > MOST_STEPS:
            cause = f"{label(node)} has {self.steps} steps, more than the {MOST_STEPS} that are written out"
            raise HubError(cause, "give the student a shorter sequence and let it carry its state (docs/state.md)")
        self.dtype = dtype_name(source)
        self.is_reverse = attribute(node, "direction", "forward") == "reverse" or index == 1
        functions = activations(node)
        count = len(functions) // _directions(node)
        self.functions = functions[index * count : (index + 1) * count]
        self._clip = attribute(node, "clip")
        self._held: dict[Any, ir.Value] = {}

    def part(self, position: int, begin: int, end: int) -> ir.Value:
        """Rows ``begin`` to ``end`` of this direction's weights, biases or states."""
        key = (position, begin, end)
        if key not in self._held:
            self._held[key] = self._part(position, begin, end)
        return self._held[key]

    def _part(self, position: int, begin: int, end: int) -> ir.Value:
        value = self.node.inputs[position]
        held, shape = constant(value), known_shape(value)
        if held is not None:
            return self.spell.constant(np.ascontiguousarray(held[self.index, begin:end]), held.dtype)
        assert shape is not None
        spell = self.spell
        row = value if shape[0] == 1 else spell("Gather", value, spell.integers(self.index), axis=0)
        cut = row if (begin, end) == (0, shape[1]) else spell("Slice", row, *(spell.integers(at) for at in (begin, end, 1)))
        return spell("Reshape", cut, spell.integers(end - begin, *shape[2:]))

    def biases(self, *parts: tuple[int, int]) -> ir.Value | None:
        """The sum of parts of the bias, None for zeros."""
        value = given(self.node, B)
        if value is None:
            return None
        held = constant(value)
        if held is not None:
            total = sum(held[self.index, begin:end].astype(np.float64) for begin, end in parts)
            return self.spell.constant(total, held.dtype)
        first, *others = [self.part(B, *part) for part in parts]
        for other in others:
            first = self.spell("Add", first, other)
        return first

    def projected(self, begin: int, end: int, bias: ir.Value | None) -> list[ir.Value]:
        """What rows ``begin`` to ``end`` of W make of every step's input, (batch, end - begin) each, by one product over all steps."""
        spell, source = self.spell, self.node.inputs[X]
        rows = spell("Reshape", source, spell.integers(self.steps * self.batch, self.width))
        product = spell("Gemm", rows, self.part(W, begin, end), *([] if bias is None else [bias]), transB=1)
        return [product] if self.steps == 1 else spell.many("Split", [product], self.steps, axis=0, num_outputs=self.steps)

    def recurrent(self, state: ir.Value | None, begin: int, end: int, addend: ir.Value | None) -> ir.Value | None:
        """addend + state @ R[begin:end]^T; a state that is None is zero."""
        if state is None:
            return addend
        return self.spell("Gemm", state, self.part(R, begin, end), *([] if addend is None else [addend]), transB=1)

    def initial(self, position: int) -> ir.Value | None:
        """The state before the first step, (batch, hidden), None for zeros."""
        return None if given(self.node, position) is None else self.part(position, 0, self.batch)

    def active(self, which: int, x: ir.Value) -> ir.Value:
        """Activation f, g or h (0, 1, 2). What f and g read is clipped; h reads an LSTM's cell as it is, as in onnxruntime and OpenVINO."""
        if self._clip and which < _CELL:
            limit = abs(float(self._clip))
            x = self.spell("Clip", x, self.number(-limit), self.number(limit))
        return _ACTIVE.get(self.functions[which].name, _plain)(self, self.functions[which], x)

    def number(self, value: float) -> ir.Value:
        """A scalar constant."""
        if value not in self._held:
            self._held[value] = self.spell.constant(value, self.dtype)
        return self._held[value]

    def plus(self, x: ir.Value, y: ir.Value | None) -> ir.Value:
        """A sum with what may be zero."""
        return x if y is None else self.spell("Add", x, y)

    def zeros(self) -> ir.Value:
        """A state of zeros."""
        if "zeros" not in self._held:
            self._held["zeros"] = self.spell.constant(np.zeros((self.batch, self.hidden)), self.dtype)
        return self._held["zeros"]

    def has_step(self, step: int) -> ir.Value | None:
        """(batch, 1) booleans: which sequences have this step; None when all have."""
        if all_steps(self.node):
            return None
        lengths = self.node.inputs[LENGTHS]
        held = constant(lengths)
        if held is not None:
            mask = held[:, None] > step
            return None if mask.all() else self.spell.constant(mask, np.bool_)
        if "lengths" not in self._held:
            self._held["lengths"] = self.spell("Reshape", lengths, self.spell.integers(self.batch, 1))
        return self.spell("Less", self.spell.constant(step, np.int32), self._held["lengths"])

    def chosen(self, mask: ir.Value | None, new: ir.Value, old: ir.Value | None) -> ir.Value:
        """``new`` where the mask holds, ``old`` (None: zeros) elsewhere."""
        return new if mask is None else self.spell("Where", mask, new, self.zeros() if old is None else old)

    def run(self, cell: Cell) -> tuple[list[ir.Value], list[ir.Value]]:
        """Every step's result in the order of time, and the states after the last step.

        A sequence that has ended keeps its state, and gives zeros. Going backwards it has not begun yet, and does the same.
        """
        positions = (INITIAL_H, INITIAL_C)[: 2 if self.node.op_type == "LSTM" else 1]
        states = [self.initial(position) for position in positions]
        step_of = cell(self)
        results: dict[int, ir.Value] = {}
        for step in range(self.steps)[:: -1 if self.is_reverse else 1]:
            mask, news = self.has_step(step), step_of(step, states)
            results[step] = self.chosen(mask, news[0], None)
            states = [self.chosen(mask, new, old) for new, old in zip(news, states, strict=True)]
        return [results[step] for step in range(self.steps)], [state for state in states if state is not None]


States = Sequence["ir.Value | None"]
Step = Callable[[int, States], "list[ir.Value]"]
# Prepares one direction; the answer computes the states after a step from those before it, the hidden one first.
Cell = Callable[[_Direction], Step]


def _plain(direction: _Direction, function: Activation, x: ir.Value) -> ir.Value:
    named = {name: held for name, held in (("alpha", function.alpha), ("beta", function.beta)) if held is not None}
    return direction.spell(function.name, x, **named)


def _affine(direction: _Direction, function: Activation, x: ir.Value) -> ir.Value:
    assert function.alpha is not None and function.beta is not None
    return direction.spell("Add", direction.spell("Mul", x, direction.number(function.alpha)), direction.number(function.beta))


def _scaled_tanh(direction: _Direction, function: Activation, x: ir.Value) -> ir.Value:
    assert function.alpha is not None and function.beta is not None
    inner = direction.spell("Tanh", direction.spell("Mul", x, direction.number(function.beta)))
    return direction.spell("Mul", inner, direction.number(function.alpha))


def _softsign(direction: _Direction, function: Activation, x: ir.Value) -> ir.Value:
    return direction.spell("Div", x, direction.spell("Add", direction.spell("Abs", x), direction.number(1.0)))


def _thresholded(direction: _Direction, function: Activation, x: ir.Value) -> ir.Value:
    assert function.alpha is not None
    return direction.spell("Where", direction.spell("Greater", x, direction.number(function.alpha)), x, direction.number(0.0))


_ACTIVE: dict[str, Callable[[_Direction, Activation, ir.Value], ir.Value]] = {
    "Affine": _affine,
    "ScaledTanh": _scaled_tanh,
    "Softsign": _softsign,
    "ThresholdedRelu": _thresholded,
}


def _rnn(held: _Direction) -> Step:
    """Ht = f(Xt W^T + Ht-1 R^T + Wb + Rb)."""
    size = held.hidden
    inputs = held.projected(0, size, held.biases((0, size), (size, 2 * size)))

    def step(index: int, states: States) -> list[ir.Value]:
        total = held.recurrent(states[0], 0, size, inputs[index])
        assert total is not None
        return [held.active(0, total)]

    return step


def _lstm(held: _Direction) -> Step:
    """Gates in the order i, o, f, c. The forget gate of a layer with ``input_forget`` is 1 - i."""
    size, spell = held.hidden, held.spell
    inputs = held.projected(0, 4 * size, held.biases((0, 4 * size), (4 * size, 8 * size)))
    has_peepholes, is_coupled = given(held.node, PEEPHOLES) is not None, bool(attribute(held.node, "input_forget", 0))

    def peeped(gate: ir.Value, cell: ir.Value | None, index: int) -> ir.Value:
        if not has_peepholes or cell is None:
            return gate
        return spell("Add", gate, spell("Mul", cell, held.part(PEEPHOLES, index * size, (index + 1) * size)))

    def step(index: int, states: States) -> list[ir.Value]:
        hidden, cell = states
        total = held.recurrent(hidden, 0, 4 * size, inputs[index])
        i, o, f, c = spell.many("Split", [total], 4, axis=1, num_outputs=4)
        i = held.active(0, peeped(i, cell, 0))
        fresh = spell("Mul", i, held.active(1, c))
        if cell is not None:
            kept = spell("Sub", held.number(1.0), i) if is_coupled else held.active(0, peeped(f, cell, 2))
            fresh = spell("Add", spell("Mul", kept, cell), fresh)
        o = held.active(0, peeped(o, fresh, 1))
        return [spell("Mul", o, held.active(2, fresh)), fresh]

    return step


def _rows_of(held: _Direction, bias: ir.Value | None) -> ir.Value:
    """A bias for every sequence of the batch, (batch, hidden)."""
    if bias is None:
        return held.zeros()
    known = constant(bias)
    shape = (held.batch, held.hidden)
    return (
        held.spell("Expand", bias, held.spell.integers(*shape))
        if known is None
        else held.spell.constant(np.broadcast_to(known, shape), known.dtype)
    )


def _gru(held: _Direction) -> Step:
    """Gates in the order z, r, h; Ht = (1 - z) h + z Ht-1, as h + z (Ht-1 - h)."""
    size, spell = held.hidden, held.spell
    is_linear = bool(attribute(held.node, "linear_before_reset", 0))
    gates = held.projected(0, 2 * size, held.biases((0, 2 * size), (3 * size, 5 * size)))
    own = [(2 * size, 3 * size)] if is_linear else [(2 * size, 3 * size), (5 * size, 6 * size)]
    inputs = held.projected(2 * size, 3 * size, held.biases(*own))
    after = _rows_of(held, held.biases((5 * size, 6 * size))) if is_linear else None

    def linear(hidden: ir.Value | None, index: int) -> tuple[ir.Value, ir.Value]:
        """The update gate and what the candidate reads, from one product of the state."""
        addend = spell("Concat", gates[index], after, axis=1)
        update, reset, past = spell.many("Split", [held.recurrent(hidden, 0, 3 * size, addend)], 3, axis=1, num_outputs=3)
        return held.active(0, update), spell("Add", inputs[index], spell("Mul", held.active(0, reset), past))

    def resetting(hidden: ir.Value | None, index: int) -> tuple[ir.Value, ir.Value]:
        update, reset = spell.many("Split", [held.recurrent(hidden, 0, 2 * size, gates[index])], 2, axis=1, num_outputs=2)
        kept = None if hidden is None else spell("Mul", held.active(0, reset), hidden)
        total = held.recurrent(kept, 2 * size, 3 * size, inputs[index])
        assert total is not None
        return held.active(0, update), total

    def step(index: int, states: States) -> list[ir.Value]:
        hidden = states[0]
        update, total = (linear if is_linear else resetting)(hidden, index)
        new = held.active(1, total)
        if hidden is None:
            return [spell("Sub", new, spell("Mul", update, new))]
        return [spell("Add", new, spell("Mul", update, spell("Sub", hidden, new)))]

    return step


def _unrolled(cell: Cell) -> Speller:
    """The layer with its steps one after the other."""

    def speller(node: ir.Node, spell: Spelling) -> Values:
        runs = [_Direction(node, spell, index) for index in range(_directions(node))]
        done = [run.run(cell) for run in runs]
        shape = (runs[0].steps, 1, runs[0].batch, runs[0].hidden)
        sequences = [_joined(results, shape, spell) for results, _ in done] if is_read(node.outputs[0]) else []
        values: Values = [_beside(sequences, 1, spell) if sequences else None]
        for position in range(1, len(node.outputs)):
            lasts = [spell("Reshape", states[position - 1], spell.integers(*shape[1:])) for _, states in done]
            values.append(_beside(lasts, 0, spell) if is_read(node.outputs[position]) else None)
        return values

    return speller


def _joined(results: list[ir.Value], shape: Sequence[int], spell: Spelling) -> ir.Value:
    whole = results[0] if len(results) == 1 else spell("Concat", *results, axis=0)
    return spell("Reshape", whole, spell.integers(*shape))


def _beside(values: list[ir.Value], axis: int, spell: Spelling) -> ir.Value:
    return values[0] if len(values) == 1 else spell("Concat", *values, axis=axis)


UNROLLED: Spellers = {"LSTM": _unrolled(_lstm), "GRU": _unrolled(_gru), "RNN": _unrolled(_rnn)}
