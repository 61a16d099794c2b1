"""Evaluation without labels: what counts, and what a near-tie cannot do."""

import numpy as np
import pytest

from edgepack.verify.judge import VerifyError, judge_accuracy
from edgepack.verify.metrics import probabilities
from edgepack.verify.unlabelled import agreement_with_student


def logits(*tops: float, classes: int = 10) -> np.ndarray:
    """One row a sample: class 0 has this probability, all others share the rest."""
    return np.stack([np.log(np.r_[top, np.full(classes - 1, (1 - top) / (classes - 1))]) for top in tops]).astype(np.float32)


def other(scores: np.ndarray, *rows: int) -> np.ndarray:
    """The scores with class 1 raised above all in these rows."""
    changed = scores.copy()
    changed[list(rows), 1] = scores.max() + 1
    return changed


def test_only_samples_of_which_the_student_is_sure_are_judged_and_all_are_recorded() -> None:
    student = logits(0.9, 0.5, 0.31, 0.29)
    found = agreement_with_student(other(student, 2, 3), student)
    assert found is not None and found.metric == "agreement"
    assert (found.samples, found.value.value, found.student, found.agreement) == (3, pytest.approx(2 / 3), 1.0, 0.5)
    assert found.drop.value == pytest.approx(1 / 3)


def test_a_student_that_is_sure_of_nothing_gives_no_figure() -> None:
    assert agreement_with_student(logits(0.2, 0.25), logits(0.2, 0.25)) is None


def test_probabilities_are_taken_as_they_are_and_logits_through_softmax() -> None:
    rows = np.array([[0.4, 0.3, 0.3], [0.25, 0.5, 0.25]])
    np.testing.assert_array_equal(probabilities(rows), rows)
    np.testing.assert_allclose(probabilities(np.log(rows)), rows, rtol=1e-12)
    assert np.allclose(probabilities(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])


def test_one_sure_sample_in_forty_fails_a_budget_of_two_points_and_one_in_fifty_holds_it() -> None:
    for count, holds in ((40, False), (50, True)):
        student = logits(*[0.9] * count)
        found = agreement_with_student(other(student, 0), student)
        assert found is not None
        failures = judge_accuracy(found, 2.0, "android", "w8a8")
        assert (failures == ()) is holds, failures


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(VerifyError, match="gives scores"):
        agreement_with_student(logits(0.9, classes=9), logits(0.9))
