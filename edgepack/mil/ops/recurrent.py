"""lstm, gru and rnn (coremltools iOS15/recurrent.py; what its text leaves open is as Apple's tests of these operations have it).

In float16 the states are rounded after every step, as they are when one operation a step is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.rounding import to_half

# Computes the states after a step from its input (b, I) and the states before, (b, H) each, the hidden one first.
Step = Callable[[Array, Sequence[Array]], list[Array]]
Function = Callable[[Array], Array]

# With the usual parameters of each: scaled_tanh has 1 and 1, hard_sigmoid 0.2 and 0.5.
_FUNCTIONS: dict[str, Function] = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(np.float32(0.2) * x + np.float32(0.5), 0, 1),
    "sigmoid_hard": lambda x: np.clip(np.float32(0.2) * x + np.float32(0.5), 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}
_COMMON = ("x", "initial_h", "weight_ih", "weight_hh", "bias", "direction", "output_sequence", "activation")
_BACK = ("weight_ih_back", "weight_hh_back", "bias_back", "peephole_back")


@implements("rnn", accepts=_COMMON)
def rnn(operation: MilOperation) -> Kernel:
    """``h = activation(x W^T + h R^T + b)``."""
    weight, recurrent, bias = _weights(operation, "")
    function = _function(operation, "activation", "tanh")
    return _run(operation, ("initial_h",), [lambda x, states: [function(x @ weight + states[0] @ recurrent + bias)]])


@implements("gru", accepts=(*_COMMON, "recurrent_activation"))
def gru(operation: MilOperation) -> Kernel:
    """Gates in the order reset, output, update; the reset gate is applied to the state before its product.

    Core ML gives zeros for every sequence of a batch but the first (rdar://59644603, in coremltools' test of this operation).
    """
    weight, recurrent, bias = _weights(operation, "")
    inner, outer = _function(operation, "recurrent_activation", "sigmoid"), _function(operation, "activation", "tanh")
    hidden = len(recurrent)
    reset_part, output_part, update_part = (slice(index * hidden, (index + 1) * hidden) for index in range(3))
    if operation.outputs[1].shape[0] not in (1, None):
        raise operation.refusal("has a batch of several sequences, which Core ML computes wrongly")

    def step(x: Array, states: Sequence[Array]) -> list[Array]:
        (state,) = states
        gates = x @ weight + bias
        reset = inner(gates[:, reset_part] + state @ recurrent[:, reset_part])
        update = inner(gates[:, update_part] + state @ recurrent[:, update_part])
        output = outer(gates[:, output_part] + (reset * state) @ recurrent[:, output_part])
        return [(1 - update) * output + update * state]

    return _run(operation, ("initial_h",), [step])


@implements("lstm", accepts=(*_COMMON, "initial_c", "recurrent_activation", "cell_activation", "clip", "peephole", *_BACK))
def lstm(operation: MilOperation) -> Kernel:
    """Gates in the order input, forget, output, cell; ``clip`` bounds the cell; the output gate's peephole sees the new cell."""
    ways = ("", "_back") if operation.text("direction", "forward") == "bidirectional" else ("",)
    return _run(operation, ("initial_h", "initial_c"), [_lstm_step(operation, way) for way in ways])


def _lstm_step(operation: MilOperation, way: str) -> Step:
    weight, recurrent, bias = _weights(operation, way)
    hidden = len(recurrent)
    given = operation.array(f"peephole{way}") if operation.has(f"peephole{way}") else np.zeros(3 * hidden, np.float32)
    to_input, to_forget, to_output = np.split(given, 3)
    limit = operation.number("clip", np.inf)
    gate = _function(operation, "recurrent_activation", "sigmoid")
    inner, outer = _function(operation, "cell_activation", "tanh"), _function(operation, "activation", "tanh")

    def step(x: Array, states: Sequence[Array]) -> list[Array]:
        state, cell = states
        i, f, o, z = np.split(x @ weight + state @ recurrent + bias, 4, axis=1)
        cell = gate(f + to_forget * cell) * cell + gate(i + to_input * cell) * inner(z)
        cell = np.clip(cell, -limit, limit)
        return [gate(o + to_output * cell) * outer(cell), cell]

    return step


def _weights(operation: MilOperation, way: str) -> tuple[Array, Array, Array]:
    """Input weights (I, gates * H), recurrent weights (H, gates * H) and bias of one direction."""
    weight, recurrent = (operation.array(f"{name}{way}") for name in ("weight_ih", "weight_hh"))
    bias = operation.array(f"bias{way}") if operation.has(f"bias{way}") else np.zeros(len(weight), np.float32)
    return np.ascontiguousarray(weight.T), np.ascontiguousarray(recurrent.T), bias


def _function(operation: MilOperation, parameter: str, default: str) -> Function:
    name = operation.text(parameter, default)
    if name not in _FUNCTIONS:
        raise operation.refusal(f"has {parameter} {name}")
    return _FUNCTIONS[name]


def _run(operation: MilOperation, initial: tuple[str, ...], steps: Sequence[Step]) -> Kernel:
    """All steps in every direction. A layer of direction "reverse" gives its results in the order it computes them."""
    direction, whole = operation.text("direction", "forward"), operation.flag("output_sequence")
    is_half = operation.outputs[0].dtype == "float16"
    backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]

    def kernel(x: Array, *initials: Array) -> list[Array]:
        sequences, lasts = [], []
        starts = zip(*(np.split(state, len(steps), axis=1) for state in initials), strict=True)
        for step, is_backwards, start in zip(steps, backwards, starts, strict=True):
            results, states = _stepped(x[::-1] if is_backwards else x, list(start), step, is_half)
            keeps_time = is_backwards and direction == "bidirectional" and whole
            sequences.append(results[::-1] if keeps_time else results)
            lasts.append(states)
        sequence = np.concatenate([held if whole else held[-1:] for held in sequences], axis=2)
        return [sequence, *(np.concatenate(states, axis=1) for states in zip(*lasts, strict=True))]

    return operation.bind(("x", *initial), kernel)


def _stepped(x: Array, states: list[Array], step: Step, is_half: bool) -> tuple[Array, list[Array]]:
    """Every step's hidden state (s, b, H), and the states after the last."""
    results = []
    for part in x:
        states = [np.asarray(state, np.float32) for state in step(part, states)]
        states = [to_half(state) for state in states] if is_half else states
        results.append(states[0])
    return np.stack(results), states
