"""From the hub to a MIL program, in the precision Core ML will compute in.

The program is built in its final types: an fp16 program takes fp32 inputs, casts them, and computes in fp16 constants and operations.
coremltools' own fp16 pass is not used: it rounds scales silently and drops zero points that are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgepack.backends.artifact import Binding
from edgepack.backends.coreml.angles import in_float32
from edgepack.backends.coreml.emitter import Emitter, HeldEncoding, Var
from edgepack.backends.coreml.operations import MAX_RANK, Hub
from edgepack.backends.coreml.table import TABLE
from edgepack.backends.table import BackendError, Obstacle, with_nested
from edgepack.mil.environment import coremltools
from edgepack.quantize.fold import FoldedGraph, Operand, Operation

# What a feature of the package is, for a hub tensor of this type.
_FEATURE_TYPES = {"float32": "float32", "float16": "float32", "int64": "int32", "int32": "int32"}


@dataclass(frozen=True)
class Built:
    """A MIL program and what is true of it.

    Attributes:
        program: a coremltools ``Program``.
        inputs, outputs: its features, in the hub's order.
        encodings: what the saved package must hold.
        notes: facts for the report.
        values: what was computed: hub name -> variable.
        kept: the inputs that are states of the program -> the outputs that are what a state holds afterwards, by their names here.
    """

    program: Any
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    encodings: tuple[HeldEncoding, ...]
    notes: tuple[str, ...]
    values: Mapping[str, Var]
    kept: Mapping[str, str]


def find_obstacles(hub: Hub) -> list[Obstacle]:
    """Everything in a hub that cannot be written, features first, then nodes in graph order."""
    import edgepack.backends.coreml.lower  # noqa: F401 - fills the table

    features = [*(("input", held) for held in hub.inputs), *(("output", held) for held in hub.outputs)]
    found = [_feature_obstacle(kind, operand, hub) for kind, operand in features]
    return [obstacle for obstacle in found if obstacle is not None] + TABLE.obstacles(hub.operations)


def demand_release(operations: Iterable[Operation], ios: int) -> None:
    """Refuse operations that the oldest system the package must run on does not have.

    Raises:
        BackendError: naming the node and the release that has it.
    """
    for operation in with_nested(operations):
        needed = _release_of(operation)
        if needed > ios:
            raise BackendError(
                f"coreml: {operation.op_type} '{operation.name}' needs iOS {needed}, the package is for iOS {ios}",
                f'set minimum_os = "iOS{needed}" in the target, or build scheme fp32 or fp16',
            )


def build(hub: Hub, dtype: str, ios: int, kept: Mapping[str, str] = {}) -> Built:
    """Lower a hub without obstacles.

    Args:
        hub: see ``find_obstacles``.
        dtype: the compute precision, "float32" or "float16".
        ios: the release the package is for (17).
        kept: inputs that the program keeps as states -> the outputs that they take (edgepack.backends.coreml.states), hub names.

    Raises:
        BackendError: a constant or scale that the precision does not hold.
    """
    ct = coremltools()
    from coremltools.converters.mil.mil import Builder, Function, Program, types

    Builder.name_count.clear()
    emit = Emitter(dtype, ios, block=_block)
    wide = _Wide(hub, emit)
    inputs = tuple(_binding(operand, emit) for operand in hub.inputs)
    outputs = tuple(_binding(operand, emit) for operand in hub.outputs)
    real = {"float32": types.fp32, "int32": types.int32}
    placeholders = {
        held.name: Builder.state_tensor_placeholder(shape=held.shape, dtype=types.fp16)
        if held.hub_name in kept
        else Builder.placeholder(shape=held.shape, dtype=real[held.dtype])
        for held in inputs
    }
    program = Program()
    with Function(placeholders, opset_version=getattr(ct.target, f"iOS{ios}")) as function:
        for held, operand in zip(inputs, hub.inputs, strict=True):
            feature = function.inputs[held.name]
            if operand.name in kept:
                emit.values[operand.name] = emit("read_state", input=feature, name=emit.unique(f"{held.name}_held"))
                wide.emit.values[operand.name] = emit("cast", x=emit.values[operand.name], dtype="fp32")
                continue
            emit.values[operand.name] = _computed(feature, held, emit)
            wide.emit.values[operand.name] = feature
        direct = {held.hub_name: held.name for held in outputs if held.dtype != "float32" or dtype == "float32"}
        for operation in hub.operations:
            if operation.outputs[0].name in wide.names:
                wide.lower(operation, emit)
            else:
                _lower(operation, emit, direct)
        states = {held.hub_name: held.name for held in inputs}
        for source, result in kept.items():
            emit("coreml_update_state", state=function.inputs[states[source]], value=emit.values[result])
        given = [(operand, held) for operand, held in zip(hub.outputs, outputs, strict=True) if operand.name not in kept.values()]
        function.set_outputs([_feature(operand, held, emit) for operand, held in given])
    program.add_function("main", function)
    computed = {held.name for operation in hub.operations if not _is_constant(operation) for held in operation.outputs}
    values = {name: value for name, value in emit.values.items() if name in computed}
    results = {held.hub_name: held.name for held in outputs}
    own = {states[source]: results[result] for source, result in kept.items()}
    return Built(program, inputs, outputs, tuple(emit.encodings), tuple(emit.notes), values, own)


class _Wide:
    """The part of an fp16 program that is computed in float32 (edgepack.backends.coreml.angles); none of a float32 program."""

    def __init__(self, hub: Hub, emit: Emitter) -> None:
        self.names = in_float32(hub) if emit.dtype == "float16" else frozenset[str]()
        self.emit = emit.in_float32()
        others = [held for operation in hub.operations if operation.outputs[0].name not in self.names for held in operation.inputs]
        self._read = {held.name for held in (*others, *hub.outputs) if held is not None}

    def lower(self, operation: Operation, emit: Emitter) -> None:
        """Emit one operation in float32, and its value in fp16 where anything else reads it."""
        for held in operation.inputs:
            if held is not None and held.constant is None and held.name not in self.emit.values:
                self.emit.values[held.name] = emit.values[held.name]
        _lower(operation, self.emit, {})
        name = operation.outputs[0].name
        if name in self._read:
            emit.values[name] = emit("cast", x=self.emit.values[name], dtype="fp16", name=emit.unique(f"{name}_fp16"))


def _release_of(operation: Operation) -> int:
    """The iOS release whose opset has what an operation becomes."""
    if operation.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return 15
    codes = operation.outputs[0] if operation.op_type == "QuantizeLinear" else operation.inputs[0]
    if codes is None or codes.constant is None:
        return 17
    return 15 if codes.encoding is None or codes.encoding.dtype == "int32" else 16


def _feature_obstacle(kind: str, operand: Operand, hub: Hub) -> Obstacle | None:
    def say(cause: str, hint: str) -> Obstacle:
        return Obstacle(TABLE.backend, kind, operand.name, cause, hint)

    if operand.dtype not in _FEATURE_TYPES:
        return say(f"is {operand.dtype}; Core ML takes and gives float32, float16 and int32", f"cast the {kind} in the student")
    if not 1 <= operand.rank <= MAX_RANK or 0 in operand.shape:
        return say(f"has shape {operand.shape}; Core ML takes ranks 1 to {MAX_RANK}, no size 0", f"reshape the {kind} in the student")
    if kind == "output" and (operand.constant is not None or operand.name in {held.name for held in hub.inputs}):
        return say("is a constant or an input", "leave this output out")
    return None


def _binding(operand: Operand, emit: Emitter) -> Binding:
    return Binding(emit.unique(operand.name), operand.name, _FEATURE_TYPES[operand.dtype], operand.shape)


def _computed(feature: Var, held: Binding, emit: Emitter) -> Var:
    """An input in the type the program computes in."""
    if held.dtype != "float32" or emit.dtype == "float32":
        return feature
    return emit("cast", x=feature, dtype="fp16", name=emit.unique(f"{held.name}_fp16"))


def _lower(operation: Operation, emit: Emitter, features: Mapping[str, str]) -> None:
    """Emit one operation and name what it gave as the hub does. A dequantized constant is emitted where it is read.

    ``features`` holds the names of outputs that need no cast.
    """
    if _is_constant(operation):
        return
    known = {id(value) for value in emit.values.values()}
    found = TABLE[operation.op_type](operation, emit)
    results: Sequence[Var] = found if isinstance(found, list | tuple) else [found]
    for operand, value in zip(operation.outputs, results, strict=False):
        if not operand.name:
            continue
        emit.values[operand.name] = value
        if id(value) not in known and value.op is not None:
            _rename(value, features.get(operand.name) or emit.unique(operand.name))
    if operation.op_type in ("QuantizeLinear", "DequantizeLinear"):
        codes = operation.outputs[0] if operation.op_type == "QuantizeLinear" else operation.inputs[0]
        assert codes is not None and codes.encoding is not None
        emit.hold(results[0].name, codes.encoding)


def _block(graph: FoldedGraph, given: Sequence[Var], outer: Emitter) -> list[Var]:
    """Each result is a variable that the block itself computes, and no two are the same."""
    emit = replace(outer, values=dict(zip((held.name for held in graph.inputs), given, strict=True)))
    for operation in graph.operations:
        _lower(operation, emit, {})
    taken, results = list(given), []
    for operand in graph.outputs:
        value = emit.value(operand)
        is_own = value.op is not None and value.op.op_type != "const" and all(value is not other for other in taken)
        results.append(value if is_own else emit("identity", x=value, name=emit.unique(operand.name)))
        taken.append(value)
    return results


def _is_constant(operation: Operation) -> bool:
    """Whether it dequantizes a constant."""
    return operation.op_type == "DequantizeLinear" and all(
        operand is not None and operand.constant is not None for operand in operation.inputs
    )


def _rename(value: Var, name: str) -> None:
    value.name = name
    if len(value.op.outputs) == 1:
        value.op.name = name


def _feature(operand: Operand, held: Binding, emit: Emitter) -> Var:
    """An output of the program: float32 or int32, under its feature name."""
    value = emit.value(operand)
    if value.name == held.name:
        return value
    if held.dtype == "float32" and emit.dtype == "float16":
        return emit("cast", x=value, dtype="fp32", name=held.name)
    return emit("identity", x=value, name=held.name)
