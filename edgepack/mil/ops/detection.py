"""non_maximum_suppression (coremltools iOS15 and iOS17 tensor_operation.py)."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements(
    "non_maximum_suppression", accepts=("boxes", "scores", "iou_threshold", "score_threshold", "max_boxes", "per_class_suppression")
)
def non_maximum_suppression(operation: MilOperation) -> Kernel:
    """At most ``max_boxes`` boxes by falling score, none of which covers a better one by more than ``iou_threshold``.

    boxes (n, B, 4) as centre x, y, width and height, scores (n, B, K); from iOS 17 on (n, 4, B) and (n, K, B), without
    ``score_threshold`` and the count of what was chosen. What is missing of ``max_boxes`` is zeros, and the index -1. As in the
    reference of Apple's test one box is chosen even when no score reaches the threshold, and ``per_class_suppression`` compares
    only boxes whose best class is the same.
    """
    (limit,) = operation.integers("max_boxes", ())
    # The fourth output went with iOS 17, and the order of dimensions changed.
    is_last = len(operation.outputs) == 3
    overlap, least = float(operation.number("iou_threshold", 0)), float(operation.number("score_threshold", -np.inf))
    by_class = operation.flag("per_class_suppression")

    def kernel(boxes: Array, scores: Array) -> list[Array]:
        rows = [held.swapaxes(1, 2) if is_last else held for held in (boxes, scores)]
        places = [_chosen(box, score, overlap, least, by_class)[:limit] for box, score in zip(*rows, strict=True)]
        found = [np.stack([_filled(part[kept], limit) for part, kept in zip(held, places, strict=True)]) for held in rows]
        indices = np.stack([np.pad(kept, (0, limit - len(kept)), constant_values=-1) for kept in places])
        if is_last:
            return [*(held.swapaxes(1, 2) for held in found), indices]
        return [*found, indices, np.asarray([len(kept) for kept in places])]

    return operation.bind(("boxes", "scores"), kernel)


def _filled(rows: Array, count: int) -> Array:
    """``rows`` and zeros after them, ``count`` in all."""
    return np.pad(rows, [(0, count - len(rows)), (0, 0)])


def _chosen(boxes: Array, scores: Array, overlap: float, least: float, by_class: bool) -> Array:
    """The places of the chosen boxes of one sample, the best first."""
    best, classes = scores.max(axis=-1), scores.argmax(axis=-1)
    chosen: list[int] = []
    for place in np.argsort(-best, kind="stable"):
        rivals = [held for held in chosen if not by_class or classes[held] == classes[place]]
        if best[place] >= least and not any(_overlap(boxes[place], boxes[held]) > overlap for held in rivals):
            chosen.append(int(place))
    return np.asarray(chosen or [int(best.argmax())])


def _overlap(one: Array, other: Array) -> float:
    """Intersection over union of two boxes (centre x, y, width, height); NaN of two without area."""
    ends = [(box[:2] - box[2:] / 2, box[:2] + box[2:] / 2) for box in (one, other)]
    (low, high), (other_low, other_high) = ends
    shared = float(np.prod(np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0)))
    return shared / np.float64(float(np.prod(one[2:])) + float(np.prod(other[2:])) - shared)
