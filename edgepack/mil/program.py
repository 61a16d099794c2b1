"""A saved .mlpackage, read back from disk and run operation by operation.

Every result is rounded to the dtype the package declares for it: an fp16 operation computes and accumulates in float32 and is then
rounded to fp16, as Core ML's CPU and Neural Engine kernels do at least. Between operations fp16 values are held as float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.mil.block import VARIADIC, Step, Steps
from edgepack.mil.environment import coremltools
from edgepack.mil.errors import MilError
from edgepack.mil.flexibility import Flexibility, flexibility_of
from edgepack.mil.operation import SCOPE, Array, MilOperation, State, TensorType
from edgepack.mil.package import refuse_unsafe_package
from edgepack.mil.protobuf import drop_mistyped_epsilons
from edgepack.mil.rounding import to_half

# Metadata of a package: its states -> what an output is called that tells what they hold afterwards, as JSON.
STATE = "edgepack.state"


@dataclass(frozen=True)
class Program:
    """A loaded package.

    Attributes:
        inputs, outputs: name, dtype ("float32", "int32") and shape, in the package's order; a size may be None (any).
        states: the tensors it keeps from one run to the next.
        state_outputs: how what a state holds afterwards is called by who wrote the package (edgepack): state -> name.
        opset: the package's MIL opset ("CoreML7").
        body: its operations.
        flexible: the shapes it takes for inputs that may have several, by name.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    states: tuple[TensorType, ...]
    state_outputs: Mapping[str, str]
    opset: str
    body: Steps
    flexible: Mapping[str, Flexibility] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> Program:
        """Read ``path`` (an .mlpackage folder) and prepare every operation.

        Raises:
            MilError: not an ML Program package, or it holds an operation, or a form of one, that is not implemented.
        """
        import edgepack.mil.ops  # noqa: F401 - registers the implementations

        spec, function = _read(Path(path))
        variables = list(function.inputs.values())
        inputs, states = (tuple(_type(held) for held in variables if _is_state(held) is kept) for kept in (False, True))
        outputs = tuple(_type(variable) for variable in function.outputs)
        body = _block(function, [declared.name for declared in (*inputs, *states)])
        found = {feature.name: flexibility_of(feature.type) for feature in spec.description.input}
        flexible = {name: held for name, held in found.items() if held is not None}
        return cls(inputs, outputs, states, _state_outputs(spec) if states else {}, opset_name(function), body, flexible)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The prepared operations of the function itself, in execution order."""
        return self.body.steps

    def new_states(self) -> dict[str, State]:
        """The states as they are before the first run: zeros."""
        sizes = ((declared, [size or 0 for size in declared.shape]) for declared in self.states)
        return {declared.name: State(np.zeros(shape, _held_dtype(declared))) for declared, shape in sizes}

    def run(self, feed: Mapping[str, Array], states: Mapping[str, State] | None = None) -> dict[str, Array]:
        """Compute the outputs of one sample; arrays have the shapes and dtypes of ``inputs`` and ``outputs``.

        ``states``, from ``new_states``, are read and updated; without, the run starts with new ones.

        Raises:
            MilError: an input is missing, unknown, or has another kind of number or a shape that the package does not take.
        """
        kept = self.new_states() if states is None else states
        arguments = [*self._take(feed), *(kept[declared.name] for declared in self.states)]
        with np.errstate(all="ignore"):
            found = self.body.run(arguments, {})
        return {output.name: np.array(array, output.dtype) for output, array in zip(self.outputs, found, strict=True)}

    def _take(self, feed: Mapping[str, Array]) -> list[Array]:
        unknown = sorted(set(feed) - {declared.name for declared in self.inputs})
        if unknown:
            raise MilError(f"the package has no input '{unknown[0]}'", f"feed {[declared.name for declared in self.inputs]}")
        return [_checked(declared, self.flexible.get(declared.name), feed.get(declared.name)) for declared in self.inputs]


def read_function(path: Path) -> Any:
    """The "main" function of a saved package as a coremltools ``Function``, read from its protobuf and its weight file.

    Raises:
        MilError: ``path`` is not an .mlpackage with an ML Program.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Any, Any]:
    """The specification of a package, and its "main" function."""
    refuse_unsafe_package(path)
    ct = coremltools()
    from coremltools.converters.mil.frontend.milproto import load

    try:
        spec = ct.utils.load_spec(str(path))
        drop_mistyped_epsilons(spec.mlProgram)
        program = load.load(spec, spec.specificationVersion, str(path / "Data" / "com.apple.CoreML" / "weights"))
    except Exception as error:
        raise MilError(f"{path} cannot be read as an ML Program package ({error})", "write it again") from error
    if "main" not in program.functions:
        raise MilError(f"{path} has no function 'main' (it has {sorted(program.functions)})", "write it again")
    return spec, program.functions["main"]


def all_operations(block: Any) -> Iterator[Any]:
    """The operations of a coremltools ``Block`` or ``Function`` in order, after each those of its own blocks."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from all_operations(inner)


def _state_outputs(spec: Any) -> dict[str, str]:
    own = spec.description.metadata.userDefined
    return {str(state): str(result) for state, result in json.loads(own.get(STATE, "{}")).items()}


def _checked(declared: TensorType, flexible: Flexibility | None, array: Array | None) -> Array:
    shapes = declared.shape if flexible is None else flexible
    if array is None:
        raise MilError(f"input '{declared.name}' is missing", f"feed a {declared.dtype} array of shape {shapes}")
    given = np.asarray(array)
    fits = declared.allows(given.shape) and (flexible is None or flexible.allows(given.shape))
    if not fits or not np.can_cast(given.dtype, declared.dtype, "same_kind"):
        raise MilError(
            f"input '{declared.name}' is {given.dtype} {given.shape}, the package takes {declared.dtype} {shapes}",
            "convert the sample",
        )
    return to_half(given) if declared.dtype == "float16" else given.astype(declared.dtype)


# "CoreML5" came with iOS 15 (coremltools: AvailableTarget, _OPSET).
_OPSET_OF_IOS_15 = 5


def opset_name(function: Any) -> str:
    """The opset a loaded function is written in, as the package spells it ("CoreML7" for iOS 17)."""
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget

    return f"CoreML{_OPSET_OF_IOS_15 + int(function.opset_version) - int(AvailableTarget.iOS15)}"


def _block(held: Any, inputs: Sequence[str]) -> Steps:
    """A coremltools ``Block`` or ``Function``, prepared."""
    operations = [_operation(inner) for inner in held.operations if not _is_constant(inner)]
    return Steps.of(inputs, [variable.name for variable in held.outputs], _loose_constants(held), operations)


def _loose_constants(block: Any) -> dict[str, Array]:
    """Constants that no kernel holds: members of a variadic parameter, and the block's own outputs."""
    joined = [variable for held in block.operations for name in VARIADIC for variable in held.inputs.get(name) or ()]
    loose = [variable for variable in [*joined, *block.outputs] if variable.op is not None and _is_constant(variable.op)]
    return {variable.name: np.asarray(constant_value(variable)) for variable in loose}


def _is_constant(held: Any) -> bool:
    return str(held.op_type) == "const" or str(held.op_type).startswith("constexpr_")


def _operation(held: Any) -> MilOperation:
    """A coremltools operation as plain data; outputs of const and constexpr operations become constants."""
    constants: dict[str, Any] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    for parameter, bound in held.inputs.items():
        # A leading underscore marks what only coremltools' builder reads: cond(_true_fn=...).
        if bound is None or parameter.startswith("_"):
            continue
        variables = tuple(bound) if isinstance(bound, tuple | list) else (bound,)
        if parameter not in VARIADIC and all(variable.op is not None and _is_constant(variable.op) for variable in variables):
            values = [constant_value(variable) for variable in variables]
            constants[parameter] = np.asarray(values) if isinstance(bound, tuple | list) else values[0]
        else:
            inputs[parameter] = tuple(variable.name for variable in variables)
    blocks = tuple(_block(block, [variable.name for variable in block.inputs]) for block in held.blocks)
    if blocks:
        inputs[SCOPE] = tuple(dict.fromkeys(name for block in blocks for name in block.captured))
    return MilOperation(held.op_type, held.name, constants, inputs, tuple(_type(output) for output in held.outputs), blocks)


def constant_value(variable: Any) -> Any:
    """The numbers of a const or constexpr output (fp16 widened to float32), or its string."""
    held = variable.op
    value = _materialized(variable) if held.op_type.startswith("constexpr_") else variable.val
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _materialized(variable: Any) -> Any:
    """What a constexpr operation unpacks to; a sparse one has two outputs, mask and values."""
    try:
        values = _unpacked(variable.op)
    except Exception as error:
        hint = "write its weights in another form"
        raise MilError(f"MIL operation {variable.op.op_type} '{variable.op.name}' cannot be unpacked ({error})", hint) from error
    return values[variable.op.outputs.index(variable)] if len(variable.op.outputs) > 1 else values


# The parameters of an iOS 18 constexpr operation that its ``decompress`` takes, in order.
_PACKED = {
    "constexpr_blockwise_shift_scale": ("data", "scale", "offset"),
    "constexpr_lut_to_dense": ("indices", "lut", "vector_axis"),
    "constexpr_lut_to_sparse": ("indices_mask", "indices_nonzero_data", "lut", "vector_axis"),
    "constexpr_sparse_blockwise_shift_scale": ("data_mask", "nonzero_data", "scale", "offset"),
    "constexpr_sparse_to_dense": ("nonzero_data", "mask"),
}


def _unpacked(held: Any) -> Any:
    """All outputs of a constexpr operation; coremltools' own inference does not see through every chain of them."""
    bound = [held.inputs.get(name) for name in _PACKED.get(held.op_type, ())]
    if not any(variable is not None and variable.op.op_type.startswith("constexpr_") for variable in bound):
        return held.materialized_val_inference()
    return held.decompress(*(None if variable is None else _packed_value(variable) for variable in bound))


def _packed_value(variable: Any) -> Any:
    return _materialized(variable) if variable.op.op_type.startswith("constexpr_") else variable.val


def _is_state(variable: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return bool(types.is_state(variable.sym_type))


def _type(variable: Any) -> TensorType:
    """Name, numpy dtype and shape of a coremltools variable; a symbolic size becomes None, and a list the tensor of its elements."""
    from coremltools.converters.mil.mil import types

    held, is_list = variable.sym_type, types.is_list(variable.sym_type)
    if is_list:
        held = variable.elem_type
    if types.is_state(held):
        held = held.wrapped_type()
    if types.is_dict(held):
        raise MilError(f"value '{variable.name}' is a dictionary, as of a classifier", "convert it without a classifier's configuration")
    is_tensor = types.is_tensor(held)
    dtype = str(np.dtype(types.nptype_from_builtin(held.get_primitive() if is_tensor else held)))
    sizes = held.get_shape() if is_tensor else ()
    shape = tuple(int(size) if isinstance(size, int | np.integer) else None for size in sizes)
    return TensorType(variable.name, dtype, (None, *shape) if is_list else shape)


def _held_dtype(declared: TensorType) -> str:
    """The dtype a value has between operations."""
    return "float32" if declared.dtype == "float16" else declared.dtype
