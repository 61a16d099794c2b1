"""A hub on disk -> model.tflite on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgepack.backends.artifact import ArtifactDescription, Binding, WriteOptions
from edgepack.backends.control import with_blocks
from edgepack.backends.spelling import respell
from edgepack.backends.table import BackendError, Obstacle
from edgepack.backends.tflite.emit import Emitter, is_integer, stored_dtype
from edgepack.backends.tflite.flatbuffer import serialize
from edgepack.backends.tflite.layout import Layout, Shape, channels_last
from edgepack.backends.tflite.metadata import NAME, metadata, with_files
from edgepack.backends.tflite.program import Options, Program, Tensor, View
from edgepack.backends.tflite.runtimes import runtime as old_runtime
from edgepack.backends.tflite.table import TABLE, computes_in_float
from edgepack.backends.tflite.unify import unified
from edgepack.backends.tflite.unshared import unshared
from edgepack.hub.graph import constant, static_shape
from edgepack.hub.passes import convolutions, geometry, indices, sampling
from edgepack.hub.passes.recurrent import UNROLLED
from edgepack.quantize.fold import FoldedGraph, Operand, Operation, fold
from edgepack.quantize.scheme import Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

FILE = "model.tflite"

# What the hub may carry and this writer can say: static codes, weight codes for hybrid or expanded kernels, half weights.
_SCHEMES = ("fp32", "fp16", "w8a8", "w8d8", "w8")

# What no kernel says in one call, spelled with what kernels say.
_SPELLINGS = (
    {**UNROLLED, **indices.CLASSES, **indices.ELEMENTS, **geometry.SPELLERS, **sampling.SPELLERS, **convolutions.IMAGES_ALONE},
    indices.ROWS,
)

# What slides a window over the spatial axes of its first input.
_WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})

_FUSING = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"})
_FUSED_RANGES = {(0.0, 6.0): "Relu6", (-1.0, 1.0): "ReluN1To1", (0.0, None): "Relu"}


def write(model: Path, out: Path, options: WriteOptions) -> ArtifactDescription:
    """Write ``<out>/model.tflite``.

    Args:
        model: a canonical hub: ONNX opset 21, static shapes; plain for fp32 and fp16, with Q/DQ pairs for w8a8, with dequantized weights
            for w8 and w8d8.
        out: an existing folder.
        options: an input or output of layout "NCHW" becomes NHWC in the artifact.

    Raises:
        BackendError: a node or scheme TFLite cannot express; nothing has been written then.
    """
    scheme = Scheme.parse(options.scheme)
    if scheme.name not in _SCHEMES:
        raise BackendError(f"tflite: scheme {scheme.name} has no kernels that hold up in TFLite", f"use one of {', '.join(_SCHEMES)}")
    graph = _read(model)
    program, _ = _open_program(options) if options.probes else _fitting(graph, options)
    content = with_files(serialize(program), options)
    (out / FILE).write_bytes(content)
    return _describe(graph, program, options)


def _fitting(graph: FoldedGraph, options: WriteOptions, images_are_open: bool = False) -> tuple[Program, Mapping[Tensor, Operation]]:
    """The artifact of a graph and which operation makes a tensor; BackendError where something stands in the way."""
    TABLE.demand(graph.operations)
    program, makers = _lowered(graph, options, images_are_open)
    for obstacle in (*_readers_of_dynamic_rows(graph), *_too_new(program, makers, options)):
        raise BackendError(str(obstacle), obstacle.hint)
    return program, makers


def _open_program(options: WriteOptions) -> tuple[Program, Mapping[Tensor, Operation]]:
    """The artifact that takes every size the options leave open."""
    graphs = [_read(probe.path) for probe in options.probes]
    lowered = [_fitting(graph, options, _images_are_open(graphs)) for graph in graphs]
    makers = lowered[0][1]
    program = unified([held for held, _ in lowered], [probe.sizes for probe in options.probes], options.example_sizes, makers)
    return replace(program, metadata={**program.metadata, NAME: metadata(program, options)}), makers


def _images_are_open(graphs: Sequence[FoldedGraph]) -> bool:
    """Whether some window slides over axes whose size is open."""
    slid = [[_spatial(operation) for operation in graph.operations if operation.op_type in _WINDOWS] for graph in graphs]
    return any(held != slid[0] for held in slid)


def _spatial(operation: Operation) -> Shape:
    source = operation.inputs[0]
    return source.shape[2:] if source is not None else ()


def obstacles(model: Path, runtime: str = "") -> list[Obstacle]:
    """Every reason this backend cannot express the model, in graph order.

    Args:
        runtime: as ``WriteOptions`` has it; what it lacks is told once nothing else stands in the way.
    """
    graph = _read(model)
    found = [*TABLE.obstacles(graph.operations), *_readers_of_dynamic_rows(graph)]
    if found or not runtime:
        return found
    options = WriteOptions("fp32", runtime=runtime)
    return _too_new(*_lowered(graph, options), options)


def _too_new(program: Program, makers: Mapping[Tensor, Operation], options: WriteOptions) -> list[Obstacle]:
    """The calls that the runtime of ``options`` lacks or computes wrongly, by the operations they come from."""
    old, hint = old_runtime(options.runtime), "use another scheme (w8 computes in float) or operator, or leave this target out"
    if old is None:
        return []
    pairs = [(call, inner) for call in program.calls for inner in (call, *(each for block in call.blocks for each in block.all_calls()))]
    found = [(makers[call.outputs[0]], cause) for call, inner in pairs if (cause := old.refusal(inner))]
    return [Obstacle("tflite", maker.op_type, maker.name, cause, hint) for maker, cause in found]


def _readers_of_dynamic_rows(graph: FoldedGraph) -> list[Obstacle]:
    """Who reads the result of a NonMaxSuppression: the hub's static shapes hold for one input only from there on."""
    dynamic = {operation.outputs[0].name for operation in graph.operations if operation.op_type == "NonMaxSuppression"}
    readers = [operation for operation in graph.operations if any(held is not None and held.name in dynamic for held in operation.inputs)]
    cause, hint = "reads boxes whose number only a run tells", "end the student at NonMaxSuppression and gather the boxes in the app"
    return [Obstacle("tflite", reader.op_type, reader.name, cause, hint) for reader in readers]


def _lowered(graph: FoldedGraph, options: WriteOptions, images_are_open: bool = False) -> tuple[Program, Mapping[Tensor, Operation]]:
    """The artifact of a graph without obstacles, and which operation makes a tensor."""
    emit = Emitter(Scheme.parse(options.scheme), old_runtime(options.runtime), _block, images_are_open)
    makers: dict[Tensor, Operation] = {}
    inputs = [(operand.name, _input(operand, emit, options)) for operand in graph.inputs]
    for operation in graph.operations:
        before = emit.count
        _lower(operation, emit)
        makers |= dict.fromkeys(emit.made_since(before), operation)
    writers = {operand.name: operation for operation in graph.operations for operand in operation.outputs}
    outputs: list[tuple[str, View]] = []
    for operand in graph.outputs:
        before = emit.count
        outputs.append((operand.name, _output(operand, emit, options, [view.tensor for _, view in (*inputs, *outputs)])))
        # What is moved or copied at the end is so for whoever made it, or for nobody where an input is an output.
        makers |= dict.fromkeys(
            emit.made_since(before), writers.get(operand.name, Operation("Identity", operand.name, {}, (operand,), (operand,)))
        )
    program = emit.program(inputs, outputs, {})
    program = unshared(program) if emit.runtime is not None else program
    return replace(program, metadata={**_metadata(options, emit.layouts(program)), NAME: metadata(program, options)}), makers


def _block(graph: FoldedGraph, outer: Emitter) -> Program:
    """A graph inside an operation: what goes in and out lies as on the hub, each in a tensor of its own.

    Only what a body hands on in its place stays the tensor it is, so that the kernel copies nothing.
    """
    emit = Emitter(outer.scheme, outer.runtime, _block)
    inputs = [(operand.name, emit.output(operand, Layout.plain(operand.shape))) for operand in graph.inputs]
    for name, view in inputs:
        emit.bind(name, view)
    for operation in graph.operations:
        _lower(operation, emit)
    taken = {view.tensor for _, view in inputs}
    outputs: list[tuple[str, View]] = []
    for place, operand in enumerate(graph.outputs):
        view = emit.plain(emit.take(operand))
        is_handed_on = place < len(inputs) and inputs[place][1].tensor is view.tensor
        is_shared = not is_handed_on and (view.is_constant or view.tensor in taken)
        outputs.append((operand.name, emit.copy(view, operand.name) if is_shared else view))
        taken.add(outputs[-1][1].tensor)
    program = emit.program(inputs, outputs, {})
    return unshared(program) if emit.runtime is not None else program


def _read(model: Path) -> FoldedGraph:
    import onnx_ir as ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    import edgepack.backends.tflite.lower  # noqa: F401 - registers the lowerings

    held = ir.load(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(held)
    respell(held, _SPELLINGS)
    with_blocks(held, _SPELLINGS)
    for node in held.graph:
        if node.op_type == "NonMaxSuppression":
            _give_most_rows(node)
    return fold(held, fuses)


def _give_most_rows(node: ir.Node) -> None:
    """Selected boxes as many as there can be, which stands for their number: (images * classes * limit, 3)."""
    import onnx_ir as ir

    scores, limit = node.inputs[1], constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scores is None or limit is None:
        return
    images, classes, boxes = static_shape(scores)
    node.outputs[0].shape = ir.Shape([images * classes * min(int(limit.ravel()[0]), boxes), 3])


def fuses(producer: ir.Node, consumer: ir.Node) -> str | None:
    """The activation a kernel applies to its own output: Relu, or Clip to 0..6, -1..1 or 0..infinity."""
    if producer.op_type not in _FUSING or producer.outputs[0].dtype is None or producer.outputs[0].dtype.name != "FLOAT":
        return None
    if consumer.op_type == "Relu":
        return "Relu"
    if consumer.op_type != "Clip":
        return None
    bounds = [constant(value) for value in (*consumer.inputs[1:3], None, None)[:2]]
    computed = any(value is not None and constant(value) is None for value in consumer.inputs[1:3])
    low, high = (None if bound is None else float(bound.item()) for bound in bounds)
    return None if computed or low is None else _FUSED_RANGES.get((low, high))


def _input(operand: Operand, emit: Emitter, options: WriteOptions) -> View:
    view = emit.output(operand, _end_layout(operand, options.input_layouts))
    emit.bind(operand.name, view)
    return view


def _end_layout(operand: Operand, layouts: dict[str, str]) -> Layout:
    is_image = layouts.get(operand.name) == "NCHW" and operand.rank == 4
    return Layout(operand.shape, channels_last(4)) if is_image else Layout.plain(operand.shape)


def _lower(operation: Operation, emit: Emitter) -> None:
    results = _in_float(operation, emit) if computes_in_float(operation) else _results(_expanded(operation, emit), emit)
    for operand, view in zip(operation.outputs, results, strict=True):
        emit.bind(operand.name, view)


def _results(operation: Operation, emit: Emitter) -> list[View]:
    lowered = TABLE[operation.op_type](operation, emit)
    return [lowered] if isinstance(lowered, View) else lowered


def _expanded(operation: Operation, emit: Emitter) -> Operation:
    """A real operation reads reals: its constant codes are expanded, those of int8 by the interpreter at start-up."""
    if is_integer(operation) or operation.op_type == "DequantizeLinear":
        return operation
    return replace(operation, inputs=tuple(_expanded_constant(operand, emit) for operand in operation.inputs))


def _expanded_constant(operand: Operand | None, emit: Emitter) -> Operand | None:
    if operand is None or operand.constant is None or operand.encoding is None:
        return operand
    real = replace(operand, name=f"{operand.name}/real")
    is_symmetric = operand.encoding.scale.size == 1 or not operand.encoding.zero_point.any()
    kept = operand.encoding.dtype in ("int8", "uint8") and is_symmetric
    held = emit.real(emit.take(operand)) if kept else emit.constant(real.name, operand.real())
    emit.bind(real.name, held)
    return real


def _in_float(operation: Operation, emit: Emitter) -> list[View]:
    """An operator without an integer kernel, as the hub's Q/DQ pairs spell it: codes to reals, compute, reals to codes."""
    inputs = tuple(_real_operand(operand, emit) for operand in operation.inputs)
    outputs = tuple(replace(operand, name=f"{operand.name}/real", encoding=None) for operand in operation.outputs)
    results = _results(replace(operation, inputs=inputs, outputs=outputs), emit)
    pairs = zip(results, operation.outputs, strict=True)
    return [emit.run("QUANTIZE", [view], emit.output(operand, view.layout), Options("QuantizeOptions")) for view, operand in pairs]


def _real_operand(operand: Operand | None, emit: Emitter) -> Operand | None:
    if operand is None or operand.encoding is None:
        return operand
    if operand.constant is not None:
        return _expanded_constant(operand, emit)
    real = replace(operand, name=f"{operand.name}/real", encoding=None)
    emit.bind(real.name, emit.real(emit.take(operand)))
    return real


def _output(operand: Operand, emit: Emitter, options: WriteOptions, taken: list[Tensor]) -> View:
    """The output in the layout it is declared in, as a tensor of its own."""
    view = emit.ordered(emit.take(operand), _end_layout(operand, options.output_layouts).order)
    is_shared = view.is_constant or any(view.tensor is tensor for tensor in taken)
    return emit.copy(view, operand.name) if is_shared else view


def _metadata(options: WriteOptions, layouts: dict[str, list[str]]) -> dict[str, bytes]:
    said = {"name": options.name, "licence": options.licence, "labels": list(options.labels), "scheme": options.scheme, "layouts": layouts}
    ranges = ", ".join(f"{symbol} {low}..{high}" for symbol, (low, high) in options.sizes.items())
    held = {**said, "sizes": ranges} if ranges else said
    return {"edgepack": json.dumps(held, sort_keys=True).encode()}


def _describe(graph: FoldedGraph, program: Program, options: WriteOptions) -> ArtifactDescription:
    moved = sum(call.operator == "TRANSPOSE" for call in program.calls)
    notes = (f"{moved} layout transposes inside",) if moved else ()
    tensors = dict((*program.inputs, *program.outputs))
    inputs = tuple(_binding(operand, options.input_layouts, tensors[operand.name], bool(options.sizes)) for operand in graph.inputs)
    outputs = tuple(_binding(operand, options.output_layouts, tensors[operand.name], bool(options.sizes)) for operand in graph.outputs)
    old = old_runtime(options.runtime)
    return ArtifactDescription(FILE, inputs, outputs, old.runner if old is not None else "litert", notes, sizes=options.sizes)


def _binding(operand: Operand, layouts: dict[str, str], tensor: Tensor, is_open: bool) -> Binding:
    layout = _end_layout(operand, layouts)
    said = dict(tensor.open_axes) if is_open else {}
    shape = tuple(said.get(axis, size) for axis, size in enumerate(layout.stored))
    return Binding(operand.name, operand.name, stored_dtype(operand.dtype), shape, layout.permutation)
