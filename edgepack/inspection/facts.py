"""What is said of a model file, as data."""

from __future__ import annotations

import msgspec

from edgepack.backends.artifact import Finding
from edgepack.errors import InputError


class InspectionError(InputError):
    """A file that cannot be read as what its name says."""


class Port(msgspec.Struct, frozen=True):
    """An input or output.

    Attributes:
        shape: a dimension that is not fixed is a string ("N", "?").
        layout: "NCHW", "NHWC" or "" where the file does not tell.
        note: what else the format says of it: an image with its colours, codes with their scale.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: str = ""
    note: str = ""


class OperatorCount(msgspec.Struct, frozen=True):
    """How often an operator occurs.

    Attributes:
        version: of a TFLite builtin; None where operators have no versions of their own.
        domain: of an ONNX operator outside the standard, "" otherwise; custom: whether a plain runtime does not have it.
    """

    name: str
    count: int
    version: int | None = None
    domain: str = ""
    custom: bool = False


class Weights(msgspec.Struct, frozen=True):
    """The constants of one stored type ("int8", "int4", "float16", "lut4": indices of 4 bits into a table): how many and how large."""

    dtype: str
    tensors: int
    elements: int
    bytes: int


class Tensor(msgspec.Struct, frozen=True):
    """One constant."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Quantization(msgspec.Struct, frozen=True):
    """How numbers are held as codes.

    Attributes:
        scheme: as edgepack would call it ("w8a8"); "mixed" or a phrase where the grammar has no name.
        weights, activations: tensors of codes.
        per_tensor, per_channel, blockwise: weights by what shares a scale.
        scales: smallest and largest scale, weights' and activations'; empty without codes.
        islands: groups of integer operators that only real ones connect; 1 is best.
        real_between: operators that turn codes to reals and back amid integer ones, with counts.
        suspicious: a line each.
    """

    scheme: str
    weights: int = 0
    activations: int = 0
    per_tensor: int = 0
    per_channel: int = 0
    blockwise: int = 0
    weight_scales: tuple[float, float] | None = None
    activation_scales: tuple[float, float] | None = None
    islands: int = 0
    real_between: dict[str, int] = {}
    suspicious: tuple[str, ...] = ()


class FileFacts(msgspec.Struct, frozen=True):
    """Everything about one file.

    Attributes:
        file: its name; format: "ONNX", "TFLite", "Core ML ML Program", "Core ML neuralNetwork".
        bytes: on disk, external data and packages counted whole.
        writer: who says to have written it; versions: what the format counts ("opset": "21"), requirements ("iOS": "17").
        macs: multiply-accumulates of convolutions and matrix products for one inference; symbolic sizes count as 1.
        not_counted: such operators whose sizes the file does not tell.
        metadata: by key; labels: of the classes, where the file names them.
        findings: of the linter of our backend for the format, and of this inspection.
    """

    file: str
    format: str
    bytes: int
    writer: str
    versions: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: tuple[OperatorCount, ...]
    weights: tuple[Weights, ...]
    largest: tuple[Tensor, ...]
    quantization: Quantization
    macs: int
    not_counted: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    labels: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
