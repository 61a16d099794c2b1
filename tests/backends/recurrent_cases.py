"""Recurrent layers in the forms ONNX has, as hubs of one node with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Arrays = dict[str, NDArray[Any]]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, WIDTH, HIDDEN = 4, 2, 3, 5


def layer(
    kind: str, *given: str, batch: int = BATCH, steps: int = STEPS, lengths: tuple[int, ...] = (), run_time: bool = False, **attributes: Any
) -> tuple[onnx.ModelProto, Arrays]:
    """A model of one layer and what it is fed.

    Args:
        given: optional inputs that are there, of "B", "initial_h", "initial_c" and "P".
        lengths: of the sequences, a constant unless ``run_time``.
        run_time: whether all inputs are fed, weights included.
    """
    random = np.random.default_rng(len(given) + steps)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    state = (batch, directions, HIDDEN) if attributes.get("layout") else (directions, batch, HIDDEN)
    rows = _GATES[kind] * HIDDEN
    shapes = {
        "X": (batch, steps, WIDTH) if attributes.get("layout") else (steps, batch, WIDTH),
        "W": (directions, rows, WIDTH),
        "R": (directions, rows, HIDDEN),
        "B": (directions, 2 * rows),
        "lengths": (batch,),
        "initial_h": state,
        "initial_c": state,
        "P": (directions, 3 * HIDDEN),
    }
    held = {"X", "W", "R", *given, *(["lengths"] if lengths else [])}
    arrays = {name: random.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items() if name in held}
    if lengths:
        arrays["lengths"] = np.asarray(lengths, np.int32)
    fed = arrays if run_time else {"X": arrays["X"]}
    reads = [name if name in arrays else "" for name in shapes]
    while not reads[-1]:
        reads.pop()
    outputs = {"Y": (batch, steps, directions, HIDDEN) if attributes.get("layout") else (steps, directions, batch, HIDDEN), "Y_h": state}
    outputs.update({"Y_c": state} if kind == "LSTM" else {})
    node = helper.make_node(kind, reads, list(outputs), "layer", hidden_size=HIDDEN, **attributes)
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in fed.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in fed],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), fed


_STATES = ("B", "initial_h", "initial_c")
CASES = {
    "lstm": layer("LSTM", "B"),
    "lstm one step": layer("LSTM", *_STATES, steps=1),
    "lstm reverse": layer("LSTM", *_STATES, direction="reverse"),
    "lstm both": layer("LSTM", *_STATES, direction="bidirectional"),
    "lstm peepholes": layer("LSTM", *_STATES, "P", direction="bidirectional"),
    "lstm clip": layer("LSTM", *_STATES, "P", clip=0.3),
    "lstm coupled": layer("LSTM", *_STATES, input_forget=1, direction="bidirectional"),
    "lstm relu": layer("LSTM", *_STATES, activations=["Sigmoid", "Tanh", "Relu"]),
    "lstm batchwise": layer("LSTM", *_STATES, layout=1, direction="bidirectional"),
    "lstm lengths": layer("LSTM", *_STATES, lengths=(4, 2), direction="bidirectional"),
    "lstm all at run time": layer("LSTM", *_STATES, "P", lengths=(1, 4), run_time=True, direction="bidirectional"),
    "lstm parameters": layer(
        "LSTM", *_STATES, activations=["HardSigmoid", "LeakyRelu", "Affine"], activation_alpha=[0.3, 0.02, 0.9], activation_beta=[0.4, 0.1]
    ),
    "gru": layer("GRU", "B", "initial_h"),
    "gru of torch": layer("GRU", "B", linear_before_reset=1, direction="bidirectional"),
    "gru of torch from a state": layer("GRU", "B", "initial_h", linear_before_reset=1, direction="reverse"),
    "gru one sequence": layer("GRU", "B", "initial_h", batch=1, direction="reverse"),
    "gru clip": layer("GRU", "B", "initial_h", clip=0.2),
    "gru lengths": layer("GRU", "B", lengths=(2, 4), direction="reverse"),
    "gru all at run time": layer("GRU", "B", "initial_h", linear_before_reset=1, run_time=True),
    "gru parameters": layer("GRU", "B", activations=["Sigmoid", "ScaledTanh"], activation_alpha=[1.2], activation_beta=[0.7]),
    "rnn": layer("RNN", "B", "initial_h"),
    "rnn reverse": layer("RNN", "initial_h", direction="reverse"),
    "rnn both": layer("RNN", "B", direction="bidirectional", activations=["Softsign", "ThresholdedRelu"], activation_alpha=[0.1]),
    "rnn all at run time": layer("RNN", "B", "initial_h", lengths=(3, 1), run_time=True, direction="bidirectional"),
}
