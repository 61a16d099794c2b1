"""The ONNX node cases: which of them a format can hold at its boundary, and each as a model on disk with its arrays.

Source: ``onnx.backend.test`` generates one small model for every form of every operator, with inputs and the outputs the specification's
own implementation gives. Nothing here knows how a case is converted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

FORMATS = ("tflite", "coreml")
# TFLite as TensorFlow Lite 2.14 knows it: the same boundary as today's, a runtime that not every machine can have.
OLD = "tflite@2.14"
# A case as it is written, and with every input but the first turned into an initializer (as a captured student has its weights).
AS_GIVEN, WEIGHTS = "given", "weights"

Arrays = dict[str, NDArray[Any]]

# At least this part of a format's eligible cases must pass, form by form; a case of one input has no second form and counts in both.
LEAST_PASSED = {"tflite": {WEIGHTS: 0.85, AS_GIVEN: 0.75}, "coreml": {WEIGHTS: 0.80, AS_GIVEN: 0.70}}

# What they compute is drawn at random, so that no expected output is the only right one.
RANDOM = {
    "Bernoulli": "draws its output",
    "Multinomial": "draws its output",
    "RandomNormal": "draws its output",
    "RandomNormalLike": "draws its output",
    "RandomUniform": "draws its output",
    "RandomUniformLike": "draws its output",
}
RANDOM_CASES = ("test_training_dropout", "test_bernoulli")

# The operators of convolutional classifiers, detectors and segmenters: what the converters promise. Of their cases, at most this part may
# be refused in every form; the rest must pass.
MAX_REFUSED = 0.05
LISTED = frozenset(
    """
    Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization LayerNormalization
    Relu Clip LeakyRelu PRelu Elu Sigmoid HardSigmoid HardSwish Tanh Softplus Mish Gelu Softmax
    Add Sub Mul Div Pow Sqrt Exp Log Abs Neg Max Min Equal Greater GreaterOrEqual Less LessOrEqual Where
    AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Concat Split Slice Pad Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile Resize DepthToSpace SpaceToDepth Gather Cast
    ArgMax TopK NonMaxSuppression QuantizeLinear DequantizeLinear
    """.split()  # noqa: SIM905 - a table, not a column
)

# int64 is int32 inside both formats; a case may only hold numbers that survive.
_INT32 = np.iinfo(np.int32)
_BOUNDARY = ("float32", "int32", "int64", "bool")
_COREML_MAX_RANK = 5


@dataclass(frozen=True)
class Case:
    """One node case.

    Attributes:
        operator: the operator under test, which the name alone may not tell in an expanded function.
        inputs, outputs: by value name, in the model's order.
        rtol, atol: onnx's own for this case.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    inputs: Arrays
    outputs: Arrays
    rtol: float
    atol: float

    @property
    def variants(self) -> tuple[str, ...]:
        """A case of one input has no second form."""
        return (AS_GIVEN, WEIGHTS) if len(self.inputs) > 1 else (AS_GIVEN,)


@dataclass(frozen=True)
class Survey:
    """All node cases of the installed onnx.

    Attributes:
        cases: those at least one format can hold, by name.
        total: how many onnx generates.
        ineligible: format -> case name -> why its boundary cannot hold it.
    """

    cases: dict[str, Case]
    total: int
    ineligible: dict[str, dict[str, str]]

    def eligible(self, format_name: str) -> list[str]:
        """The names of the cases a format can hold, sorted."""
        return sorted(set(self.cases) - set(self.ineligible[format_name.partition("@")[0]]))


def survey() -> Survey:
    """Generate every node case (7 CPU-seconds) and judge it at each format's boundary."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    ineligible: dict[str, dict[str, str]] = {name: {} for name in FORMATS}
    cases: dict[str, Case] = {}
    for held in found:
        reasons = {name: _why_not(held, name) for name in FORMATS}
        for name, reason in reasons.items():
            if reason:
                ineligible[name][held.name] = reason
        if not all(reasons.values()):
            cases[held.name] = _case(held)
    return Survey(cases, len(found), ineligible)


def write_case(case: Case, variant: str, folder: Path) -> Arrays:
    """Write ``model.onnx`` with the shapes of the case's own data; the arrays it is fed, by name."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    fed = dict(list(case.inputs.items())[: 1 if variant == WEIGHTS else None])
    weights = {name: array for name, array in case.inputs.items() if name not in fed}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    kept = [value for value in model.graph.input if value.name in fed]
    del model.graph.input[:]
    model.graph.input.extend(_pinned(value, fed[value.name]) for value in kept)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return fed


def _pinned(value: onnx.ValueInfoProto, array: NDArray[Any]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, array.shape)


def _case(held: Any) -> Case:
    inputs, outputs = _arrays(held)
    return Case(held.name, operator_of(held.name, held.model), held.model, inputs, outputs, held.rtol, held.atol)


def _arrays(held: Any) -> tuple[Arrays, Arrays]:
    """The first data set by name."""
    inputs, outputs = held.data_sets[0]
    graph = held.model.graph
    return _named(graph.input, inputs), _named(graph.output, outputs)


def _named(values: Iterable[onnx.ValueInfoProto], arrays: Iterable[Any]) -> Arrays:
    return {value.name: np.asarray(array) for value, array in zip(values, arrays, strict=True)}


def operator_of(name: str, model: onnx.ModelProto) -> str:
    """The operator a case is about. A case whose function was expanded into primitive nodes carries the operator in its name only."""
    if "_expanded" not in name:
        return str(model.graph.node[-1].op_type if len(model.graph.node) > 1 else model.graph.node[0].op_type)
    words = name.removeprefix("test_").split("_expanded")[0].split("_")
    joined = ["".join(words[:count]) for count in range(len(words), 0, -1)]
    known = {schema.name.lower(): schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    return next((known[word] for word in joined if word in known), words[0]) + " (expanded)"


def _why_not(held: Any, format_name: str) -> str:
    """Why the format's boundary cannot hold the case; "" when it can."""
    graph = held.model.graph
    drawn = next((RANDOM[node.op_type] for node in graph.node if node.op_type in RANDOM), "")
    if drawn or held.name.startswith(RANDOM_CASES):
        return "draws its output at random"
    values = (*graph.input, *graph.output)
    odd = next((value.type.WhichOneof("value") for value in values if value.type.WhichOneof("value") != "tensor_type"), None)
    if odd:
        return f"{odd.removesuffix('_type')} input or output"
    inputs, outputs = held.data_sets[0]
    if len(inputs) != len(graph.input) or len(outputs) != len(graph.output):
        return "its data does not cover its inputs and outputs"
    arrays = [np.asarray(array) for array in (*inputs, *outputs)]
    types = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in values]
    return next(_array_reasons(types, arrays, format_name), "")


def _array_reasons(types: list[Any], arrays: list[NDArray[Any]], format_name: str) -> Iterator[str]:
    for dtype, array in zip(types, arrays, strict=True):
        if str(dtype) not in _BOUNDARY:
            yield f"{'string' if str(dtype) == 'object' else dtype} input or output"
        elif array.dtype == np.int64 and array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
            yield "int64 numbers beyond int32"
    if format_name == "coreml":
        yield from _coreml_shape_reasons(arrays)


def _coreml_shape_reasons(arrays: list[NDArray[Any]]) -> Iterator[str]:
    """Core ML's multi-arrays have 1 to 5 dimensions of at least one element."""
    for array in arrays:
        if not 1 <= array.ndim <= _COREML_MAX_RANK:
            yield f"input or output of rank {array.ndim}"
        if 0 in array.shape:
            yield "input or output without elements"


def is_listed(operator: str) -> bool:
    """Whether cases of this operator (as ``operator_of`` names it) count for ``MAX_REFUSED``; an expanded function as its operator."""
    return operator.removesuffix(" (expanded)") in LISTED


def committed(folder: Path, format_name: str) -> list[str]:
    """The eligible list in the repository; it keeps a change of rules, or of onnx, from shrinking the suite unseen."""
    return (folder / f"eligible_{format_name}.txt").read_text(encoding="utf-8").split()


def count_reasons(reasons: Mapping[str, str]) -> list[tuple[str, int]]:
    """Reasons with how often each is given, most frequent first."""
    texts = list(reasons.values())
    return sorted({text: texts.count(text) for text in texts}.items(), key=lambda entry: (-entry[1], entry[0]))
