"""NonMaxSuppression: a kernel for each image and class, whose results are joined."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from edgepack.backends.tflite.emit import Emitter, arithmetic
from edgepack.backends.tflite.layout import Layout, Shape
from edgepack.backends.tflite.lower.elementwise import concatenated
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, constant_inputs, lowers
from edgepack.quantize.fold import Operand, Operation

# A box is (y1, x1, y2, x2), a selection (batch, class, box).
_CORNERS, _COLUMNS = 4, 3


def _number(operation: Operation, position: int, default: float) -> Any:
    operand = operation.inputs[position] if position < len(operation.inputs) else None
    return default if operand is None or operand.constant is None or operand.constant.size == 0 else operand.constant.ravel()[0]


def _limit(operation: Operation) -> int:
    """How many boxes of a class are kept at most."""
    boxes = operation.inputs[0]
    assert boxes is not None
    return min(int(_number(operation, 2, 0)), boxes.shape[1])


def _selects(operation: Operation) -> Refusal:
    return None if _limit(operation) > 0 else ("max_output_boxes_per_class is 0: nothing is ever selected", "give it a positive number")


def _threshold_is_proper(operation: Operation) -> Refusal:
    threshold = float(_number(operation, 3, 0))
    return None if 0 <= threshold < 1 else (f"iou_threshold = {threshold:g} is outside 0 <= t < 1", "the TFLite kernel takes 0 to 1")


@lowers(
    "NonMaxSuppression",
    honours={"center_point_box"},
    objects=(constant_inputs(2, 3, 4), _selects, _threshold_is_proper),
)
def non_max_suppression(operation: Operation, emit: Emitter) -> View:
    """ONNX NonMaxSuppression-11 -> NON_MAX_SUPPRESSION_V4 for each image and class; the result has as many rows as boxes were selected.

    Rows are in ONNX's order: image, class, falling score. ONNX drops a box whose overlap is above the threshold, TFLite one that reaches
    it: the next larger float32 says the same.
    """
    boxes, scores = emit.plain(emit.take(operation.inputs[0])), emit.plain(emit.take(operation.inputs[1]))
    corners = _with_area(_from_centres(boxes, emit) if operation.attributes.get("center_point_box", 0) else boxes, emit)
    pairs = itertools.product(range(scores.shape[0]), range(scores.shape[1]))
    selections = [_selected(operation, emit, corners, scores, image, label) for image, label in pairs]
    return selections[0] if len(selections) == 1 else concatenated(selections, 0, _rows_of(operation, emit), emit)


def _part(x: View, begin: Shape, size: Shape, shape: Shape, emit: Emitter) -> View:
    """``size`` elements from ``begin`` on, read as ``shape``."""
    inputs = [x, emit.indices("begin", begin), emit.indices("size", size)]
    part = x if size == x.stored else emit.run("SLICE", inputs, emit.like(x, Layout.plain(size), "part"), Options("SliceOptions"))
    return emit.reread(part, Layout.plain(shape))


def _from_centres(boxes: View, emit: Emitter) -> View:
    """(x, y, width, height) of a centre and its sides as (y1, x1, y2, x2), in onnxruntime's arithmetic: centre -+ side / 2."""
    shape = (*boxes.shape[:2], 1)
    x, y, width, height = (_part(boxes, (0, 0, index), shape, shape, emit) for index in range(_CORNERS))
    half_width, half_height = (emit.binary("MUL", side, emit.scalar(0.5, side)) for side in (width, height))
    ends = [emit.binary(name, centre, half) for name in ("SUB", "ADD") for centre, half in ((y, half_height), (x, half_width))]
    return concatenated(ends, 2, emit.like(boxes, boxes.layout, "corners"), emit)


# Far from any image, and its square still far from the largest float32.
_FAR = 1e17


def _with_area(boxes: View, emit: Emitter) -> View:
    """Boxes without area, which overlap nothing, each moved to a place of its own.

    The kernel takes a box off its list by its overlap with itself: one without area would be selected again and again (measured).
    """
    shape = (*boxes.shape[:2], 1)
    corners = [_part(boxes, (0, 0, index), shape, shape, emit) for index in range(_CORNERS)]
    height, width = (emit.binary("SUB", corners[index + 2], corners[index]) for index in (0, 1))
    area = emit.unary("ABS", emit.binary("MUL", height, width))
    places = _FAR * (1 + 2 * np.arange(boxes.shape[1], dtype=np.float32))
    low = np.full_like(places, _FAR)
    far = emit.constant("far", np.stack([places, low, places + np.float32(_FAR), 2 * low], axis=1)[None])
    has_area = emit.truth("GREATER", area, emit.scalar(0, area))
    return emit.run("SELECT_V2", [has_area, boxes, far], emit.like(boxes, boxes.layout, "apart"), Options("SelectV2Options"))


def _selected(operation: Operation, emit: Emitter, boxes: View, scores: View, image: int, label: int) -> View:
    """The boxes of one class on one image as rows (image, label, box).

    The kernel orders equal scores as its heap happens to: it is given the boxes already in order, scored by their ranks.
    """
    count, limit = boxes.shape[1], _limit(operation)
    corners = _part(boxes, (image, 0, 0), (1, count, _CORNERS), (count, _CORNERS), emit)
    points = _part(scores, (image, label, 0), (1, 1, count), (count,), emit)
    falling, order = emit.like(points, points.layout, "falling"), _integers("order", (count,), emit)
    emit.run_many("TOPK_V2", [points, emit.indices("k", count)], [falling, order], Options("TopKV2Options"))
    sorted_boxes = emit.run("GATHER", [corners, order], emit.like(corners, corners.layout, "sorted"), _ROWS)
    threshold = np.nextafter(np.float32(_number(operation, 3, 0)), np.float32(2))
    overlap, positive = (emit.constant(name, np.asarray(value, np.float32)) for name, value in (("overlap", threshold), ("positive", 0)))
    found, valid = _integers("found", (limit,), emit), _integers("valid", (), emit)
    inputs = [sorted_boxes, _ranks(operation, falling, emit), emit.indices("limit", limit), overlap, positive]
    emit.run_many("NON_MAX_SUPPRESSION_V4", inputs, [found, valid], Options("NonMaxSuppressionV4Options"))
    size = emit.reread(valid, Layout.plain((1,)))
    kept = emit.run("SLICE", [found, emit.indices("begin", [0]), size], _dynamic("kept", (limit,), emit), Options("SliceOptions"))
    selected = emit.run("GATHER", [order, kept], _dynamic("selected", (limit,), emit), _ROWS)
    return _rows(operation, selected, (image, label), emit)


_ROWS = Options("GatherOptions", {"axis": 0, "batchDims": 0})


def _ranks(operation: Operation, falling: View, emit: Emitter) -> View:
    """A falling number for each box whose score is above the threshold, 0 for the others."""
    count = falling.stored[0]
    ranks = emit.constant("ranks", np.arange(count, 0, -1, dtype=np.float32))
    threshold = _number(operation, 4, -np.inf)
    if np.isneginf(threshold):
        return ranks
    above = emit.truth("GREATER", falling, emit.scalar(float(threshold), falling))
    none = emit.constant("none", np.zeros(count, np.float32))
    return emit.run("SELECT_V2", [above, ranks, none], emit.like(falling, falling.layout, "ranked"), Options("SelectV2Options"))


def _rows(operation: Operation, kept: View, where: tuple[int, int], emit: Emitter) -> View:
    """(count,) of unknown count -> (count, 3): two columns of zeros before, then the image and the label added to them."""
    limit = kept.stored[0]
    options = Options("ReshapeOptions", {"newShape": [-1, 1]})
    column = emit.run("RESHAPE", [kept, emit.indices("shape", (-1, 1))], _dynamic("column", (limit, 1), emit), options)
    paddings = emit.constant("paddings", np.asarray([(0, 0), (_COLUMNS - 1, 0)], np.int64))
    rows = emit.run("PAD", [column, paddings], _dynamic("rows", (limit, _COLUMNS), emit), Options("PadOptions"))
    offset = emit.constant("image_and_label", np.asarray([[*where, 0]], np.int32))
    return emit.run("ADD", [rows, offset], _rows_of(operation, emit), arithmetic("ADD"))


def _integers(name: str, shape: Shape, emit: Emitter) -> View:
    return emit.output(Operand(name, shape, "int32"), Layout.plain(shape))


def _dynamic(name: str, shape: Shape, emit: Emitter) -> View:
    held = _integers(name, shape, emit)
    return replace(held, tensor=replace(held.tensor, open_axes=((0, "?"),)))


def _rows_of(operation: Operation, emit: Emitter) -> View:
    """A tensor of the hub's shape, which holds as many rows as it happens to."""
    return _dynamic(operation.outputs[0].name, operation.outputs[0].shape, emit)
