"""ONNX operators as MIL, a file per family. Importing this package fills the table."""

from edgepack.backends.coreml.lower import (
    activation,
    convolution,
    elementwise,
    matmul,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduce,
    resize,
    shape,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "matmul",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduce",
    "resize",
    "shape",
]
