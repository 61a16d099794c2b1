"""What samples must be, and how a wrong one is named."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepack.calibration.checks import checked, refuse_overlap, sample_digests, set_digest
from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.readers import Samples
from edgepack.student.spec import TensorSpec

PIXELS = TensorSpec("x", "float32", (1, 2, 2), "", (0.0, 1.0))
IDS = TensorSpec("ids", "int64", (1, 2), "", (0.0, 9.0))


def numbers(count: int = 4, shape: tuple[int, ...] = (1, 2, 2), dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (count, *shape)).astype(dtype)


def with_value(value: float, sample: int = 2) -> np.ndarray:
    array = numbers()
    array[sample, 0, 1, 1] = value
    return array


def test_good_samples_come_back_unchanged() -> None:
    held = Samples({"x": numbers()}, np.asarray([0, 1, 1, 0]))
    assert checked(held, [PIXELS], 2, "calibration") is held


def test_any_size_fits_a_symbolic_dimension() -> None:
    open_batch = TensorSpec("x", "float32", ("batch", 2, 2), "", (0.0, 1.0))
    checked(Samples({"x": numbers(4, (7, 2, 2))}), [open_batch], 0, "calibration")


@pytest.mark.parametrize(
    ("array", "said", "hint"),
    [
        (numbers(0), "the calibration set is empty", "at least one sample"),
        (numbers(4, (2, 2)), "samples of shape [2, 2], the student takes [1, 2, 2]", "give an array of shape [samples"),
        (numbers(4, (1, 2, 3)), "samples of shape [1, 2, 3]", "give an array of shape [samples"),
        (numbers(dtype=np.float64), "is float64, the student takes float32", "convert"),
        (numbers(dtype=np.uint8), "is uint8, the student takes float32", "convert"),
        (numbers() * 255, "sample 0 spans", "divide by 255"),
        (with_value(1.5), "sample 2 spans", "as the student's training did"),
        (with_value(-0.1, 1), "sample 1 spans", "as the student's training did"),
        (with_value(np.nan), "sample 2 holds NaN or infinity", "remove or repair"),
        (with_value(-np.inf), "sample 2 holds NaN or infinity", "remove or repair"),
    ],
    ids=["empty", "no batch", "wrong size", "double", "bytes", "0-255", "above", "below", "NaN", "infinity"],
)
def test_a_wrong_sample_is_named_with_a_next_step(array: np.ndarray, said: str, hint: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        checked(Samples({"x": array}), [PIXELS], 0, "calibration")
    assert said in caught.value.cause and hint in caught.value.hint


def test_rounding_at_the_ends_of_the_range_is_no_error() -> None:
    checked(Samples({"x": with_value(float(np.nextafter(np.float32(1), np.float32(2))))}), [PIXELS], 0, "calibration")


@pytest.mark.parametrize("value", [-1, 10])
def test_token_ids_outside_their_range_are_refused(value: int) -> None:
    ids = np.asarray([[[1, 2]], [[3, value]]])
    with pytest.raises(CalibrationError, match="sample 1 spans"):
        checked(Samples({"ids": ids}), [IDS], 0, "evaluation")


def test_inputs_with_different_numbers_of_samples_are_refused() -> None:
    held = Samples({"x": numbers(4), "ids": np.ones((3, 1, 2), np.int64)})
    with pytest.raises(CalibrationError, match="holds 4 of 'x', 3 of 'ids'"):
        checked(held, [PIXELS, IDS], 0, "calibration")


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([0, 1, 2, 0], 2, "label 2 of sample 2 is outside 0..1"),
        ([0, -1, 0, 0], 2, "label -1 of sample 1 is outside 0..1"),
        ([0, -1, 0, 0], 0, "label -1 of sample 1 is negative"),
        ([0, 1], 2, "has 4 samples and 2 labels"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels: list[int], classes: int, said: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        checked(Samples({"x": numbers()}, np.asarray(labels)), [PIXELS], classes, "calibration")
    assert said in caught.value.cause


def test_one_shared_sample_is_found_wherever_it_stands() -> None:
    first, second = np.arange(20, dtype=np.float32).reshape(5, 4), np.arange(100, 120, dtype=np.float32).reshape(5, 4)
    refuse_overlap(Samples({"x": first}), Samples({"x": second}))
    second[3] = first[1]
    with pytest.raises(CalibrationError, match=r"1 evaluation samples are also .* \(evaluation 3 is calibration 1\)"):
        refuse_overlap(Samples({"x": first}), Samples({"x": second}))


def test_samples_that_differ_in_one_of_two_inputs_are_different() -> None:
    a = Samples({"x": np.zeros((1, 2), np.float32), "y": np.zeros((1, 2), np.float32)})
    b = Samples({"x": np.zeros((1, 2), np.float32), "y": np.ones((1, 2), np.float32)})
    refuse_overlap(a, b)
    with pytest.raises(CalibrationError):
        refuse_overlap(a, Samples(dict(reversed(a.arrays.items()))))


@given(st.permutations(range(6)))
def test_a_sets_digest_depends_on_order_and_labels_and_a_samples_only_on_itself(order: list[int]) -> None:
    data = Samples({"x": np.arange(12, dtype=np.float32).reshape(6, 2)}, np.arange(6))
    moved = data.take(order)
    assert [sample_digests(data)[index] for index in order] == sample_digests(moved)
    assert (set_digest(data) == set_digest(moved)) == (list(order) == list(range(6)))
    assert set_digest(data) != set_digest(Samples(data.arrays)) != set_digest(Samples(data.arrays, np.arange(6)[::-1].copy()))
