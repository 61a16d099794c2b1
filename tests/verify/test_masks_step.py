"""The judging step on evaluation sets of masks: measured, gated, left to the user's own metric, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepack.verify.steps import MetricError, Verdict
from tests.verify.judging import judged

RANDOM = np.random.default_rng(0)
MASKS = RANDOM.integers(0, 3, (20, 8, 8))


def verdict(folder: Path, flipped: float, metrics: list[str], masks: np.ndarray = MASKS) -> Verdict:
    """The step on a student that is always right and an artifact that names a share of the pixels at random."""
    classes = np.where(RANDOM.random(MASKS.shape) < flipped, RANDOM.integers(0, 3, MASKS.shape), MASKS)
    student, artifact = (np.eye(3, dtype=np.float32)[each].transpose(0, 3, 1, 2)[:, None] for each in (MASKS, classes))
    return judged(folder, student, artifact, masks, golden=student[:2], metrics=metrics)


def test_masks_are_measured_by_mean_iou_without_being_asked_for(tmp_path: Path) -> None:
    found = verdict(tmp_path, 0.0, [])
    assert found.accuracy is not None and (found.accuracy.metric, found.accuracy.value.value) == ("mIoU", 1)
    assert found.failures == ()


def test_an_artifact_that_loses_more_than_a_point_fails_its_gate(tmp_path: Path) -> None:
    (line,) = verdict(tmp_path, 0.05, []).failures
    assert "android fp32: mIoU is" in line and "more than the 1.0 allowed" in line and "20 samples" in line


def test_masks_no_output_fits_are_refused_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"masks are \(4, 4\).*y \(1, 3, 8, 8\)"):
        verdict(tmp_path, 0.0, [], MASKS[:, ::2, ::2])


def test_a_metric_of_the_users_own_gets_masks_no_output_fits(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def area(outputs, masks):\n    return float((masks > 0).mean())\n")
    found = verdict(tmp_path, 0.0, [f"{file}:area"], MASKS[:, ::2, ::2])
    assert found.accuracy is None
    assert found.metrics[0].value == pytest.approx((MASKS[:, ::2, ::2] > 0).mean())
