"""The judging step on evaluation sets of masks: measured, gated, left to the user's own metric, or refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgepack.arrays import save_arrays
from edgepack.calibration.readers import Samples
from edgepack.targets import load_target
from edgepack.verify.steps import MetricError, RunFacts, Verdict, judge

RANDOM = np.random.default_rng(0)
MASKS = RANDOM.integers(0, 3, (20, 8, 8))


def verdict(folder: Path, flipped: float, metrics: list[str], masks: np.ndarray = MASKS) -> Verdict:
    """The step on a student that is always right and an artifact that names a share of the pixels at random."""
    classes = np.where(RANDOM.random(MASKS.shape) < flipped, RANDOM.integers(0, 3, MASKS.shape), MASKS)
    student, artifact = (np.eye(3, dtype=np.float32)[each].transpose(0, 3, 1, 2)[:, None] for each in (MASKS, classes))
    for name, array in (("golden", student[:2]), ("outputs", student[:2]), ("reference", student[:2].astype(np.float64))):
        save_arrays(folder / f"{name}.npz", {"y": array})
    Samples({"x": np.zeros((20, 1, 2), np.float32)}, masks).save(folder / "evaluation.npz")
    save_arrays(folder / "artifact.npz", {"y": artifact})
    save_arrays(folder / "student.npz", {"y": student})
    (folder / "run.json").write_bytes(msgspec.json.encode(RunFacts("ort 1", "host", {})))
    paths = {"run": "run.json", "golden": "golden.npz", "golden_outputs": "outputs.npz", "golden_reference": "reference.npz"}
    held = {"evaluation": "evaluation.npz", "evaluation_outputs": "artifact.npz", "student_evaluation": "student.npz"}
    judge(
        **{name: folder / path for name, path in (paths | held).items()},
        target=msgspec.to_builtins(load_target("android")),
        scheme="fp32",
        metrics=metrics,
        out=folder,
        progress=lambda done, total: None,
    )
    return msgspec.json.decode((folder / "verdict.json").read_bytes(), type=Verdict)


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
