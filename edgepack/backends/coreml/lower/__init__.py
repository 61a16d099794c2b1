"""ONNX operators as MIL, a file per family. Importing this package fills the table."""

from edgepack.backends.coreml.lower import (
    activation,
    attention,
    control,
    convolution,
    elementwise,
    functions,
    indices,
    matmul,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduce,
    resize,
    sampling,
    shape,
)

__all__ = [
    "activation",
    "attention",
    "control",
    "convolution",
    "elementwise",
    "functions",
    "indices",
    "matmul",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduce",
    "resize",
    "sampling",
    "shape",
]
