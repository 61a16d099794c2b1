"""MIL operations in numpy, a file per family. Importing this package registers them all."""

from edgepack.mil.ops import (
    activation,
    convolution,
    elementwise,
    gather,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sample,
    scatter,
    shape,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "gather",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resize",
    "sample",
    "scatter",
    "shape",
]
