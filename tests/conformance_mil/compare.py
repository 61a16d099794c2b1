"""Running one converted model on the interpreter and judging what it gives against Apple's expected values."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepack.mil.errors import KernelError, MilError
from edgepack.mil.operation import State
from edgepack.mil.program import Program

from .outcomes import Kind

Array = NDArray[Any]

# Rounding to fp16 (11 significant bits, to nearest) moves a number by at most this part of itself.
HALF_UNIT = 2.0**-11


@dataclass(frozen=True)
class Comparison:
    """How one prediction compares with Apple's expected values."""

    kind: Literal["pass", "refused", "wrong", "no_values"]
    reason: str = ""
    operators: tuple[str, ...] = ()


# The reason of a comparison that is left to the test; how a refusal for the operation itself, and a demanded error, are told.
PREDICTED = "compared by the test itself"
_UNKNOWN = "is not implemented"
_NO_ERROR = "Failed: DID NOT RAISE"


def judge_failure(crash: str, held: Sequence[Comparison]) -> tuple[Kind, str]:
    """What a test's failure beside its comparisons means; ``held`` are those, the worst first, none of them wrong.

    A test may demand that Core ML breaks off or gives other values than the expected, for an index outside for instance: a refusal is
    right then, and a value is not. An assertion on predicted values is a comparison. Everything else is the harness.
    """
    refused = bool(held) and held[0].kind == "refused"
    if refused and (not crash.startswith(_NO_ERROR) or _UNKNOWN in held[0].reason):
        return "refused", held[0].reason
    if refused:
        return "no_values", "the test demands an error, and the interpreter refuses"
    if held and crash.startswith(_NO_ERROR):
        return "wrong", f"{crash}: the interpreter gives values where the test demands an error"
    if held and held[0].reason == PREDICTED and crash.lower().startswith("assert"):
        return "wrong", crash
    return "harness", crash


@dataclass(frozen=True)
class Tolerance:
    """Apple's absolute and relative tolerance for fp32, and how many times values are rounded to fp16 on the way (0: never).

    ``summed``: the magnitude of what is summed within an operation, where the output does not show it.
    """

    absolute: float
    relative: float
    roundings: int = 0
    summed: float = 0.0

    def of(self, want: Array) -> Array:
        """The largest difference allowed for each element.

        Apple allows 0.5 + 5 % for fp16, which would pass most mistakes. Here every rounding on the way (``roundings_of``) adds half a
        unit in the last place of the largest expected magnitude: what is summed or normalised together is of that magnitude.
        """
        finite = np.abs(want[np.isfinite(want)])
        largest = max(float(finite.max()) if finite.size else 0.0, self.summed)
        return np.asarray(self.absolute + self.relative * np.abs(want) + self.roundings * HALF_UNIT * largest)


def operators_of(model: Any) -> tuple[str, ...]:
    """The MIL operations of a converted model, read from its protobuf, without plain constants."""
    return tuple(sorted({str(operation.type) for operation in _operations(model)} - {"const"}))


def roundings_of(model: Any) -> int:
    """How many values of a package are rounded to fp16: those its protobuf declares so, inputs and constants too, and Apple's expectation.

    The types of the package decide, not the precision the test was asked for: a test "in fp32" may feed and compute fp16.
    """
    from coremltools import proto

    half = proto.MIL_pb2.DataType.FLOAT16
    counts = [_steps(operation) for operation in _operations(model) for held in operation.outputs if held.type.tensorType.dataType == half]
    inputs = [held.type.tensorType.dataType for function in model.get_spec().mlProgram.functions.values() for held in function.inputs]
    counts += [1] * inputs.count(half)
    return sum(counts) + 1 if counts else 0


# A recurrent layer rounds its state at every step. Apple's tests have at most so many.
_RECURRENT, _MOST_STEPS = ("lstm", "gru", "rnn"), 32


def _steps(operation: Any) -> int:
    return _MOST_STEPS if operation.type in _RECURRENT else 1


def _operations(model: Any) -> list[Any]:
    functions = model.get_spec().mlProgram.functions.values()
    blocks = [block for function in functions for block in function.block_specializations.values()]
    return [operation for block in blocks for operation in block.operations]


# Values in Apple's tests that cannot be what Apple's own formula gives, by operation: crop_resize at (1.5, 0.9) of 1 + 4 h + w is
# 7.9, written as the first digits of 7.8999996. Apple runs these cases with its tolerance for fp16 only, where it does not show.
MISPRINTS = {"crop_resize": {7.899: 7.9}}


def compare(
    model: Any,
    feed: Mapping[str, Any],
    expected: Mapping[str, Any] | None,
    absolute: float = 1e-4,
    relative: float = 1e-5,
    states: dict[str, State] | None = None,
) -> Comparison:
    """Save ``model``, read it back, run it on ``feed`` and compare every output with ``expected``.

    ``states`` are what earlier predictions of the model left; empty before the first.
    """
    operators = operators_of(model)
    try:
        found = interpret(model, feed, states)
    except KernelError as error:
        return Comparison("wrong", error.cause, operators)
    except MilError as error:
        return Comparison("refused", _without_names(error.cause), operators)
    except Exception as error:
        return Comparison("wrong", f"the interpreter raised {type(error).__name__}: {error}", operators)
    if expected is None:
        return Comparison("no_values", "the test expects no values", operators)
    tolerance = Tolerance(absolute, relative, roundings_of(model), _summed(feed, operators))
    wanted = {name: _corrected(want, operators) for name, want in expected.items()}
    reasons = [reason for name, want in wanted.items() if (reason := _difference(name, found, want, tolerance))]
    return Comparison("wrong" if reasons else "pass", "; ".join(reasons), operators)


# They squash the sums of their inputs' products to [-1, 1]; torch draws the weights, which Apple's tests take, below 1 in magnitude.
_SQUASHING = frozenset({"gru", "lstm", "rnn"})


def _summed(feed: Mapping[str, Any], operators: Sequence[str]) -> float:
    """The largest product that a recurrent operation sums: at most its largest input; 0 for other operations."""
    if not _SQUASHING.intersection(operators):
        return 0.0
    return max((float(np.abs(np.asarray(sample)).max()) for sample in feed.values() if np.size(sample)), default=0.0)


def _corrected(want: Any, operators: Sequence[str]) -> Array:
    """Apple's expected values with those of ``MISPRINTS`` put right."""
    array = np.array(want)
    for printed, meant in ((printed, meant) for name in operators for printed, meant in MISPRINTS.get(name, {}).items()):
        array[array == array.dtype.type(printed)] = meant
    return array


def interpret(model: Any, feed: Mapping[str, Any], states: dict[str, State] | None = None) -> dict[str, Array]:
    """The outputs of a converted model, saved and read back; ``states`` are updated, and filled in when empty."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.mlpackage"
        model.save(str(path))
        program = Program.load(path)
    if states is not None and not states:
        states.update(program.new_states())
    samples = {declared.name: np.asarray(feed[declared.name]).astype(declared.dtype) for declared in program.inputs}
    ranks = {declared.name: declared.rank for declared in program.inputs}
    # Core ML has no features without dimensions: a scalar is fed as one element.
    shaped = {name: sample.reshape((1,) * ranks[name]) if sample.ndim == 0 else sample for name, sample in samples.items()}
    return program.run(shaped, states)


def _difference(name: str, found: Mapping[str, Array], want: Any, tolerance: Tolerance) -> str:
    """Why an output is not what Apple expects; empty when it is."""
    given, wanted = found[_package_name(name)].astype(np.float64), np.asarray(want, np.float64)
    if given.shape != wanted.shape and (wanted.shape, given.shape) != ((), (1,)):
        return f"{name} has shape {given.shape}, Apple expects {wanted.shape}"
    wanted = wanted.reshape(given.shape)
    with np.errstate(invalid="ignore"):
        close = (np.abs(given - wanted) <= tolerance.of(wanted)) | (given == wanted) | (np.isnan(given) & np.isnan(wanted))
    if close.all():
        return ""
    worst = np.unravel_index(int(np.argmax(np.where(close, -1.0, np.nan_to_num(np.abs(given - wanted), nan=np.inf)))), close.shape)
    return f"{name}: {int((~close).sum())} of {close.size} elements differ; {given[worst]:g}, Apple expects {wanted[worst]:g}"


def _package_name(name: str) -> str:
    """A variable's name as the converter writes it into the package."""
    from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

    return str(NameSanitizer._replace_invalid_char_with_underscore(name))


def _without_names(cause: str) -> str:
    """A refusal without the names of this package's values, so that equal reasons can be counted."""
    parts = cause.split("'")
    if "cannot be read as an ML Program" in cause:
        return f"the package{cause.partition('.mlpackage')[2]}"
    return "".join(parts[:1] + parts[2:]).replace("  ", " ") if len(parts) > 2 else cause
