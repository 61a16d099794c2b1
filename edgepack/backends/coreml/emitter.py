"""Building one MIL function: values by hub name, constants in the compute precision, weights as codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.table import BackendError
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import FoldedGraph, Operand

# A coremltools ``Var``; coremltools has no type stubs.
Var = Any
# Emits a graph for the variables of its inputs, and gives those of its outputs.
Block = Callable[[FoldedGraph, Sequence[Var], "Emitter"], list[Var]]

# Masks are written as -inf or finfo.min; anything within a factor of 2 of finfo.max means "minus infinity", not a number.
_MASK = float(np.finfo(np.float32).max) / 2


@dataclass(frozen=True)
class HeldEncoding:
    """Codes, scale and zero point that the package must hold under a MIL name; ``codes`` is None for activations."""

    name: str
    encoding: Encoding
    codes: NDArray[Any] | None


@dataclass
class Emitter:
    """Emits MIL operations into the function being built.

    Attributes:
        dtype: numpy name of the compute precision, "float32" or "float16".
        ios: the iOS release the package is for (17).
        values: hub value name -> MIL variable.
        encodings: what must be found in the package once it is read back.
        notes: facts for the report.
        block: emits a graph inside an operation, into the block being built, for the variables it is given.
    """

    dtype: str
    ios: int
    names: set[str] = field(default_factory=set)
    values: dict[str, Var] = field(default_factory=dict)
    encodings: list[HeldEncoding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    block: Block | None = None

    def __call__(self, operation: str, **parameters: Any) -> Var:
        """One MIL operation; parameters as coremltools' Builder takes them."""
        from coremltools.converters.mil.mil import Builder

        return getattr(Builder, operation)(**parameters)

    def in_float32(self) -> Emitter:
        """One that computes in float32 and knows no values yet."""
        return Emitter("float32", self.ios, self.names, {}, self.encodings, self.notes, self.block)

    def emit_block(self, graph: FoldedGraph, given: Sequence[Var]) -> list[Var]:
        """Emit a graph inside an operation; its results."""
        assert self.block is not None
        return self.block(graph, given, self)

    def number(self, value: float) -> Any:
        """A real scalar parameter in the compute precision."""
        return np.dtype(self.dtype).type(value)

    def value(self, operand: Operand) -> Var:
        """The variable of an operand: what was computed for it, or a constant made on first use."""
        if operand.constant is None:
            return self.values[operand.name]
        if operand.name not in self.values:
            self.values[operand.name] = self._constant(operand)
        return self.values[operand.name]

    def spread(self, value: Var, shape: tuple[int, ...]) -> Var:
        """A value repeated to a larger shape, as numpy broadcasts."""
        aligned = (1,) * (len(shape) - len(value.shape)) + tuple(value.shape)
        if aligned != tuple(value.shape):
            value = self("reshape", x=value, shape=list(aligned))
        repeats = [after // before for before, after in zip(aligned, shape, strict=True)]
        return self("tile", x=value, reps=repeats) if max(repeats, default=1) > 1 else value

    def as_integer(self, value: Var) -> Var:
        """Booleans as int32, which more operators take; other values as they are."""
        return self("cast", x=value, dtype="int32") if self.is_boolean(value) else value

    @staticmethod
    def is_boolean(value: Var) -> bool:
        """Whether a variable holds booleans."""
        from coremltools.converters.mil.mil import types

        return bool(value.dtype == types.bool)

    def transposed(self, operand: Operand) -> Var:
        """A constant matrix with its two dimensions swapped, as data: (K, N) becomes (N, K)."""
        encoding = operand.encoding
        axis = None if encoding is None or encoding.axis is None else 1 - encoding.axis % 2
        assert operand.constant is not None
        swapped = Operand(
            f"{operand.name}_transposed",
            operand.shape[::-1],
            operand.dtype,
            None if encoding is None else Encoding(encoding.scale, encoding.zero_point, encoding.dtype, axis),
            np.ascontiguousarray(operand.constant.T),
        )
        return self.value(swapped)

    def reals(self, array: NDArray[Any], what: str) -> NDArray[Any]:
        """Numbers in the compute precision.

        Raises:
            BackendError: NaN, or a number beyond the precision's range that is not a mask; ``what`` names it.
        """
        limit = float(np.finfo(self.dtype).max)
        wide = np.asarray(array, np.float64)
        beyond = np.abs(wide) > limit
        if np.isnan(wide).any() or (beyond & (np.abs(wide) < _MASK)).any():
            raise BackendError(
                f"coreml: constant '{what}' holds NaN or numbers beyond {self.dtype} (largest {np.abs(wide).max():g})",
                "rescale it in the student, or build scheme fp32",
            )
        if beyond.any():
            self.notes.append(f"mask '{what}' clamped to +-{limit:g}")
        return np.clip(wide, -limit, limit).astype(self.dtype)

    def scale(self, encoding: Encoding, what: str) -> NDArray[Any]:
        """The encoding's scale in the compute precision.

        Raises:
            BackendError: rounding would change it, so that the codes would mean something else here than in the hub.
        """
        rounded = encoding.scale.astype(self.dtype)
        if not np.array_equal(rounded.astype(np.float32), encoding.scale):
            raise BackendError(
                f"coreml: a scale of '{what}' is not representable in {self.dtype}",
                'quantize with the target\'s constraint scale_dtype = "float16"',
            )
        return rounded

    def hold(self, name: str, encoding: Encoding, codes: NDArray[Any] | None = None) -> None:
        """Demand that the package holds this encoding under the MIL name ``name``."""
        self.encodings.append(HeldEncoding(name, encoding, codes))

    def unique(self, hub_name: str) -> str:
        """A MIL name for a hub value: an identifier Core ML accepts that no other value has."""
        from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

        base = str(NameSanitizer(prefix="v_").sanitize_name(hub_name or "value"))
        name = base
        attempt = 0
        while name in self.names:
            attempt += 1
            name = f"{base}_{attempt}"
        self.names.add(name)
        return name

    def _constant(self, operand: Operand) -> Var:
        array = operand.constant
        assert array is not None
        if operand.encoding is not None and operand.encoding.dtype != "int32" and operand.rank > 0:
            return self._codes(operand, operand.encoding, array)
        # A tensor without axes is a scalar to MIL: the first is no bool where the second is one.
        return self("const", val=self._plain(operand)[()], name=self.unique(operand.name))

    def _plain(self, operand: Operand) -> NDArray[Any]:
        """Reals in the compute precision (an int32 bias is dequantized here, in float64), int64 as int32, booleans as they are."""
        array = operand.constant
        if operand.encoding is not None and array is not None:
            return self.reals(operand.encoding.dequantize(array, "float64"), operand.name)
        assert array is not None
        if array.dtype.kind == "f":
            return self.reals(array, operand.name)
        if array.dtype.kind == "b":
            return array
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise BackendError(f"coreml: integers of '{operand.name}' exceed int32", "use smaller integers in the student")
        return array.astype(np.int32)

    def _codes(self, operand: Operand, encoding: Encoding, codes: NDArray[Any]) -> Var:
        """A weight kept as codes: dequantized by Core ML when the model is loaded."""
        name, scale = self.unique(operand.name), self.scale(encoding, operand.name)
        self.hold(name, encoding, codes)
        axis = (encoding.axis or 0) % codes.ndim
        if self.ios < 18:
            zero_point = encoding.zero_point.astype(codes.dtype)
            return self("constexpr_affine_dequantize", quantized_data=codes, zero_point=zero_point, scale=scale, axis=axis, name=name)
        shape = [1] * codes.ndim
        shape[axis] = scale.size
        offset = encoding.zero_point.astype(codes.dtype).reshape(shape)
        return self("constexpr_blockwise_shift_scale", data=codes, scale=scale.reshape(shape), offset=offset, name=name)
