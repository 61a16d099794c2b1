"""Functions of one number, each over its whole domain, and what float64 says of them; shared by the backends' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
FUNCTIONS: dict[str, Callable[[Numbers], Numbers]] = {
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Cosh": np.cosh,
    "Sinh": np.sinh,
}
_COUNT = 4000
_DRAWN = np.random.default_rng(17)


def domain(operator: str) -> Numbers:
    """float32 numbers from the smallest to the largest that the function takes, thickest where formulas cancel: at 0 and at 1."""
    sign = _DRAWN.choice([-1, 1], _COUNT)
    tiny, near_one = np.exp(_DRAWN.uniform(-40, 0, _COUNT)), np.exp(_DRAWN.uniform(-16, 0, _COUNT))
    if operator in ("Acos", "Asin", "Atanh"):
        drawn = [sign * tiny, sign * (1 - near_one), _DRAWN.uniform(-1, 1, _COUNT), [0, 1, -1]]
    elif operator == "Acosh":
        drawn = [1 + near_one, np.exp(_DRAWN.uniform(0, 85, _COUNT)), [1, np.inf]]
    elif operator in ("Cosh", "Sinh"):
        drawn = [sign * tiny, _DRAWN.uniform(-89, 89, _COUNT), [0, np.inf, -np.inf]]
    else:
        drawn = [sign * tiny, sign * np.exp(_DRAWN.uniform(0, 85, _COUNT)), _DRAWN.normal(0, 1, _COUNT), [0, np.inf, -np.inf]]
    return np.concatenate([np.asarray(part, np.float64) for part in drawn]).astype(np.float32)


def off_by(operator: str, given: Numbers, numbers: Numbers) -> float:
    """The largest relative error of finite results; infinite where an infinity, a NaN or a zero is not the function's own."""
    with np.errstate(all="ignore"):
        wanted = FUNCTIONS[operator](numbers.astype(np.float64))
    held = wanted.astype(np.float32)
    is_plain = np.isfinite(held) & (held != 0)
    if not np.array_equal(given[~is_plain], held[~is_plain], equal_nan=True) or not np.isfinite(given[is_plain]).all():
        return float("inf")
    return float((np.abs(given[is_plain] - wanted[is_plain]) / np.abs(wanted[is_plain])).max())
