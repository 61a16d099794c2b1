"""The inputs of a package as coremltools declares them: images, open sizes, and what it makes of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgepack.backends.artifact import Binding, WriteOptions
from edgepack.backends.coreml.images import image_type
from edgepack.mil.environment import coremltools


def input_types(inputs: Sequence[Binding], options: WriteOptions) -> list[Any] | None:
    """The inputs' declarations; None where there is nothing to declare that the program does not say.

    An open size is a range, not a list of sizes: Core ML takes 128 listed shapes at most, of one input before iOS 18. Its default, which is
    what the Neural Engine runs, is the example's size.
    """
    if not options.image_inputs and not options.sizes:
        return None
    return [_input_type(held, options) for held in inputs]


def _input_type(held: Binding, options: WriteOptions) -> Any:
    ct = coremltools()
    if held.hub_name in options.image_inputs:
        return image_type(held, options.image_inputs[held.hub_name])
    return ct.TensorType(held.name, ct.Shape([_dimension(size, options) for size in held.shape]))


def _dimension(size: int | str, options: WriteOptions) -> Any:
    if isinstance(size, int):
        return size
    low, high = options.sizes[size]
    return coremltools().RangeDim(low, high, default=options.example_sizes[size])
