"""How the report says things: kinds of truth, numbers with their units, what stands in for a number that is none."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from edgepack.pack.manifest import Estimate, OutputParity, Truth
from edgepack.student.spec import TensorSpec

# What each kind of truth means to a reader, and whether a time of this kind is a speed at all.
TRUTHS: dict[Truth, str] = {
    "measured": "taken on a device that matches the target",
    "host": "real runtime and real time, but on a machine that is not the target",
    "emulated": "run under an emulator of the target's processor; results count, times do not",
    "simulated": "run in an interpreter of the format, not in the platform's own runtime; results count, times do not",
    "predicted": "computed from a model of the hardware, not run",
}
# The same of browsers, which are simulated where nobody sits before them.
STAND_IN_BROWSER = "run in the browser's own runtime, by a program that drives a browser or in one without a screen"
TIMES_ARE_SPEEDS: frozenset[Truth] = frozenset({"measured", "host", "predicted"})
# Outputs of these kinds did not come from the platform's own runtime.
NOT_ITS_RUNTIME: frozenset[Truth] = frozenset({"simulated", "emulated", "predicted"})

# Bytes, milliseconds and ratios beyond this are nobody's measurement: a petabyte, thirty thousand years.
_LARGEST = 1e15
_NO_NUMBER = "no sensible number"


def count_words(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 query", "1,200 queries"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size_words(count: float) -> str:
    """Bytes, decimal units: "812 B", "39.1 kB", "4.65 MB"."""
    if not abs(count) < _LARGEST:
        return _NO_NUMBER
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def milliseconds_words(value: float) -> str:
    """A time given in milliseconds, three digits: "87.2 µs", "1.23 ms", "2.40 s"."""
    if not abs(value) < _LARGEST:
        return _NO_NUMBER
    if value >= 1000:
        return f"{_three_digits(value / 1000)} s"
    return f"{_three_digits(value)} ms" if value >= 0.1 or value == 0 else f"{_three_digits(value * 1000)} µs"


def milliseconds_range(estimate: Estimate) -> str:
    """The interval of a time given in milliseconds; the unit once where both ends have the same."""
    low, high = milliseconds_words(estimate.low), milliseconds_words(estimate.high)
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def percent_range(estimate: Estimate) -> str:
    """The interval of a fraction of 1 as percentages."""
    return f"{100 * estimate.low:.1f} to {percent_words(estimate.high)}"


def percent_words(fraction: float) -> str:
    """A fraction of 1 as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"


def short_tick(words: str) -> str:
    """An axis label without the zeros it does not need: "1.50 ms" as "1.5 ms"."""
    number, _, unit = words.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def percent_tick(fraction: float) -> str:
    """A fraction of 1 as a percentage with no more decimals than it needs."""
    return f"{100 * fraction:.4g} %"


def points_words(fraction: float) -> str:
    """A difference of fractions in percentage points, with a true minus sign."""
    text = f"{100 * fraction:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def decibel_words(output: OutputParity) -> str:
    """The SQNR of an output, or what stands in its place."""
    if output.non_finite:
        return "not finite"
    if output.sqnr_db is None:
        return "exact"
    return f"{output.sqnr_db:.1f} dB" if isfinite(output.sqnr_db) else "not finite"


def tensor_words(tensor: TensorSpec) -> str:
    """A tensor as "float32 1 × 3 × 224 × 224 (NCHW)"."""
    shape = " × ".join(map(str, tensor.shape)) if tensor.shape else "scalar" if tensor.shape == () else "any shape"
    return f"{tensor.dtype or 'any type'} {shape}" + (f" ({tensor.layout})" if tensor.layout else "")


def ratio_words(value: float, decimals: int = 2) -> str:
    """A ratio."""
    return f"{value:.{decimals}f}" if abs(value) < _LARGEST else _NO_NUMBER


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent below 1000."""
    decimals = next((digits for limit, digits in ((1, 3), (10, 2), (100, 1)) if abs(value) < limit), 0)
    return f"{value:.{decimals}f}"


FILTERS: dict[str, Callable[..., str]] = {
    "size": size_words,
    "milliseconds": milliseconds_words,
    "milliseconds_range": milliseconds_range,
    "percent_range": percent_range,
    "percent": percent_words,
    "points": points_words,
    "decibels": decibel_words,
    "tensor": tensor_words,
    "count": count_words,
    "ratio": ratio_words,
}
