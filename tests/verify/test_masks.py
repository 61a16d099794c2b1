"""Mean IoU against scikit-learn's Jaccard score, its intervals against scipy's bootstrap, and what is read as a segmentation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import jaccard_score

from edgepack.targets import Budgets
from edgepack.verify.judge import VerifyError, judge_accuracy
from edgepack.verify.masks import is_segmentation, segmentation_accuracy
from edgepack.verify.metrics import VOID, count_pixels, mean_iou
from edgepack.verify.statistics import bootstrap_mean_iou, paired_mean_iou_drop

CLASSES, IMAGES, HEIGHT, WIDTH = 5, 40, 6, 7
MASKS = np.random.default_rng(0).integers(0, CLASSES, (IMAGES, HEIGHT, WIDTH))


def answer(wrong: float, seed: int) -> NDArray[np.int64]:
    """MASKS with a share of the pixels named at random."""
    random = np.random.default_rng(seed)
    return np.where(random.random(MASKS.shape) < wrong, random.integers(0, CLASSES, MASKS.shape), MASKS)


def scores(classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores (samples, 1, classes, height, width), as a runner stacks them, whose largest names the class."""
    return np.eye(CLASSES, dtype=np.float32)[classes].transpose(0, 3, 1, 2)[:, None]


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.6, 1.0])
def test_mean_iou_equals_scikit_learns_macro_jaccard_score(wrong: float) -> None:
    given = answer(wrong, 1)
    expected = jaccard_score(MASKS.ravel(), given.ravel(), average="macro")
    assert mean_iou(count_pixels(given, MASKS, CLASSES)) == pytest.approx(expected, abs=1e-12)


def test_a_class_absent_from_answer_and_mask_is_left_out_and_one_absent_from_the_mask_alone_is_not() -> None:
    mask, right, wrong = np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int), np.array([[[0, 0], [0, 1]]])
    assert mean_iou(count_pixels(right, mask, 9)) == 1
    assert mean_iou(count_pixels(wrong, mask, 9)) == pytest.approx((3 / 4 + 0) / 2)


def test_void_pixels_count_neither_for_nor_against() -> None:
    masks, given = MASKS.copy(), answer(0.3, 2)
    masks[:, :2] = VOID
    kept = mean_iou(count_pixels(given[:, 2:], MASKS[:, 2:], CLASSES))
    assert mean_iou(count_pixels(given, masks, CLASSES)) == kept


def test_255_is_a_class_where_there_are_more_than_255() -> None:
    mask = np.full((1, 2, 2), 255)
    assert mean_iou(count_pixels(mask, mask, 300)) == 1


def test_a_mask_of_another_class_and_an_empty_set_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.4"):
        count_pixels(MASKS, MASKS + 1, CLASSES)
    with pytest.raises(ValueError, match="cannot be compared"):
        count_pixels(MASKS[:0], MASKS[:0], CLASSES)
    with pytest.raises(ValueError, match="no pixel of any class"):
        mean_iou(count_pixels(MASKS, np.full_like(MASKS, VOID), CLASSES))


def test_interval_of_the_paired_drop_equals_scipys_percentile_bootstrap() -> None:
    a, b = (count_pixels(answer(wrong, 3), MASKS, CLASSES) for wrong in (0.1, 0.2))

    def drop(chosen: NDArray[np.intp]) -> float:
        return float(np.subtract(*((each.both[chosen].sum(0) / each.union[chosen].sum(0)).mean() for each in (a, b))))

    theirs = bootstrap((np.arange(IMAGES),), drop, method="percentile", n_resamples=2000, random_state=1, vectorized=False)
    ours = paired_mean_iou_drop(a, b)
    # A quantile p of R resamples has a standard error of sqrt(p (1 - p) / R) over the density there. At p = 0.025 a normal's density is
    # 0.0584 a standard deviation, so 0.060 of them for R = 2000 and 0.085 for the difference of two such runs; three times that.
    slack = 3 * 0.085 * theirs.standard_error
    assert ours.value == pytest.approx(drop(np.arange(IMAGES)))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=slack)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=slack)


def test_pairing_makes_the_interval_of_equal_answers_a_point_where_each_alone_has_a_width() -> None:
    counts = count_pixels(answer(0.3, 4), MASKS, CLASSES)
    drop, alone = paired_mean_iou_drop(counts, counts), bootstrap_mean_iou(counts)
    assert (drop.value, drop.low, drop.high) == (0, 0, 0)
    assert alone.low < alone.value < alone.high


def test_counts_of_different_masks_are_no_pair() -> None:
    with pytest.raises(ValueError, match="different masks"):
        paired_mean_iou_drop(count_pixels(MASKS, MASKS, CLASSES), count_pixels(MASKS, MASKS[::-1], CLASSES))


@pytest.mark.parametrize("axes", [(0, 1, 2, 3, 4), (0, 1, 3, 4, 2), (0, 2, 1, 3, 4)], ids=["NCHW", "NHWC", "CNHW"])
def test_the_class_axis_is_found_wherever_it_lies(axes: tuple[int, ...]) -> None:
    given, student = answer(0.2, 5), answer(0.1, 6)
    found = segmentation_accuracy({"y": scores(given).transpose(axes)}, {"y": scores(student).transpose(axes)}, MASKS)
    assert found is not None and found.metric == "mIoU" and found.samples == IMAGES
    assert found.value.value == pytest.approx(jaccard_score(MASKS.ravel(), given.ravel(), average="macro"))
    assert found.student == pytest.approx(jaccard_score(MASKS.ravel(), student.ravel(), average="macro"))
    assert found.drop.value == pytest.approx(found.student - found.value.value)
    assert found.agreement == pytest.approx((given == student).mean())


def test_a_map_of_classes_gives_the_same_figures_as_the_scores_it_came_from() -> None:
    given, student = answer(0.2, 5), answer(0.1, 6)
    maps = segmentation_accuracy({"y": given[:, None].astype(np.int32)}, {"y": student[:, None].astype(np.int32)}, MASKS)
    assert maps == segmentation_accuracy({"y": scores(given)}, {"y": scores(student)}, MASKS)


def test_the_first_output_of_the_masks_size_is_measured() -> None:
    outputs = {"embedding": np.zeros((IMAGES, 1, 8), np.float32), "y": scores(MASKS)}
    found = segmentation_accuracy(outputs, outputs, MASKS)
    assert found is not None and found.value.value == 1


def test_outputs_of_another_size_or_with_a_single_score_are_no_segmentation() -> None:
    assert not is_segmentation(scores(MASKS)[..., ::2], MASKS)
    assert not is_segmentation(scores(MASKS)[:, :, :1], MASKS)
    assert segmentation_accuracy({"y": np.zeros((IMAGES, 3))}, {"y": np.zeros((IMAGES, 3))}, MASKS) is None


def test_a_nan_is_wrong_and_agrees_with_nothing() -> None:
    broken = scores(MASKS)
    broken[0, 0, 0, 0, 0] = np.nan
    found = segmentation_accuracy({"y": broken}, {"y": scores(MASKS)}, MASKS)
    assert found is not None and found.value.value < 1 and found.agreement == 1 - 1 / MASKS.size


def test_two_possible_class_axes_are_refused_with_both() -> None:
    square = np.zeros((2, 1, 4, 4, 4), np.float32)
    with pytest.raises(VerifyError, match="axis 2 or 3"):
        segmentation_accuracy({"y": square}, {"y": square}, np.zeros((2, 4, 4), int))


def test_masks_of_classes_the_output_lacks_and_outputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(VerifyError, match=r"outside 0\.\.4.*'y'"):
        segmentation_accuracy({"y": scores(MASKS)}, {"y": scores(MASKS)}, MASKS + 1)
    with pytest.raises(VerifyError, match="name no class anywhere"):
        segmentation_accuracy({"y": scores(MASKS)}, {"y": scores(MASKS)}, np.full_like(MASKS, VOID))
    with pytest.raises(VerifyError, match="build the artifact again"):
        segmentation_accuracy({"y": scores(MASKS)[:, :, :4]}, {"y": scores(MASKS)}, MASKS)


@pytest.mark.parametrize(("wrong", "passes"), [(0.102, True), (0.14, False)])
def test_more_than_a_point_of_mean_iou_fails_the_gate_in_its_own_words(wrong: float, passes: bool) -> None:
    found = segmentation_accuracy({"y": scores(answer(wrong, 7))}, {"y": scores(answer(0.1, 7))}, MASKS)
    assert found is not None
    lines = judge_accuracy(found, Budgets().drop_points(found.metric), "android", "w8a8")
    assert (lines == ()) is passes
    assert passes or "mIoU is" in lines[0]
