"""The benchmark's own arithmetic: what its interval covers, and that each of its bars can be missed."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from edgepack.student.load import load_function

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "efficientnet.py"
figures = load_function(FILE, "figures")
bench = sys.modules[figures.__module__]
TARGETS = ("raspberry-pi-5", "android", "ios")
SCENE = np.repeat([f"scene {index}" for index in range(8)], 5)
EXACT = np.random.default_rng(0).normal(size=(40, 10)) * 3


def near(decibels: float, seed: int = 1) -> np.ndarray:
    """EXACT with an error so far below it."""
    noise = np.random.default_rng(seed).normal(size=EXACT.shape)
    return EXACT + noise * np.linalg.norm(EXACT) / np.linalg.norm(noise) * 10 ** (-decibels / 20)


def evaluation(**changes: object) -> object:
    """One in which every bar holds: onnxruntime's own quantization has one wrong class in each scene, ours has none."""
    peer = EXACT.copy()
    peer[::5] = -peer[::5]
    artifacts = {(target, "fp32"): near(118, 2) for target in TARGETS} | {(target, "w8a8"): near(40, 3) for target in TARGETS}
    sizes = {(target, scheme): size for target in TARGETS for scheme, size in (("fp32", 1000), ("w8a8", 270))}
    held = {"artifacts": {**artifacts, ("ios-half", "fp16"): near(55, 4)}, "bytes": sizes, "peer": peer, **changes}
    return bench.Evaluation(scene=SCENE, exact=EXACT, torch=near(120), **held)


def missed(**changes: object) -> list[str]:
    return [row.what for row in figures(evaluation(**changes)) if not row.ok]


def with_artifact(target: str, scheme: str, scores: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    return {**evaluation().artifacts, (target, scheme): scores}  # type: ignore[attr-defined]


def test_every_bar_holds_where_everything_is_right() -> None:
    assert missed() == []


@pytest.mark.parametrize(
    ("target", "scheme", "scores", "expected"),
    [
        ("ios", "fp32", near(113), ["ios fp32: dB to float64"]),
        ("ios-half", "fp16", near(44), ["ios fp16: dB to float64"]),
        ("ios-half", "fp16", np.where(np.arange(400).reshape(40, 10) == 7, np.inf, EXACT), ["ios fp16: dB to float64"]),
        ("android", "w8a8", near(39.4, 3), ["android w8a8: dB to float64"]),
        ("ios", "w8a8", near(38.9, 3), ["ios w8a8: dB to float64"]),
    ],
)
def test_a_target_that_departs_misses_its_bar(target: str, scheme: str, scores: np.ndarray, expected: list[str]) -> None:
    assert missed(artifacts=with_artifact(target, scheme, scores)) == expected


def test_a_file_above_three_tenths_misses_its_bar() -> None:
    assert missed(bytes={**evaluation().bytes, ("android", "w8a8"): 301}) == ["android w8a8: bytes over fp32's"]  # type: ignore[attr-defined]


def test_no_better_than_onnxruntime_is_not_enough() -> None:
    assert missed(peer=near(40, 3)) == [f"{target} w8a8: lower end of ours - onnxruntime's" for target in TARGETS]


def test_one_wrong_class_in_forty_sure_crops_misses_the_agreement() -> None:
    wrong = near(40, 3)
    wrong[1] = -wrong[1]
    found = missed(artifacts=with_artifact("android", "w8a8", wrong))
    assert "android w8a8: agreement, sure crops" in found


def test_the_interval_is_that_of_as_many_scenes_not_of_as_many_crops() -> None:
    """400 scenes of 9 equal crops: the interval of a mean of 400 independent values, mean +- 1.96 s / 20."""
    values = np.random.default_rng(1).normal(0.1, 1, 400)
    low, high = bench.paired_interval(np.repeat(values, 9), np.repeat(np.arange(400), 9))
    half = NormalDist().inv_cdf(0.975) * values.std(ddof=1) / 20
    # 20,000 resamples put the 2.5 % point within 0.03 standard errors, 1.5 % of the half-width; the bootstrap's own bias is 1 / 400.
    assert low == pytest.approx(values.mean() - half, abs=0.04 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.04 * half)


def test_scenes_of_unequal_size_weigh_by_their_crops() -> None:
    low, high = bench.paired_interval(np.r_[np.ones(30), np.zeros(10)], np.r_[np.repeat("a", 30), np.repeat("b", 10)])
    assert (low, high) == (0.0, 1.0)
