"""The lowerings, a file per operator family; importing this registers them all."""

from edgepack.backends.tflite.lower import (
    activation,
    control,
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
    "control",
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
