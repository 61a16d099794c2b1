"""What the hub says with one node and Core ML has only in part: recurrent layers that are no MIL operation are said step by step.

What differs, from coremltools' documentation and Apple's tests of the operations:

- ``lstm``: the gates lie alike (input, output, forget, cell against input, forget, output, cell: reordered here), one bias is the sum of
  both; ``clip`` bounds the cell, ONNX's bounds what the gates read; there is no ``input_forget``.
- ``gru``: the reset gate is applied before the product (``linear_before_reset`` 0 alone, which is not PyTorch's), and every sequence of a
  batch but the first comes out as zeros (rdar://59644603).
- ``lstm``, ``gru`` and ``rnn`` of direction "reverse" give the last input's result first: here a layer that runs backwards is one that
  runs forwards between two ``reverse``. Only ``lstm`` is bidirectional.
- no sequence lengths, and weights are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepack.hub.graph import attribute, constant
from edgepack.hub.passes.editing import Speller, Spelling, known_shape
from edgepack.hub.passes.recurrent import PEEPHOLES, UNROLLED, B, R, W, X, activations, all_steps, given

if TYPE_CHECKING:
    import onnx_ir as ir

# Activations that Apple tests in each place (f, g, h), by ONNX name.
_TESTED = {
    "LSTM": ({"Sigmoid"}, {"Tanh"}, {"Tanh", "Relu"}),
    "GRU": ({"Sigmoid", "Tanh"}, {"Tanh", "Sigmoid"}),
    "RNN": ({"Tanh"},),
}


def _is_native(node: ir.Node) -> bool:
    """Whether a layer of the hub is one MIL operation."""
    kind, shape = node.op_type, known_shape(node.inputs[X])
    weights = [given(node, position) for position in (W, R, B, PEEPHOLES)]
    if shape is None or not all_steps(node) or any(value is not None and constant(value) is None for value in weights):
        return False
    if any(constant(node.inputs[position]) is None for position in (W, R)) or attribute(node, "clip") or attribute(node, "input_forget", 0):
        return False
    if kind != "LSTM" and attribute(node, "direction", "forward") == "bidirectional":
        return False
    if kind == "GRU" and (attribute(node, "linear_before_reset", 0) or shape[1] > 1):
        return False
    functions = [function.name for function in activations(node)]
    places = _TESTED[kind]
    alike = all(functions[index] == functions[index % len(places)] for index in range(len(functions)))
    return alike and all(name in place for name, place in zip(functions, places, strict=False))


def _spelled(operator: str) -> Speller:
    def speller(node: ir.Node, spell: Spelling) -> Sequence[ir.Value | None] | None:
        return None if _is_native(node) else UNROLLED[operator](node, spell)

    return speller


# What is written step by step.
OTHERS: dict[str, Speller] = {operator: _spelled(operator) for operator in UNROLLED}
