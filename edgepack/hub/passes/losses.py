"""Losses of a training graph, which students export with their scores."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, is_read, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


def negative_log_likelihood(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX NegativeLogLikelihoodLoss-22: minus the log probability of each target, times the weight of its class."""
    scores, target, *weight = node.inputs
    if scores is None or target is None or known_shape(target) is None or known_shape(scores) is None:
        return None
    return [_loss(scores, target, weight[0] if weight else None, node, spell)]


def softmax_cross_entropy(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX SoftmaxCrossEntropyLoss-13: the loss of the logarithm of the softmax over classes, which may be an output too."""
    scores, target, *weight = node.inputs
    if scores is None or target is None or known_shape(target) is None or known_shape(scores) is None:
        return None
    logarithm = spell("LogSoftmax", scores, axis=1)
    # Shapes of new values are inferred later; the loss needs them now.
    logarithm.shape, logarithm.type = scores.shape, scores.type
    loss = _loss(logarithm, target, weight[0] if weight else None, node, spell)
    return [loss, *(logarithm if is_read(output) else None for output in node.outputs[1:])]


def _loss(scores: ir.Value, target: ir.Value, weight: ir.Value | None, node: ir.Node, spell: Spelling) -> ir.Value:
    """Scores (N, C, ...) of which the target (N, ...) names one a place; what it does not name is 0 in a sum over C.

    Everything between is of rank 3, (N, C, places). An ignored class is one that no target equals.
    """
    shape, places = known_shape(scores), known_shape(target)
    assert shape is not None and places is not None
    count, classes, size = shape[0], shape[1], prod(places[1:])
    ignored, real = attribute(node, "ignore_index"), dtype_name(scores)
    numbers = np.arange(classes)
    if ignored is not None:
        numbers[numbers == ignored] = np.iinfo(np.int32).min
    names = spell("Reshape", target, spell.integers(count, 1, size))
    chosen = spell("Equal", names, spell.constant(numbers.reshape(1, -1, 1), dtype_name(target)))
    by_class = spell("Reshape", weight, spell.integers(1, classes, 1)) if weight is not None else spell.constant([[[1]]], real)
    flat = spell("Reshape", scores, spell.integers(count, classes, size))
    named = spell("Where", chosen, flat if weight is None else spell("Mul", flat, by_class), spell.constant(0, real))
    losses = spell("Neg", spell("ReduceSum", named, spell.integers(1), keepdims=0))
    reduction = attribute(node, "reduction", "mean")
    if reduction == "none":
        return spell("Reshape", losses, spell.integers(*places))
    if reduction == "mean" and weight is None and ignored is None:
        return spell("ReduceMean", losses, keepdims=0)
    total = spell("ReduceSum", losses, keepdims=0)
    if reduction == "sum":
        return total
    return spell("Div", total, spell("ReduceSum", spell("Where", chosen, by_class, spell.constant(0, real)), keepdims=0))


SPELLERS: dict[str, Speller] = {
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
}
