"""What coremltools' own loader rejects of the packages that coremltools writes, set right in the protobuf before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_NORMALIZATIONS = ("batch_norm", "instance_norm", "layer_norm")
# Their documented default (iOS15/normalization.py), as fp32.
_DEFAULT_EPSILON = np.float32(1e-5)
_STATISTICS = ("mean", "gamma", "beta")


def drop_mistyped_epsilons(program: Any) -> None:
    """Leave out every default epsilon that is fp32 beside fp16 statistics: coremltools writes it, and then rejects the two types.

    Absent means the same: the loader fills in the default. ``program`` is an ``mlProgram`` message, changed in place.
    """
    from coremltools.proto import MIL_pb2

    for operation, constants in _normalizations(program):
        epsilon = constants.get(_bound(operation, "epsilon"))
        statistics = [constants[name] for name in (_bound(operation, held) for held in _STATISTICS) if name in constants]
        halves = [held for held in statistics if held.type.tensorType.dataType == MIL_pb2.DataType.FLOAT16]
        if halves and epsilon is not None and list(epsilon.immediateValue.tensor.floats.values) == [_DEFAULT_EPSILON]:
            del operation.inputs["epsilon"]


def _bound(operation: Any, parameter: str) -> str:
    """The name of the value bound to a parameter; empty when there is none."""
    return str(operation.inputs[parameter].arguments[0].name) if parameter in operation.inputs else ""


def _normalizations(program: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every normalization, and the constants of its block by name."""
    for function in program.functions.values():
        for block in function.block_specializations.values():
            constants = {held.outputs[0].name: held.attributes["val"] for held in block.operations if held.type == "const"}
            yield from ((held, constants) for held in block.operations if held.type in _NORMALIZATIONS)
