"""The judging step where the manifest says that the student's own classes stand in for labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepack.verify.steps import MetricError, Verdict
from tests.verify.judging import judged

SCORES = (np.eye(10, dtype=np.float32) * 9)[np.arange(100) % 10]


def verdict(folder: Path, student: np.ndarray, artifact: np.ndarray, by_student: bool = True) -> Verdict:
    """The step on an unlabelled evaluation set of as many samples as ``student`` has rows."""
    return judged(folder, student, artifact, None, golden=SCORES[:2], by_student=by_student)


def rolled(rows: int) -> np.ndarray:
    """SCORES with another class on top in the first rows."""
    changed = SCORES.copy()
    changed[:rows] = np.roll(SCORES[:rows], 1, axis=1)
    return changed


def test_two_changed_classes_in_a_hundred_hold_the_budget_and_three_fail_it(tmp_path: Path) -> None:
    found = verdict(tmp_path, SCORES[:, None], rolled(2)[:, None])
    assert found.accuracy is not None and (found.accuracy.metric, found.accuracy.value.value) == ("agreement", 0.98)
    assert found.failures == ()
    (line,) = verdict(tmp_path, SCORES, rolled(3)).failures
    assert "android fp32: agreement is 3.0 points below" in line and "more than the 2.0 allowed" in line and "100 samples" in line


def test_without_that_wish_an_unlabelled_set_gives_no_accuracy(tmp_path: Path) -> None:
    found = verdict(tmp_path, SCORES, rolled(50), by_student=False)
    assert found.accuracy is None and found.failures == ()


@pytest.mark.parametrize("outputs", [np.zeros((4, 3, 8, 8), np.float32), np.zeros((4, 10), np.int64)])
def test_outputs_that_name_no_class_are_refused(tmp_path: Path, outputs: np.ndarray) -> None:
    with pytest.raises(MetricError) as caught:
        verdict(tmp_path, outputs, outputs)
    assert "names no class" in caught.value.cause and "labels_of_student" in caught.value.hint
