"""LSTM, GRU and RNN as MIL's own operations: the layers that edgepack/backends/coreml/spellings.py leaves whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, operand_at, required
from edgepack.hub.passes.recurrent import INITIAL_C, INITIAL_H, PEEPHOLES, B, R, W, X
from edgepack.quantize.fold import Operation

_NAMES = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}


_HONOURED = ("activations", "activation_alpha", "activation_beta", "direction", "hidden_size", "linear_before_reset")


@lowers("LSTM", honours=(*_HONOURED, "input_forget"))
def lstm(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """ONNX LSTM-14 -> lstm."""
    count = required(operation, W).shape[0]
    weights: dict[str, Any] = {}
    for index, way in enumerate(("", "_back")[:count]):
        weights.update(_weights(operation, index, (0, 2, 1, 3), way, emit))
        peepholes = operand_at(operation, PEEPHOLES)
        if peepholes is not None:
            weights[f"peephole{way}"] = emit.reals(_reordered(peepholes.real()[index], (0, 2, 1)), peepholes.name)
    if count > 1:
        weights["direction"] = "bidirectional"
    states = {name: _state(operation, position, emit) for name, position in (("initial_h", INITIAL_H), ("initial_c", INITIAL_C))}
    outer = _functions(operation, ("sigmoid", "tanh", "tanh"))[2]
    return _written(operation, "lstm", {**weights, **states, "activation": outer}, emit)


@lowers("GRU", honours=_HONOURED)
def gru(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """ONNX GRU-14 with ``linear_before_reset`` 0 -> gru: update, reset, output become reset, output, update."""
    inner, outer = _functions(operation, ("sigmoid", "tanh"))
    weights = _weights(operation, 0, (1, 2, 0), "", emit)
    functions = {"recurrent_activation": inner, "activation": outer}
    return _written(operation, "gru", {**weights, **functions, "initial_h": _state(operation, INITIAL_H, emit)}, emit)


@lowers("RNN", honours=_HONOURED)
def rnn(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """ONNX RNN-14 -> rnn."""
    weights = _weights(operation, 0, (0,), "", emit)
    return _written(operation, "rnn", {**weights, "initial_h": _state(operation, INITIAL_H, emit)}, emit)


def _functions(operation: Operation, default: Sequence[str]) -> list[str]:
    given_names = [_NAMES[name.capitalize()] for name in operation.attributes.get("activations", ())]
    return (given_names or list(default))[: len(default)]


def _reordered(stacked: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    """Gates, stacked along the first axis, in another order."""
    count = len(order)
    gates = stacked.reshape(count, -1, *stacked.shape[1:])
    return np.ascontiguousarray(gates[list(order)].reshape(stacked.shape))


def _weights(operation: Operation, index: int, order: Sequence[int], way: str, emit: Emitter) -> dict[str, Any]:
    """Weights and the sum of both biases of one direction."""
    held = {}
    for name, position in (("weight_ih", W), ("weight_hh", R)):
        operand = required(operation, position)
        held[f"{name}{way}"] = emit.reals(_reordered(operand.real()[index], order), operand.name)
    bias = operand_at(operation, B)
    if bias is not None:
        both = bias.real()[index].astype(np.float64).reshape(2, -1).sum(axis=0)
        held[f"bias{way}"] = emit.reals(_reordered(both, order), bias.name)
    return held


def _state(operation: Operation, position: int, emit: Emitter) -> Any:
    """(directions, batch, hidden) as (batch, directions * hidden)."""
    _, batch, _ = required(operation, X).shape
    count, _, hidden = required(operation, R).shape
    operand = operand_at(operation, position)
    if operand is None:
        return np.zeros((batch, count * hidden), emit.dtype)
    if operand.constant is not None:
        return emit.reals(operand.real().transpose(1, 0, 2).reshape(batch, -1), operand.name)
    value = emit.value(operand)
    moved = value if count == 1 else emit("transpose", x=value, perm=[1, 0, 2])
    return emit("reshape", x=moved, shape=[batch, count * hidden])


def _written(operation: Operation, kind: str, parameters: dict[str, Any], emit: Emitter) -> list[Var]:
    """The operation, its input and results turned round for a layer that runs backwards, and its results as ONNX shapes them."""
    steps, batch, _ = required(operation, X).shape
    count, _, hidden = required(operation, R).shape
    is_backwards = operation.attributes.get("direction", "forward") == "reverse"
    x = emit.value(required(operation, X))
    x = emit("reverse", x=x, axes=[0]) if is_backwards else x
    sequence, *states = emit(kind, x=x, output_sequence=bool(operation.outputs[0].name), **parameters)
    results = []
    if operation.outputs[0].name:
        turned = emit("reverse", x=sequence, axes=[0]) if is_backwards else sequence
        spread = emit("reshape", x=turned, shape=[steps, batch, count, hidden])
        results.append(emit("transpose", x=spread, perm=[0, 2, 1, 3]))
    else:
        results.append(sequence)
    for state in states:
        results.append(emit("transpose", x=emit("reshape", x=state, shape=[batch, count, hidden]), perm=[1, 0, 2]))
    return results[: len(operation.outputs)]
