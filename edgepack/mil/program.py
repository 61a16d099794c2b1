"""A saved .mlpackage, read back from disk and run operation by operation.

Every result is rounded to the dtype the package declares for it: an fp16 operation computes and accumulates in float32 and is then
rounded to fp16, as Core ML's CPU and Neural Engine kernels do at least. Between operations fp16 values are held as float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.mil.environment import coremltools
from edgepack.mil.errors import MilError
from edgepack.mil.operation import Array, Kernel, MilOperation, TensorType, kernel_of, selects
from edgepack.mil.package import refuse_unsafe_package
from edgepack.mil.rounding import to_half


@dataclass(frozen=True)
class Step:
    """One prepared operation, and the values nobody reads after it."""

    operation: MilOperation
    kernel: Kernel
    finished: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A loaded package.

    Attributes:
        inputs, outputs: name, dtype ("float32", "int32") and shape, in the package's order; a size may be None (any).
        opset: the package's MIL opset ("CoreML7").
        constants: constants that are joined to run-time values or given as they are, by name.
        steps: in execution order.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    opset: str
    constants: Mapping[str, Array]
    steps: tuple[Step, ...]

    @classmethod
    def load(cls, path: Path | str) -> Program:
        """Read ``path`` (an .mlpackage folder) and prepare every operation.

        Raises:
            MilError: not an ML Program package, or it holds an operation, or a form of one, that is not implemented.
        """
        import edgepack.mil.ops  # noqa: F401 - registers the implementations

        function = read_function(Path(path))
        outputs = tuple(_type(variable) for variable in function.outputs)
        operations = [_operation(held) for held in function.operations if not _is_constant(held)]
        inputs = tuple(_type(variable) for variable in function.inputs.values())
        steps = _steps(operations, [output.name for output in outputs])
        return cls(inputs, outputs, opset_name(function), _loose_constants(function), tuple(steps))

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs of one sample; arrays have the shapes and dtypes of ``inputs`` and ``outputs``.

        Raises:
            MilError: an input is missing, unknown or has another shape or kind of number.
        """
        values = {**self.constants, **self._take(feed)}
        with np.errstate(all="ignore"):
            for step in self.steps:
                values.update(_compute(step, values))
                for name in step.finished:
                    del values[name]
        return {output.name: np.array(values[output.name], output.dtype) for output in self.outputs}

    def _take(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        unknown = sorted(set(feed) - {declared.name for declared in self.inputs})
        if unknown:
            raise MilError(f"the package has no input '{unknown[0]}'", f"feed {[declared.name for declared in self.inputs]}")
        return {declared.name: _checked(declared, feed.get(declared.name)) for declared in self.inputs}


def read_function(path: Path) -> Any:
    """The "main" function of a saved package as a coremltools ``Function``, read from its protobuf and its weight file.

    Raises:
        MilError: ``path`` is not an .mlpackage with an ML Program.
    """
    refuse_unsafe_package(path)
    ct = coremltools()
    from coremltools.converters.mil.frontend.milproto import load

    try:
        spec = ct.utils.load_spec(str(path))
        program = load.load(spec, spec.specificationVersion, str(path / "Data" / "com.apple.CoreML" / "weights"))
    except Exception as error:
        raise MilError(f"{path} cannot be read as an ML Program package ({error})", "write it again") from error
    if "main" not in program.functions:
        raise MilError(f"{path} has no function 'main' (it has {sorted(program.functions)})", "write it again")
    return program.functions["main"]


def _steps(operations: Sequence[MilOperation], results: Sequence[str]) -> Iterator[Step]:
    last = {name: index for index, operation in enumerate(operations) for names in operation.inputs.values() for name in names}
    for index, operation in enumerate(operations):
        read = {name for names in operation.inputs.values() for name in names}
        unread = {output.name for output in operation.outputs if output.name not in last}
        finished = {name for name in read if last[name] == index} | unread
        yield Step(operation, kernel_of(operation), tuple(sorted(finished - set(results))))


def _compute(step: Step, values: Mapping[str, Array]) -> dict[str, Array]:
    operation = step.operation
    try:
        found = step.kernel(**{name: _argument(name, read, values) for name, read in operation.inputs.items()})
    except MilError:
        raise
    except Exception as error:
        raise operation.fault(f"broke off: {error}") from error
    arrays = [found] if isinstance(found, np.ndarray | np.generic) else list(found)
    return {declared.name: _settle(operation, declared, array) for declared, array in zip(operation.outputs, arrays, strict=True)}


# MIL's one variadic parameter that takes tensors: concat(values=(a, b)) and stack(values=(a, b)).
_VARIADIC = "values"


def _argument(parameter: str, read: tuple[str, ...], values: Mapping[str, Array]) -> Any:
    return [values[name] for name in read] if parameter == _VARIADIC else values[read[0]]


def _settle(operation: MilOperation, declared: TensorType, array: Array) -> Array:
    """Round a result to its declared dtype; a shape other than the declared one means the kernel is wrong."""
    if not declared.allows(array.shape):
        raise operation.fault(f"gave shape {array.shape} where the package declares {declared.shape}")
    if declared.dtype == "float16":
        return array if selects(operation) else to_half(np.asarray(array))
    return np.asarray(array).astype(declared.dtype, copy=False)


def _checked(declared: TensorType, array: Array | None) -> Array:
    if array is None:
        raise MilError(f"input '{declared.name}' is missing", f"feed a {declared.dtype} array of shape {declared.shape}")
    given = np.asarray(array)
    if not declared.allows(given.shape) or not np.can_cast(given.dtype, declared.dtype, "same_kind"):
        raise MilError(
            f"input '{declared.name}' is {given.dtype} {given.shape}, the package takes {declared.dtype} {declared.shape}",
            "convert the sample",
        )
    return to_half(given) if declared.dtype == "float16" else given.astype(declared.dtype)


# "CoreML5" came with iOS 15 (coremltools: AvailableTarget, _OPSET).
_OPSET_OF_IOS_15 = 5


def opset_name(function: Any) -> str:
    """The opset a loaded function is written in, as the package spells it ("CoreML7" for iOS 17)."""
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget

    return f"CoreML{_OPSET_OF_IOS_15 + int(function.opset_version) - int(AvailableTarget.iOS15)}"


def _loose_constants(function: Any) -> dict[str, Array]:
    """Constants that no kernel holds: members of a variadic parameter, and the function's own outputs."""
    joined = [variable for held in function.operations for variable in held.inputs.get(_VARIADIC) or ()]
    loose = [variable for variable in [*joined, *function.outputs] if variable.op is not None and _is_constant(variable.op)]
    return {variable.name: np.asarray(constant_value(variable)) for variable in loose}


def _is_constant(held: Any) -> bool:
    return str(held.op_type) == "const" or str(held.op_type).startswith("constexpr_")


def _operation(held: Any) -> MilOperation:
    """A coremltools operation as plain data; outputs of const and constexpr operations become constants."""
    if held.blocks:
        raise MilError(f"MIL operation {held.op_type} '{held.name}' has nested blocks", "write the model without control flow")
    constants: dict[str, Any] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    for parameter, bound in held.inputs.items():
        if bound is None:
            continue
        variables = tuple(bound) if isinstance(bound, tuple | list) else (bound,)
        if parameter != _VARIADIC and variables[0].op is not None and _is_constant(variables[0].op):
            constants[parameter] = constant_value(variables[0])
        else:
            inputs[parameter] = tuple(variable.name for variable in variables)
    return MilOperation(held.op_type, held.name, constants, inputs, tuple(_type(output) for output in held.outputs))


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
        values = variable.op.materialized_val_inference()
    except Exception as error:
        hint = "write its weights in another form"
        raise MilError(f"MIL operation {variable.op.op_type} '{variable.op.name}' cannot be unpacked ({error})", hint) from error
    return values[variable.op.outputs.index(variable)] if len(variable.op.outputs) > 1 else values


def _type(variable: Any) -> TensorType:
    """Name, numpy dtype and shape of a coremltools variable; a symbolic size becomes None."""
    from coremltools.converters.mil.mil import types

    dtype = str(np.dtype(types.nptype_from_builtin(variable.dtype)))
    return TensorType(variable.name, dtype, tuple(int(size) if isinstance(size, int | np.integer) else None for size in variable.shape))
