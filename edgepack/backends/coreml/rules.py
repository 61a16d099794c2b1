"""What Core ML refuses in a package, looked for in the package on disk.

Independent of the writer and of the interpreter: it knows only Core ML's rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.backends.artifact import Finding
from edgepack.backends.coreml.images import CHANNELS, image_of
from edgepack.backends.coreml.operations import MAX_RANK
from edgepack.mil.environment import coremltools
from edgepack.mil.errors import MilError
from edgepack.mil.program import all_operations, opset_name, read_function

# The types of an input or output multi-array (FeatureTypes.proto, ArrayFeatureType); double is read but slow and not written by us.
_FEATURE_TYPES = ("FLOAT32", "FLOAT16", "INT32")
# Integer tensors of 8 bits came with iOS 17, fp16 features with iOS 16 (coremltools adjust_io_to_supported_types.py).
_CODES_RELEASE = 7
_FP16_FEATURE_RELEASE = 6


def lint(artifact: Path) -> list[Finding]:
    """Findings in an .mlpackage, in program order; an empty list means Core ML's known rules hold."""
    try:
        function = read_function(artifact)
    except MilError as error:
        return [Finding("error", artifact.name, error.cause)]
    return [*_features(artifact, function), *_values(function)]


def _error(where: str, message: str) -> Finding:
    return Finding("error", where, message)


def _features(artifact: Path, function: Any) -> Iterator[Finding]:
    description = coremltools().utils.load_spec(str(artifact)).description
    release = _release(opset_name(function))
    yield from _states(description)
    for feature in (*description.input, *description.output):
        if feature.type.WhichOneof("Type") == "imageType":
            yield from _image(feature, function.inputs.get(feature.name))
            continue
        if feature.type.WhichOneof("Type") != "multiArrayType":
            yield _error(feature.name, "is neither a multi-array nor an image")
            continue
        array = feature.type.multiArrayType
        name = array.ArrayDataType.Name(array.dataType)
        if name not in _FEATURE_TYPES or (name == "FLOAT16" and release < _FP16_FEATURE_RELEASE):
            yield _error(feature.name, f"input or output of type {name} is not accepted by this package's system version")
    yield from _shapes_taken(description, function)


def _shapes_taken(description: Any, function: Any) -> Iterator[Finding]:
    """The shapes of multi-arrays, and whether the program is for all that the description allows."""
    inputs = [feature for feature in description.input if feature.type.WhichOneof("Type") == "multiArrayType"]
    kinds = {feature.type.multiArrayType.WhichOneof("ShapeFlexibility") for feature in inputs} - {None}
    for feature in inputs:
        yield from _input_shape(feature, function.inputs.get(feature.name))
    if len(kinds) > 1:
        yield _error("inputs", "one takes a range of sizes and another a list of shapes, which Core ML does not take together")
    results = {variable.name: variable for variable in function.outputs}
    for feature in description.output:
        array = feature.type.multiArrayType
        is_open = feature.name in results and _symbolic(results[feature.name])
        if not array.shape and not is_open and feature.type.WhichOneof("Type") == "multiArrayType":
            yield _error(feature.name, "input or output without dimensions")


def _states(description: Any) -> Iterator[Finding]:
    """Core ML keeps multi-arrays of float16 and of a known shape (coremltools backend/mil/load.py)."""
    for feature in description.state:
        array = feature.type.stateType.arrayType
        name = array.ArrayDataType.Name(array.dataType)
        if name != "FLOAT16" or not array.shape:
            yield _error(feature.name, f"state of type {name}, {len(array.shape)} dimensions: Core ML keeps FLOAT16 of one or more")


def _input_shape(feature: Any, variable: Any) -> Iterator[Finding]:
    """The default shape lies in the ranges, which ML Programs need bounded, and a dimension of the program is open where its range is."""
    array = feature.type.multiArrayType
    if not array.shape:
        yield _error(feature.name, "input or output without dimensions")
    spans = _spans(array)
    if len(spans) != len(array.shape) or (variable is not None and len(spans) != len(variable.shape)):
        yield _error(feature.name, f"takes sizes for {len(spans)} dimensions, its default has {len(array.shape)}")
        return
    for axis, ((low, high), default) in enumerate(zip(spans, array.shape, strict=True)):
        if not 1 <= low <= high:
            yield _error(feature.name, f"takes sizes {low} to {high} along axis {axis}")
        elif not low <= default <= high:
            yield _error(feature.name, f"has a default of {default} along axis {axis}, outside {low} to {high}")
        elif variable is not None and not _is_open(variable.shape[axis]) and not low == high == variable.shape[axis]:
            yield _error(feature.name, f"takes sizes {low} to {high} along axis {axis}, the program {variable.shape[axis]}")


def _spans(array: Any) -> list[tuple[int, int]]:
    """The smallest and largest size of every dimension."""
    match array.WhichOneof("ShapeFlexibility"):
        case "shapeRange":
            return [(held.lowerBound, held.upperBound) for held in array.shapeRange.sizeRanges]
        case "enumeratedShapes":
            columns = zip(*(held.shape for held in array.enumeratedShapes.shapes), strict=False)
            return [(min(column), max(column)) for column in columns]
    return [(size, size) for size in array.shape]


def _is_open(size: Any) -> bool:
    return not isinstance(size, int | np.integer)


def _symbolic(variable: Any) -> bool:
    return any(map(_is_open, getattr(variable, "shape", None) or ()))


def _image(feature: Any, variable: Any) -> Iterator[Finding]:
    """Core ML gives the program an image as a real tensor (1, channels, height, width)."""
    from coremltools.converters.mil.mil import types

    height, width, colours = image_of(feature.type) or (0, 0, "")
    if variable is None:
        yield _error(feature.name, "is an image but no input of the program")
    elif tuple(variable.shape) != (1, CHANNELS.get(colours), height, width) or variable.dtype not in (types.fp32, types.fp16):
        yield _error(feature.name, f"is an image in {colours} of {height} x {width}, the program takes {tuple(variable.shape)}")


def _release(opset: str) -> int:
    return int(opset.removeprefix("CoreML"))


def _values(function: Any) -> Iterator[Finding]:
    is_open = any(map(_symbolic, function.inputs.values()))
    for variable in function.inputs.values():
        yield from _shape(variable, is_open)
    for operation in all_operations(function):
        yield from _availability(operation, function)
        yield from _places(operation, function)
        for output in operation.outputs:
            yield from () if _feeds_only_constexpr(output) else _shape(output, is_open)
            yield from _numbers(operation, output)


def _feeds_only_constexpr(output: Any) -> bool:
    """What is unpacked when the model is loaded may have any rank (coremltools program.py, _check_invalid_tensor_rank)."""
    return bool(output.child_ops) and all(str(child.op_type).startswith("constexpr_") for child in output.child_ops)


def _shape(variable: Any, is_open: bool) -> Iterator[Finding]:
    """``is_open``: whether the program takes inputs of several shapes."""
    sizes = tuple(variable.shape) if getattr(variable, "shape", None) is not None else ()
    if _symbolic(variable) and not is_open:
        yield _error(variable.name, f"symbolic shape {sizes}")
    elif len(sizes) > MAX_RANK:
        yield _error(variable.name, f"rank {len(sizes)} is above {MAX_RANK}")
    elif 0 in sizes:
        yield _error(variable.name, f"shape {sizes} has no elements")


def _availability(operation: Any, function: Any) -> Iterator[Finding]:
    """An operator must be of an opset no newer than the package's, and 8-bit values need iOS 17."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    # What is write_state and read_state in the package has one name when it is read.
    written = "read_state" if operation.op_type == "coreml_update_state" else operation.op_type
    versions = SSAOpRegistry.core_ops.get(written, {})
    release = _release(opset_name(function))
    if not any(version <= function.opset_version for version in versions):
        yield _error(operation.name, f"operator {operation.op_type} is not in opset {opset_name(function)}")
    if release < _CODES_RELEASE and any(_is_code(output) for output in operation.outputs) and operation.op_type != "const":
        yield _error(operation.name, f"8-bit values are not in opset {opset_name(function)}")


# Where pad mirrors and repeats (coremltools iOS15/tensor_operation.py, and Core ML's own message).
_MIRRORED = 2


def _places(operation: Any, function: Any) -> Iterator[Finding]:
    """Constant indices and padding that reach where Core ML leaves open what is there."""
    if operation.op_type == "gather" and operation.indices.val is not None:
        held = operation.x.shape[operation.axis.val]
        # How many there are is known when the model runs: what is written from the sizes counts from zero.
        size = np.iinfo(np.int32).max if _is_open(held) else held
        lowest = 0 if _release(opset_name(function)) >= _CODES_RELEASE else -size
        indices = np.asarray(operation.indices.val)
        if indices.min() < lowest or indices.max() >= size:
            yield _error(operation.name, f"gathers indices {indices.min()} to {indices.max()} from {size} elements")
    if operation.op_type == "pad" and operation.mode.val != "constant" and operation.pad.val is not None:
        widths = np.asarray(operation.pad.val).reshape(-1, 2)
        sizes = [np.iinfo(np.int32).max if _is_open(size) else size for size in operation.x.shape[-len(widths) :]]
        limits = np.asarray(sizes) - (operation.mode.val == "reflect")
        if widths[:-_MIRRORED].any() or (widths > limits[:, None]).any():
            yield _error(operation.name, f"pads {operation.mode.val} by {widths.tolist()} around {tuple(operation.x.shape)}")


def _is_code(variable: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return variable.dtype in (types.int8, types.uint8)


def _numbers(operation: Any, output: Any) -> Iterator[Finding]:
    """NaN and infinite constants: Core ML's fp16 kernels spread them."""
    if operation.op_type != "const" or isinstance(output.val, str) or output.val is None:
        return
    array = np.asarray(output.val)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        yield _error(output.name, "constant holds NaN or infinity")
