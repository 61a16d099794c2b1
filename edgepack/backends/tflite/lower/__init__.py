"""The lowerings, a file per operator family; importing this registers them all."""

from edgepack.backends.tflite.lower import (
    activation,
    convolution,
    detection,
    elementwise,
    matmul,
    normalization,
    piecewise,
    pooling,
    quantization,
    reduce,
    resize,
    scatter,
    selection,
    shape,
    transcendental,
)

__all__ = [
    "activation",
    "convolution",
    "detection",
    "elementwise",
    "matmul",
    "normalization",
    "piecewise",
    "pooling",
    "quantization",
    "reduce",
    "resize",
    "scatter",
    "selection",
    "shape",
    "transcendental",
]
