"""Functions, functions in pieces, tests of numbers, remainders and running sums, against float64 and ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.backends.table import BackendError
from tests.backends.functions import FUNCTIONS, domain, off_by
from tests.backends.tflite.models import Hub, both, convert, node, operators, run_litert, single

RNG = np.random.default_rng(23)
SPECIAL = np.asarray([0, -0.5, 0.5, 1, -1, 2, -3, 30, -30, np.inf, -np.inf, np.nan], np.float32)
SIDES = [(1, 1), (1, 0), (0, 1), (0, 0)]


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


# A formula takes at most a dozen roundings of 2^-24 = 6e-8, and LiteRT's EXP multiplies that of its argument, at most 45, as often.
FORMULA = 12 * 2.0**-24
EXPONENTIAL = 2 * 45 * 2.0**-24 + FORMULA


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_a_function_keeps_its_relative_accuracy_over_its_whole_domain(operator: str, tmp_path: Path) -> None:
    numbers = domain(operator)
    description = convert(hub := single(operator, numbers), tmp_path)
    given = run_litert(description, tmp_path, hub.feed)["y"]
    assert off_by(operator, given, numbers) < (EXPONENTIAL if operator in ("Cosh", "Sinh") else FORMULA)


def test_tan_is_the_quotient_of_sine_and_cosine(tmp_path: Path) -> None:
    """LiteRT's SIN and COS are right to 5e-7 absolute (its range reduction), which the slope of tan, 1 + tan^2, enlarges."""
    given, wanted = both(single("Tan", RNG.uniform(-7, 7, 5000).astype(np.float32)), tmp_path)
    assert (np.abs(given["y"] - wanted["y"]) <= 1e-6 * (1 + np.square(wanted["y"]))).all()


PIECES = {
    "selu": single("Selu", normal(2, 3, 4, 5) * 3),
    "selu_attributes": single("Selu", normal(2, 5) * 3, alpha=1.0, gamma=2.0),
    "celu": single("Celu", normal(2, 3, 4, 5) * 3, alpha=0.4),
    "celu_plain": single("Celu", normal(2, 5)),
    "thresholded": single("ThresholdedRelu", np.asarray([0.4, 0.5, 0.6, -1, np.inf], np.float32), alpha=0.5),
    "shrink": single("Shrink", np.asarray([-2, -1.5, 0.3, 1.5, 2, np.inf], np.float32), bias=0.25, lambd=1.5),
    "softsign": single("Softsign", normal(2, 3, 4, 5) * 9),
    "erf_far": single("Erf", np.asarray([np.inf, -np.inf, 9, -9], np.float32)),
    "prelu_of_run_time": single("PRelu", normal(1, 3, 4, 5), normal(3, 1, 1)),
    "fmod": single("Mod", np.asarray([5.3, -5.3, 5.3, -5.3, 7e8], np.float32), np.asarray([2, 2, -2, -2, 3], np.float32), fmod=1),
    "fmod_row": single("Mod", normal(2, 3, 4, 5) * 9, normal(5), fmod=1),
    "lrn": single("LRN", normal(2, 7, 3, 4), size=5, alpha=0.02, beta=0.6, bias=1.5),
    "cumulative": single("CumSum", normal(2, 3, 4, 5), weights={"axis": np.int64(1)}),
    "cumulative_backwards": single("CumSum", normal(2, 3), weights={"axis": np.int64(-1)}, exclusive=1, reverse=1),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_function_in_pieces_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    given, wanted = both(PIECES[name], tmp_path)
    np.testing.assert_allclose(given["y"], wanted["y"], rtol=2e-6, atol=2e-6)


def asked(operator: str, array: Any, *others: Any, dtype: type = np.bool_, **attributes: Any) -> Hub:
    hub = single(operator, array, *others, **attributes)
    hub.outputs = {"y": dtype}
    return hub


WHOLE = {
    "nan": asked("IsNaN", SPECIAL),
    **{f"infinite_{low}{high}": asked("IsInf", SPECIAL, detect_negative=low, detect_positive=high) for low, high in SIDES},
    "xor": asked("Xor", np.asarray([[True], [False]]), np.asarray([True, False])),
    "least": asked("ArgMin", normal(2, 3, 4, 5), dtype=np.int64, axis=1),
    "least_whole": asked("ArgMin", np.asarray([[3, 1, 1], [0, 5, 0]], np.int32), dtype=np.int64, axis=-1, keepdims=0),
    "most_whole": asked("ArgMax", np.asarray([[3, 1, 3], [0, 5, 5]], np.int32), dtype=np.int64, axis=-1),
    "remainder": asked("Mod", np.asarray([5, -5, 5, -5], np.int32), np.asarray([3, 3, -3, -3], np.int32), dtype=np.int32),
    "remainder_c": asked("Mod", np.asarray([5, -5, 5, -5], np.int32), np.asarray([3, 3, -3, -3], np.int32), dtype=np.int32, fmod=1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_in_whole_numbers_is_onnxruntimes(name: str, tmp_path: Path) -> None:
    given, wanted = both(WHOLE[name], tmp_path)
    assert np.array_equal(given["y"], wanted["y"])


def test_a_window_without_a_middle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="LRN 'lrn': its window of 4 channels has no middle"):
        convert(single("LRN", normal(1, 6, 2, 2), size=4), tmp_path)


def test_a_running_sum_follows_its_axis_into_an_image(tmp_path: Path) -> None:
    hub = Hub(
        [node("MaxPool", "x", "p", kernel_shape=[1, 1]), node("CumSum", "p axis")], {"x": normal(1, 3, 4, 5)}, {"axis": np.asarray(1)}
    )
    given, wanted = both(hub, tmp_path)
    np.testing.assert_allclose(given["y"], wanted["y"], rtol=1e-6, atol=1e-6)
    assert "CUMSUM" in operators(tmp_path)
