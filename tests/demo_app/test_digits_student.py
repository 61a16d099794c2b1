"""The committed student is the distilled one, does what results.json says, and can be distilled again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from edgepack import Student, load_student

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "demo_app/students/digits"
ARMS = ("teacher", "plain", "plain_all_labels", "distilled")

Scores = dict[str, dict[str, float]]


def scores(folder: Path) -> Scores:
    return json.loads((folder / "results.json").read_text())["scores"]


@pytest.fixture(scope="module")
def student() -> Student:
    return load_student(f"{DIGITS / 'student.py'}:student")


def read_digit(student: Student, sample: np.ndarray) -> int:
    return int(student.program.run({"image": sample})["logits"].argmax())


def test_committed_weights_reach_the_accuracy_of_results_json(student: Student) -> None:
    with np.load(ROOT / "calibration/digits/evaluation.npz") as evaluation:
        images, labels = evaluation["images"], evaluation["labels"]
    read = [read_digit(student, student.preprocessing.normalize(image[..., None])) for image in images]
    expected = scores(DIGITS)["distilled"]
    assert int((np.asarray(read) == labels).sum()) == expected["correct"]
    assert len(labels) == expected["total"]


def test_committed_student_is_good_enough_to_demonstrate_with() -> None:
    assert scores(DIGITS)["distilled"]["low"] > 0.95


@pytest.mark.parametrize("arm", ARMS)
def test_results_intervals_are_scipys_wilson_intervals(arm: str) -> None:
    result = scores(DIGITS)[arm]
    interval = binomtest(int(result["correct"]), int(result["total"])).proportion_ci(method="wilson")
    assert result["accuracy"] == result["correct"] / result["total"]
    assert (result["low"], result["high"]) == pytest.approx((interval.low, interval.high), abs=5e-5)


def test_readme_tells_the_figures_of_results_json() -> None:
    readme = (DIGITS / "README.md").read_text().replace("**", "")
    for arm, row in zip(ARMS, ("teacher", "student, plain", "student, plain, all labels", "student, distilled"), strict=True):
        result = scores(DIGITS)[arm]
        interval = f"{100 * result['low']:.1f} to {100 * result['high']:.1f} %"
        assert f"| {row} | {result['parameters']:,} | {result['labels']:,} | {result['correct']} | {interval} |" in readme


def test_every_sample_is_read_right_but_the_five_that_the_readme_discloses(student: Student) -> None:
    read = [read_digit(student, student.preprocessing.load(DIGITS / f"samples/digit_{label}.png")) for label in range(10)]
    assert read == [0, 1, 2, 3, 4, 1, 6, 7, 8, 9]
    assert "reads it as a 1" in (DIGITS / "README.md").read_text()


def test_student_describes_itself_as_the_demo_needs_it(student: Student) -> None:
    described = student.describe("student.py:student")
    assert [(spec.name, spec.dtype, spec.shape, spec.layout) for spec in described.inputs] == [("image", "float32", (1, 1, 28, 28), "NCHW")]
    assert [(spec.name, spec.dtype, spec.shape) for spec in described.outputs] == [("logits", "float32", (1, 10))]
    assert described.inputs[0].value_range == (0.0, 1.0)
    assert described.labels == tuple("0123456789")
    assert described.parameters == scores(DIGITS)["distilled"]["parameters"]


def test_weights_file_stays_below_200_kilobytes() -> None:
    assert (DIGITS / "student.safetensors").stat().st_size < 200_000


@pytest.mark.slow
def test_distilling_again_lands_in_the_committed_intervals_and_beats_the_plain_student(tmp_path: Path) -> None:
    # One test, so that parallel workers train once: about a CPU-minute.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, DIGITS / "distil.py", "--out", tmp_path], check=True, env=environment, timeout=900)
    again, committed = scores(tmp_path), scores(DIGITS)
    assert all(committed[arm]["low"] <= again[arm]["accuracy"] <= committed[arm]["high"] for arm in ARMS), again
    assert again["distilled"]["labels"] == again["plain"]["labels"] == 400
    assert again["distilled"]["correct"] > again["plain"]["correct"]
