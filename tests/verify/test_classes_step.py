"""The judging step on students whose first output is the class itself, or a single score."""

from pathlib import Path

import msgspec
import numpy as np

from edgepack.arrays import save_arrays
from edgepack.calibration.readers import Samples
from edgepack.targets import load_target
from edgepack.verify.steps import RunFacts, Verdict, judge

LABELS = np.random.default_rng(2).integers(0, 7, 200)


def verdict(folder: Path, student: np.ndarray, artifact: np.ndarray) -> Verdict:
    """The step with ``LABELS``; golden samples are right in both."""
    for name, array in (("golden", student[:2]), ("outputs", student[:2]), ("reference", student[:2])):
        save_arrays(folder / f"{name}.npz", {"y": array})
    Samples({"x": np.zeros((200, 1, 2), np.float32)}, LABELS).save(folder / "evaluation.npz")
    save_arrays(folder / "artifact.npz", {"y": artifact})
    save_arrays(folder / "student.npz", {"y": student})
    (folder / "run.json").write_bytes(msgspec.json.encode(RunFacts("ort 1", "host", {})))
    paths = {"run": "run.json", "golden": "golden.npz", "golden_outputs": "outputs.npz", "golden_reference": "reference.npz"}
    held = {"evaluation": "evaluation.npz", "evaluation_outputs": "artifact.npz", "student_evaluation": "student.npz"}
    judge(
        **{name: folder / path for name, path in (paths | held).items()},
        target=msgspec.to_builtins(load_target("android")),
        scheme="fp32",
        metrics=[],
        out=folder,
        progress=lambda done, total: None,
    )
    return msgspec.json.decode((folder / "verdict.json").read_bytes(), type=Verdict)


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
