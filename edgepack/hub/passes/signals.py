"""Fourier transforms of known length, as products with a constant matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import attribute, constant
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

Matrix = NDArray[np.float64]

# A matrix of 64 MB in float32: a transform of 2,048 points, forward and whole. Beyond it a real FFT is what a student wants.
_MOST_ELEMENTS = 1 << 24


def fourier(size: int, length: int, outputs: int, parts: int, sign: float, scale: float) -> Matrix:
    """The matrix (size * parts, outputs * 2) of a discrete Fourier transform.

    Row n * parts + p is element n, its real (p = 0) or imaginary (p = 1) part; column k * 2 + q is frequency k, real or imaginary.
    Elements beyond ``length`` count for nothing, as a signal cut to that length.
    """
    places, frequencies = np.arange(size), np.arange(outputs)
    # The angle of the remainder: a product of large numbers would lose it.
    angles = sign * 2 * np.pi * (np.outer(places, frequencies) % length) / length
    used = (places < length)[:, None] * scale
    cosine, sine = np.cos(angles) * used, np.sin(angles) * used
    whole = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], 1)
    return np.ascontiguousarray(whole[:, :parts].reshape(size * parts, outputs * 2))


def real_inverse(size: int, length: int) -> Matrix:
    """The matrix (size * 2, length) from the first frequencies of a real signal to the signal; the others are their conjugates."""
    frequencies, places = np.arange(size), np.arange(length)
    angles = 2 * np.pi * (np.outer(frequencies, places) % length) / length
    used = frequencies <= length // 2
    # Frequency 0, and the last of an even length, have no conjugate, and their imaginary part is not looked at.
    is_single = (frequencies == 0) | ((frequencies * 2 == length) & (length % 2 == 0))
    times = np.where(is_single, 1, 2) * used / length
    real, imaginary = np.cos(angles) * times[:, None], -np.sin(angles) * (times * ~is_single)[:, None]
    return np.ascontiguousarray(np.stack([real, imaginary], 1).reshape(size * 2, length))


def transform(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX DFT-20 of known length along a known axis: (..., n, parts) as rows times a matrix."""
    x, *given = node.inputs
    shape = known_shape(x)
    length_input, axis_input = [*given, None, None][:2]
    held = [constant(value) if value is not None else None for value in (length_input, axis_input)]
    if shape is None or any(value is not None and array is None for value, array in zip((length_input, axis_input), held, strict=True)):
        return None
    axis = (int(held[1].item()) if held[1] is not None else -2) % len(shape)
    size, parts = shape[axis], shape[-1]
    is_inverse, is_half = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    whole = 2 * (size - 1) if is_inverse and is_half else size
    length = int(held[0].item()) if held[0] is not None else whole
    if axis == len(shape) - 1 or size * parts * length * 2 > _MOST_ELEMENTS or (is_inverse and is_half and parts != 2):
        return None
    matrix = _matrix_of(size, length, parts, is_inverse, is_half)
    outputs = length // 2 + 1 if is_half and not is_inverse else length
    last = 1 if is_inverse and is_half else 2
    order = [*(held for held in range(len(shape) - 1) if held != axis), axis, len(shape) - 1]
    others = [shape[held] for held in order[:-2]]
    rows = spell("Reshape", spell("Transpose", x, perm=order), spell.integers(*others, size * parts))
    product = spell("MatMul", rows, spell.constant(matrix, np.float32))
    back = spell("Reshape", product, spell.integers(*others, outputs, last))
    return [spell("Transpose", back, perm=[order.index(held) for held in range(len(shape))])]


def _matrix_of(size: int, length: int, parts: int, is_inverse: bool, is_half: bool) -> Matrix:
    if is_inverse and is_half:
        return real_inverse(size, length)
    outputs = length // 2 + 1 if is_half else length
    return fourier(size, length, outputs, parts, 1 if is_inverse else -1, 1 / length if is_inverse else 1)


def short_time_transform(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX STFT-17 of a signal (batch, n, parts): frames gathered, weighted by the window, times the matrix of their transform."""
    x, step_input, window, length_input = [*node.inputs, None, None][:4]
    shape, step = known_shape(x), constant(step_input)
    length = _frame_length(window, length_input)
    if shape is None or len(shape) != 3 or step is None or length is None:
        return None
    batch, size, parts = shape
    count = (size - length) // int(step.item()) + 1
    outputs = length // 2 + 1 if attribute(node, "onesided", 1) else length
    if count < 1 or length * parts * outputs * 2 > _MOST_ELEMENTS:
        return None
    places = np.arange(count)[:, None] * int(step.item()) + np.arange(length)
    frames = spell("Gather", x, spell.constant(places, np.int64), axis=1)
    if window is not None:
        frames = spell("Mul", frames, spell("Reshape", window, spell.integers(length, 1)))
    rows = spell("Reshape", frames, spell.integers(batch, count, length * parts))
    product = spell("MatMul", rows, spell.constant(fourier(length, length, outputs, parts, -1, 1), np.float32))
    return [spell("Reshape", product, spell.integers(batch, count, outputs, 2))]


def _frame_length(window: ir.Value | None, given: ir.Value | None) -> int | None:
    held, shape = constant(given), known_shape(window) if window is not None else None
    if held is not None:
        return int(held.item())
    return shape[0] if given is None and shape is not None else None


SPELLERS: dict[str, Speller] = {"DFT": transform, "STFT": short_time_transform}
