"""The judging step on students whose first output is the class itself, or a single score."""

from pathlib import Path

import numpy as np

from edgepack.verify.steps import Verdict
from tests.verify.judging import judged

LABELS = np.random.default_rng(2).integers(0, 7, 200)


def verdict(folder: Path, student: np.ndarray, artifact: np.ndarray) -> Verdict:
    """The step with ``LABELS``; golden samples are right in both."""
    return judged(folder, student, artifact, LABELS, golden=student[:2])


def test_a_class_that_the_student_names_itself_is_held_against_the_labels(tmp_path: Path) -> None:
    """An ArgMax inside the student: one int64 a sample, (N, 1); the artifact is wrong on 20 of 200."""
    classes = LABELS[:, None]
    wrong = np.where(np.arange(200) < 180, LABELS, LABELS + 1)[:, None]
    found = verdict(tmp_path, classes, wrong)
    assert found.accuracy is not None
    assert (found.accuracy.value.value, found.accuracy.student, found.accuracy.agreement) == (0.9, 1.0, 0.9)
    (line,) = found.failures
    assert "accuracy is 10.0 points below" in line


def test_a_single_score_is_no_row_of_classes_and_labels_do_not_stop_the_build(tmp_path: Path) -> None:
    score = (LABELS > 3).astype(np.float32)[:, None, None]
    found = verdict(tmp_path, score, score)
    assert (found.accuracy, found.failures) == (None, ())
    (note,) = found.notes
    assert "nothing was measured on the evaluation set" in note and "--metric" in note
