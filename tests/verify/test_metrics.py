"""Distances and classes against numpy's own formulas, exact cases and hypothesis."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cosine as scipy_cosine

from edgepack.verify.metrics import NO_CLASS, agreement, cosine, gap_standard_error, max_abs_error, non_finite, sqnr_db, top1

FINITE = hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32))


def test_uniform_quantization_noise_has_the_textbook_sqnr() -> None:
    # A full-scale uniform signal rounded to B bits: 6.02 B dB (Oppenheim, Schafer, Discrete-Time Signal Processing, 4.8).
    signal = np.random.default_rng(0).uniform(-1, 1, 400_000)
    step = 2 / 2**8
    rounded = step * (np.floor(signal / step) + 0.5)
    assert sqnr_db(signal, rounded) == pytest.approx(6.0206 * 8, abs=0.05)


def test_an_error_of_a_tenth_is_twenty_decibels() -> None:
    reference = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    assert sqnr_db(reference, reference * np.float32(1.1)) == pytest.approx(20, abs=1e-5)


def test_equal_tensors_are_infinitely_near() -> None:
    tensor = np.array([[1.0, -2.0]])
    assert (sqnr_db(tensor, tensor), max_abs_error(tensor, tensor), cosine(tensor, tensor)) == (np.inf, 0, 1)


def test_all_zero_reference_is_exact_or_infinitely_far() -> None:
    zero = np.zeros((2, 3))
    assert sqnr_db(zero, zero) == np.inf
    assert sqnr_db(zero, zero + 1e-9) == -np.inf
    assert cosine(zero, zero) == 1
    assert cosine(zero, zero + 1) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_non_finite_element_is_the_worst_of_every_distance(bad: float) -> None:
    reference = np.ones((4, 4))
    actual = reference.copy()
    actual[2, 1] = bad
    assert (sqnr_db(reference, actual), max_abs_error(reference, actual), cosine(reference, actual)) == (-np.inf, np.inf, 0)
    assert non_finite(actual) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_reference_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        sqnr_db(np.array([1, bad]), np.array([1, bad]))


def test_other_shapes_and_empty_tensors_are_refused_not_broadcast() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        sqnr_db(np.ones((2, 1)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="cannot be compared"):
        max_abs_error(np.ones((0, 4)), np.ones((0, 4)))


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_sqnr_does_not_depend_on_scale_even_where_squares_overflow(scale: float) -> None:
    rng = np.random.default_rng(1)
    reference, noise = rng.normal(size=100), rng.normal(size=100) / 100
    assert sqnr_db(reference * scale, (reference + noise) * scale) == pytest.approx(sqnr_db(reference, reference + noise), abs=1e-9)


def test_an_int8_tensor_is_compared_without_wrapping() -> None:
    assert max_abs_error(np.array([127], np.int8), np.array([-128], np.int8)) == 255


@given(FINITE, FINITE)
def test_distances_equal_their_definitions_in_extended_precision(a: np.ndarray, b: np.ndarray) -> None:
    wide_a, wide_b = a.astype(np.longdouble), b.astype(np.longdouble)
    noise = np.sum((wide_a - wide_b) ** 2)
    if noise > 0 and np.any(a):
        assert sqnr_db(a, b) == pytest.approx(float(10 * np.log10(np.sum(wide_a**2) / noise)), abs=1e-6)
    assert max_abs_error(a, b) == float(np.max(np.abs(wide_a - wide_b)))


@given(FINITE, FINITE)
def test_cosine_equals_scipy(a: np.ndarray, b: np.ndarray) -> None:
    if np.abs(a).max() > 1e-10 and np.abs(b).max() > 1e-10:
        assert cosine(a, b) == pytest.approx(1 - scipy_cosine(a.ravel().astype(float), b.ravel().astype(float)), abs=1e-6)


def test_top1_takes_the_first_of_equals_and_no_class_from_nan() -> None:
    scores = np.array([[1, 3, 3], [np.nan, 0, 1], [-np.inf, -5, -np.inf]])
    assert top1(scores).tolist() == [1, NO_CLASS, 1]


def test_two_broken_models_do_not_agree() -> None:
    broken = top1(np.full((4, 3), np.nan))
    assert agreement(broken, broken) == 0


def test_agreement_is_the_fraction_of_equal_classes() -> None:
    assert agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])) == 0.75


@pytest.mark.parametrize("module", ["edgepack.verify.metrics", "edgepack.latency.statistics"])
def test_the_numeric_core_imports_numpy_and_nothing_else(module: str) -> None:
    program = (
        f"import numpy, sys; before = set(sys.modules); import {module};"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'edgepack', 'numpy'}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_standard_error_of_a_gap_is_what_fresh_samples_scatter() -> None:
    random = np.random.default_rng(3)
    gaps, estimates = [], []
    for _ in range(300):
        reference = random.normal(size=(16, 10))
        first, second = (reference + 0.1 * random.normal(size=reference.shape) for _ in range(2))
        gaps.append(sqnr_db(reference, first) - sqnr_db(reference, second))
        estimates.append(gap_standard_error(reference, first, second))
    assert np.mean(estimates) == pytest.approx(np.std(gaps), rel=0.15)


def test_an_exact_tensor_or_a_single_sample_has_no_standard_error() -> None:
    reference = np.ones((4, 3))
    assert gap_standard_error(reference, reference, reference + 0.1) == 0
    assert gap_standard_error(reference[:1], reference[:1] + 0.2, reference[:1] + 0.1) == 0
