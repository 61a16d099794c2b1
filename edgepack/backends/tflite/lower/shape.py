"""Operators that only regroup, rename or repeat axes. Most of them write nothing."""

from __future__ import annotations

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import attribute_is, constant_inputs, equal_encodings, lowers, ranks
from edgepack.quantize.fold import Operation


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", honours={"axis", "axes", "allowzero"}, integer=(equal_encodings,))
def reshape(operation: Operation, emit: Emitter) -> View:
    """ONNX Reshape-21, Flatten-21, Squeeze-21, Unsqueeze-21: all say the output's static shape, none changes the row-major order."""
    result = operation.outputs[0]
    return emit.reshaped(emit.take(operation.inputs[0]), result.shape, result.name)


@lowers("Transpose", honours={"perm"}, integer=(equal_encodings,))
def transpose(operation: Operation, emit: Emitter) -> View:
    """ONNX Transpose-21: a renaming of axes; data moves only when a later operator demands an order."""
    x = emit.take(operation.inputs[0])
    x = emit.plain(x) if x.layout.merged else x
    permutation = operation.attributes.get("perm") or list(reversed(range(len(x.shape))))
    return View(x.tensor, x.layout.transposed(tuple(int(axis) for axis in permutation)), x.non_negative)


@lowers("Expand", objects=(constant_inputs(1),))
def expand(operation: Operation, emit: Emitter) -> View:
    """ONNX Expand-13 -> BROADCAST_TO."""
    result = operation.outputs[0]
    x = emit.take(operation.inputs[0])
    x = emit.reshaped(x, (1,) * (result.rank - len(x.shape)) + x.shape)
    layout = x.layout.of(result.shape)
    inputs = [x, emit.indices("shape", layout.stored)]
    return emit.run("BROADCAST_TO", inputs, emit.output(result, layout), Options("BroadcastToOptions"))


@lowers("Tile", objects=(constant_inputs(1),))
def tile(operation: Operation, emit: Emitter) -> View:
    """ONNX Tile-13 -> TILE."""
    x, repeats = emit.take(operation.inputs[0]), operation.inputs[1]
    assert repeats is not None and repeats.constant is not None
    x = emit.plain(x) if x.layout.merged else x
    stored = [int(repeats.constant[axis]) for axis in x.layout.order]
    output = emit.output(operation.outputs[0], x.layout.of(operation.outputs[0].shape))
    return emit.run("TILE", [x, emit.indices("multiples", stored)], output, Options("TileOptions"))


@lowers("DepthToSpace", honours={"blocksize", "mode"}, objects=(ranks(4), attribute_is("mode", "DCR", "CRD")), integer=(equal_encodings,))
def depth_to_space(operation: Operation, emit: Emitter) -> View:
    """ONNX DepthToSpace-13 as its definition: split the channels, interleave, join; DCR is TFLite's own order and CRD is pixel shuffle."""
    x = emit.take(operation.inputs[0])
    batch, channels, height, width = x.shape
    block = int(operation.attributes["blocksize"])
    depth = channels // block**2
    if operation.attributes.get("mode", "DCR") == "DCR":
        last = emit.image(x)
        layout = Layout(operation.outputs[0].shape, last.layout.order)
        output = emit.output(operation.outputs[0], layout)
        return emit.run("DEPTH_TO_SPACE", [last], output, Options("DepthToSpaceOptions", {"blockSize": block}))
    split = emit.reshaped(x, (batch, depth, block, block, height, width))
    moved = View(split.tensor, split.layout.transposed((0, 1, 4, 2, 5, 3)), split.non_negative)
    return emit.reshaped(moved, operation.outputs[0].shape, operation.outputs[0].name)


@lowers("SpaceToDepth", honours={"blocksize", "mode"}, objects=(ranks(4), attribute_is("mode", "DCR", "CRD")), integer=(equal_encodings,))
def space_to_depth(operation: Operation, emit: Emitter) -> View:
    """ONNX SpaceToDepth-13 -> SPACE_TO_DEPTH, which puts the place in a block before the channel (DCR); CRD is the same regrouped."""
    x = emit.take(operation.inputs[0])
    batch, channels, height, width = x.shape
    block = int(operation.attributes["blocksize"])
    if operation.attributes.get("mode", "DCR") == "DCR":
        last = emit.image(x)
        output = emit.output(operation.outputs[0], Layout(operation.outputs[0].shape, last.layout.order))
        return emit.run("SPACE_TO_DEPTH", [last], output, Options("SpaceToDepthOptions", {"blockSize": block}))
    split = emit.reshaped(x, (batch, channels, height // block, block, width // block, block))
    moved = View(split.tensor, split.layout.transposed((0, 1, 3, 5, 2, 4)), split.non_negative)
    return emit.reshaped(moved, operation.outputs[0].shape, operation.outputs[0].name)
