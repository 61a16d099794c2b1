"""What passes and what fails, on outputs with errors of known size."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edgepack.errors import GateError
from edgepack.pack.manifest import OutputParity, Parity
from edgepack.quantize.scheme import Scheme
from edgepack.verify.judge import (
    FLOAT32_ROUNDING_DB,
    HALF_PRECISION_DB,
    NETWORK_DB,
    OWN_CODES_DB,
    SUMMATION_DB,
    ParityBudget,
    Runs,
    VerifyError,
    accuracy,
    judge_accuracy,
    judge_parity,
    output_parity,
    parity,
)
from edgepack.verify.metrics import sqnr_db

BUDGET = ParityBudget(fp32_below_student_db=6.0, quantized_below_hub_db=1.5)
FP32, W8A8, W4 = Scheme.parse("fp32"), Scheme.parse("w8a8"), Scheme.parse("w4b32")
FP16, W8, W8D8 = Scheme.parse("fp16"), Scheme.parse("w8"), Scheme.parse("w8d8")
REFERENCE = np.random.default_rng(0).normal(size=(16, 1, 10))


def _at(decibels: float, seed: int = 1) -> np.ndarray:
    """REFERENCE with an error exactly ``decibels`` below it."""
    noise = np.random.default_rng(seed).normal(size=REFERENCE.shape)
    noise *= np.linalg.norm(REFERENCE) / np.linalg.norm(noise) * 10 ** (-decibels / 20)
    return REFERENCE + noise


def _runs(student_db: float = 120, hub_db: float | None = None, hub_seed: int = 1) -> Runs:
    """With ``hub_seed`` 1 the hub errs where the artifact does, so that nothing between the two is chance."""
    hub = None if hub_db is None else {"logits": _at(hub_db, hub_seed)}
    return Runs({"logits": REFERENCE}, {"logits": _at(student_db, 3)}, hub)


def _failures(scheme: Scheme, artifact: np.ndarray, runs: Runs) -> tuple[str, ...]:
    return judge_parity(parity(scheme, {"logits": artifact}, runs, BUDGET, "host"), "android", scheme.name)


def test_quantized_artifact_below_the_hub_fails_with_the_whole_reason() -> None:
    assert _failures(W8A8, _at(21.3), _runs(hub_db=25.5)) == (
        "android w8a8: output 'logits' is 21.3 dB from the float64 student, below its floor of 24.0 dB (quantized hub 25.5 dB - 1.5 dB)",
    )


@pytest.mark.parametrize("decibels, passes", [(24.01, True), (23.99, False), (60.0, True)])
def test_quantized_floor_is_the_hub_less_the_budget(decibels: float, passes: bool) -> None:
    assert (_failures(W8A8, _at(decibels), _runs(hub_db=25.5)) == ()) is passes


@pytest.mark.parametrize("decibels, passes", [(23.2, True), (22.4, False)])
def test_where_errors_differ_by_luck_sixteen_samples_allow_for_it_up_to_the_budget_again(decibels: float, passes: bool) -> None:
    assert (_failures(W8A8, _at(decibels), _runs(hub_db=25.5, hub_seed=2)) == ()) is passes


def test_many_samples_leave_nothing_to_luck() -> None:
    random = np.random.default_rng(6)
    reference = random.normal(size=(4000, 10))
    hub, artifact = (reference + scale * random.normal(size=reference.shape) for scale in (0.05, 0.061))
    runs = Runs({"x": reference}, {"x": reference}, {"x": hub})
    found = output_parity("x", W8A8, {"x": artifact}, runs, BUDGET)
    assert found.floor_db == pytest.approx(sqnr_db(reference, hub) - 1.5, abs=0.1)
    assert found.sqnr_db is not None and found.sqnr_db < found.floor_db


@pytest.mark.parametrize(("hub_db", "floor"), [(85.7, 48.5), (50.0, 50 - 3.01 - 1.5), (30.0, 30 - 0.04 - 1.5)])
def test_noise_of_fp16_adds_in_power_to_the_quantized_hubs_where_a_target_computes_in_it(hub_db: float, floor: float) -> None:
    half = ParityBudget(6.0, 1.5, quantized_reach_db=HALF_PRECISION_DB)
    runs = _runs(hub_db=hub_db)
    for decibels, passes in ((floor + 0.1, True), (floor - 0.1, False)):
        found = parity(W8A8, {"logits": _at(decibels)}, runs, half, "simulated")
        assert (judge_parity(found, "ios", "w8a8") == ()) is passes
        assert msgspec.json.decode(msgspec.json.encode(found), type=Parity) == found
    assert _failures(W8A8, _at(hub_db - 1.6), runs) != ()


@pytest.mark.parametrize(
    ("scheme", "hub_db", "floor"),
    [
        (W8, 40, 40 - 0.5),  # the very function of its hub
        (W8, 106, 106 - 3.01 - 0.5),  # beside fp32's own noise, allowed at 112 - 6 dB: two noises of one power
        (W8D8, 35, 35 - 1.5),
        (FP16, 70, 70 - 6),
    ],
)
def test_schemes_without_calibration_are_held_to_what_their_rounding_alone_leaves(scheme: Scheme, hub_db: float, floor: float) -> None:
    runs = _runs(student_db=112, hub_db=hub_db)
    assert _failures(scheme, _at(floor + 0.05), runs) == ()
    assert _failures(scheme, _at(floor - 0.05), runs) != ()


def test_weights_only_where_a_target_computes_in_fp16_adds_fp16s_noise() -> None:
    half = ParityBudget(6.0, 1.5, quantized_reach_db=HALF_PRECISION_DB)
    runs = _runs(hub_db=50)
    for decibels, passes in ((50 - 3.01 - 1.5 + 0.1, True), (50 - 3.01 - 1.5 - 0.1, False)):
        assert (judge_parity(parity(W8, {"logits": _at(decibels)}, runs, half, "simulated"), "ios", "w8") == ()) is passes


@pytest.mark.parametrize(("student_db", "floor"), [(200, OWN_CODES_DB), (45, 32), (30, 24)])
def test_a_student_with_codes_of_its_own_is_held_to_what_runtimes_of_one_quantized_network_keep(student_db: float, floor: float) -> None:
    runs = replace(_runs(student_db=student_db, hub_db=60), own_codes=True)
    assert _failures(W8A8, _at(floor + 0.1), runs) == ()
    (line,) = _failures(W8A8, _at(floor - 0.1), runs)
    assert "the student's own codes" in line


@pytest.mark.parametrize("scheme", [FP32, W8A8])
def test_a_float64_run_that_the_students_own_fp32_contradicts_judges_nothing(scheme: Scheme) -> None:
    """onnx's evaluator once took the batch's statistics for BatchNormalization's: 18.6 dB, and every relative floor sank with it."""
    runs = _runs(student_db=18.6, hub_db=18.7)
    (line,) = _failures(scheme, _at(18.6, 3), runs)
    assert "only 18.6 dB" in line and "one of the two is wrong" in line


def test_a_hub_that_lost_the_student_fails_however_well_the_artifact_repeats_it() -> None:
    runs = _runs(hub_db=3.2)
    assert runs.hub is not None
    (line,) = _failures(W8A8, np.asarray(runs.hub["logits"]), runs)
    assert "is 3.2 dB" in line and "floor of 6.0 dB" in line and "does not hold the student, try --ranges mse" in line


def test_a_miss_by_less_than_a_printed_digit_prints_more_digits() -> None:
    (line,) = _failures(W8A8, _at(23.996), _runs(hub_db=25.5))
    assert "is 23.996 dB" in line or "is 24.00 dB" not in line
    assert "is 24.0 dB from" not in line


@pytest.mark.parametrize("decibels, passes", [(106.1, True), (105.9, False)])
def test_fp32_floor_is_the_students_own_error_less_the_budget(decibels: float, passes: bool) -> None:
    assert (_failures(FP32, _at(decibels), _runs(student_db=112)) == ()) is passes


@pytest.mark.parametrize("student_db, words", [(float("inf"), "exact"), (149.6, "149.6 dB")])
def test_a_student_luckier_than_fp32_summation_sets_no_floor_for_other_orders_of_summation(student_db: float, words: str) -> None:
    runs = Runs({"logits": REFERENCE}, {"logits": REFERENCE}) if student_db == float("inf") else _runs(student_db=student_db)
    assert _failures(FP32, REFERENCE, runs) == ()
    assert _failures(FP32, _at(NETWORK_DB - 5.9), runs) == ()
    (line,) = _failures(FP32, _at(NETWORK_DB - 6.1), runs)
    assert f"student's own fp32 {words}, taken as 116 dB of fp32 summation - 6 dB" in line


def test_random_summation_order_of_512_terms_costs_what_the_floor_allows() -> None:
    terms = np.random.default_rng(8).standard_normal((2000, 512)).astype(np.float32)
    reordered = np.add.accumulate(terms, axis=1, dtype=np.float32)[:, -1]
    found = sqnr_db(terms.astype(np.float64).sum(axis=1), reordered)
    assert SUMMATION_DB - 6 < found < FLOAT32_ROUNDING_DB


def test_ten_layers_of_512_terms_in_another_order_stay_within_what_the_floor_allows() -> None:
    random = np.random.default_rng(9)
    exact = random.standard_normal((4, 512))
    lucky = exact.astype(np.float32)
    for _ in range(10):
        weights = (random.standard_normal((512, 512)) / np.sqrt(512)).astype(np.float32)
        exact = exact @ weights.astype(np.float64)
        lucky = np.add.accumulate(lucky[:, :, None] * weights, axis=1, dtype=np.float32)[:, -1]
    assert NETWORK_DB - 6 < sqnr_db(exact, lucky) < FLOAT32_ROUNDING_DB - 20


def test_float32_storage_of_an_exact_result_costs_153_decibels() -> None:
    exact = np.random.default_rng(5).uniform(1, 2, 200_000)
    runs = Runs({"x": exact}, {"x": exact.astype(np.float32)})
    found = output_parity("x", FP32, runs.student, runs, BUDGET)
    assert found.sqnr_db == pytest.approx(FLOAT32_ROUNDING_DB, abs=0.1)


def test_weight_only_schemes_have_no_floor_but_non_finite_outputs_still_fail() -> None:
    assert _failures(W4, _at(3), _runs()) == ()
    broken = REFERENCE.copy()
    broken[3, 0, 2:4] = np.nan, np.inf
    assert _failures(W4, broken, _runs()) == ("android w4b32: output 'logits' holds 2 NaN or infinite values",)


def test_a_non_finite_output_survives_json_as_a_failure() -> None:
    record = parity(W4, {"logits": np.full(REFERENCE.shape, np.nan)}, _runs(), BUDGET, "host")
    again = msgspec.json.decode(msgspec.json.encode(record), type=Parity)
    assert again == record
    assert judge_parity(again, "android", "w4b32") != ()


def test_an_exact_artifact_is_recorded_as_none_and_passes() -> None:
    found = output_parity("logits", FP32, {"logits": REFERENCE}, _runs(), BUDGET)
    assert (found.sqnr_db, found.max_abs_error, found.cosine) == (None, 0, 1)


def test_an_all_zero_reference_stays_finite_in_the_record() -> None:
    zero = np.zeros((4, 3))
    runs = Runs({"x": zero}, {"x": zero + 1e-9})
    found = output_parity("x", FP32, {"x": zero + 1e-9}, runs, BUDGET)
    assert isinstance(found, OutputParity)
    assert found.sqnr_db == found.floor_db == -999


@pytest.mark.parametrize(
    "artifact, runs, message",
    [
        ({"other": REFERENCE}, _runs(), "no output 'logits'"),
        ({"logits": REFERENCE[:, 0]}, _runs(), "has shape"),
        ({"logits": REFERENCE}, _runs(hub_db=None), "no run of the quantized hub"),
        ({"logits": REFERENCE}, Runs({"logits": REFERENCE * np.nan}, {"logits": REFERENCE}), "float64 run holds 160 NaN"),
        ({"logits": REFERENCE}, Runs({}, {}), "no output to compare"),
    ],
)
def test_what_cannot_be_judged_is_refused(artifact: dict[str, np.ndarray], runs: Runs, message: str) -> None:
    with pytest.raises(VerifyError, match=message) as caught:
        parity(W8A8, artifact, runs, BUDGET, "host")
    assert isinstance(caught.value, GateError)
    assert caught.value.hint


def _scores(classes: list[int]) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[classes][:, None]


def test_accuracy_counts_right_classes_and_pairs_them() -> None:
    labels = np.array([0, 1, 2, 3, 0])
    found = accuracy(_scores([0, 1, 2, 0, 1]), _scores([0, 1, 2, 3, 1]), labels)
    assert (found.samples, found.value.value, found.student, found.agreement) == (5, 0.6, 0.8, 0.8)
    assert found.drop.value == pytest.approx(0.2)


def test_nan_scores_are_wrong_and_agree_with_nothing() -> None:
    found = accuracy(np.full((5, 4), np.nan), np.full((5, 4), np.nan), np.zeros(5, np.int64))
    assert (found.value.value, found.student, found.agreement) == (0, 0, 0)


def test_a_drop_of_exactly_the_allowed_points_passes_and_one_sample_more_fails() -> None:
    labels = np.zeros(1000, np.int64)
    right = _scores([0] * 1000)
    at, over = _scores([1] * 5 + [0] * 995), _scores([1] * 6 + [0] * 994)
    assert judge_accuracy(accuracy(at, right, labels), 0.5, "ios", "w8a8") == ()
    (line,) = judge_accuracy(accuracy(over, right, labels), 0.5, "ios", "w8a8")
    assert line.startswith("ios w8a8: accuracy is 0.6 points below the student's 100.0 %, more than the 0.5 allowed")


def test_an_artifact_better_than_the_student_passes() -> None:
    labels = np.zeros(10, np.int64)
    assert judge_accuracy(accuracy(_scores([0] * 10), _scores([1] * 10), labels), 0.0, "ios", "w8a8") == ()


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        (np.ones((5, 4)), np.zeros(4, np.int64), "labels are"),
        (np.ones((5, 4)), np.zeros(5), "labels are float64"),
        (np.ones((5, 4)), np.full(5, 4), "outside the 4 classes"),
        (np.ones((5, 4)), np.full(5, -1), "outside the 4 classes"),
        (np.ones((5, 7, 4)), np.zeros(5, np.int64), "one score a class|not \\(samples, classes\\)"),
        (np.ones(5), np.zeros(5, np.int64), "not \\(samples, classes\\)"),
    ],
)
def test_scores_and_labels_that_do_not_fit_are_refused(scores: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        accuracy(scores, scores, labels)


def _classes(count: int, differing: int) -> np.ndarray:
    """Classes 0..3 of ``count`` pixels, the first ``differing`` of them one too high."""
    classes = np.random.default_rng(4).integers(0, 4, (16, count // 16))
    classes.reshape(-1)[:differing] += 1
    return classes


def _judged_classes(scheme: Scheme, artifact: int, hub: int, student: int = 0, count: int = 16000) -> OutputParity:
    hubs = None if scheme is FP32 else {"classes": _classes(count, hub)}
    runs = Runs({"classes": _classes(count, 0)}, {"classes": _classes(count, student)}, hubs)
    return output_parity("classes", scheme, {"classes": _classes(count, artifact)}, runs, BUDGET)


@pytest.mark.parametrize(
    ("scheme", "artifact", "hub", "passes"),
    [
        (W8A8, 400, 300, True),
        (W8A8, 616, 300, True),
        (W8A8, 617, 300, False),
        (W8A8, 0, 300, True),
        (FP32, 16, 0, True),
        (FP32, 17, 0, False),
        (FP16, 616, 300, True),
        (W8, 617, 300, False),
    ],
)
def test_classes_may_turn_twice_as_often_as_by_rounding_alone_and_one_in_a_thousand_besides(
    scheme: Scheme, artifact: int, hub: int, passes: bool
) -> None:
    found = _judged_classes(scheme, artifact, hub)
    assert (judge_parity(Parity("host", 16, (found,)), "android", "w8a8") == ()) is passes


def test_one_class_of_few_may_turn_and_the_reason_counts() -> None:
    assert judge_parity(Parity("host", 16, (_judged_classes(FP32, 1, 0, count=16),)), "ios", "fp32") == ()
    found = _judged_classes(FP32, 2, 0, count=16)
    assert found.floor_reason == "2 of 16 numbers differ, 0 in the student's own fp32, 1 allowed"
    (line,) = judge_parity(Parity("host", 16, (found,)), "ios", "fp32")
    assert "2 of 16 numbers differ" in line


def test_truth_values_where_all_should_be_false_are_judged_by_their_count() -> None:
    truth = {"mask": np.zeros((16, 100), np.bool_)}
    for differing, passes in ((1, True), (2, False)):
        answer = np.zeros((16, 100), np.bool_)
        answer.reshape(-1)[:differing] = True
        found = output_parity("mask", W8A8, {"mask": answer}, Runs(truth, truth, truth), BUDGET)
        assert (judge_parity(Parity("host", 16, (found,)), "android", "w8a8") == ()) is passes
