"""A sample of Apple's operator tests, and the harness's own rules."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edgepack.mil.ops  # noqa: F401 - registers what is implemented
from edgepack.mil.operation import implemented

from . import apple
from .compare import HALF_UNIT, MISPRINTS, PREDICTED, Comparison, Tolerance, compare, judge_failure, roundings_of
from .operators import emitted
from .outcomes import Kind, Outcome, Tally, append, involving, read
from .report import markdown, meets_bar, verdict

needs_apple = pytest.mark.skipif(bool(apple.missing()), reason=apple.missing() or "present")


@needs_apple
@pytest.mark.slow
@pytest.mark.parametrize("file", ["iOS14/test_pool.py", "iOS14/test_conv.py", "iOS14/test_activation.py", "iOS17/test_quantization.py"])
def test_a_sample_of_apples_cases_agrees(file: str) -> None:
    (path,) = apple.files(file)
    outcomes = apple.run_file(path, apple.Limits(sample=24, seconds=300))
    counts = Tally.of(outcomes).counts
    assert counts["pass"] > 0 and counts["wrong"] == 0, verdict(outcomes, emitted())


def test_fp16_allows_the_roundings_and_fp32_only_apples_tolerance() -> None:
    want = np.array([0.0, 8.0])
    np.testing.assert_allclose(Tolerance(1e-4, 1e-5, 0).of(want), [1e-4, 1.8e-4])
    np.testing.assert_allclose(Tolerance(0.0, 0.0, 3).of(want), 3 * HALF_UNIT * 8)
    np.testing.assert_allclose(Tolerance(0.0, 0.0, 3, summed=20).of(want), 3 * HALF_UNIT * 20)


@pytest.mark.parametrize(
    ("expected", "kind"),
    [([1.0, 3.0], "pass"), ([1.0, 3.1], "wrong"), ([[1.0, 3.0]], "wrong")],
    ids=["same", "other value", "other shape"],
)
def test_a_real_package_is_judged_by_value_and_shape(expected: object, kind: str) -> None:
    pytest.importorskip("coremltools")
    found = compare(_doubled_plus_one(), {"x": np.array([0, 1], np.float32)}, {"y": np.array(expected)})
    assert (found.kind, found.operators) == (kind, ("add", "mul"))


def test_a_case_without_expected_values_does_not_count_as_passed() -> None:
    found = compare(_doubled_plus_one(), {"x": np.array([0, 1], np.float32)}, None)
    assert found.kind == "no_values"


@pytest.mark.parametrize(
    ("crash", "comparison", "kind"),
    [
        ("Failed: DID NOT RAISE RuntimeError", Comparison("refused", "takes an index outside [0, 1]"), "no_values"),
        ("Failed: DID NOT RAISE RuntimeError", Comparison("refused", "is not implemented by the interpreter"), "refused"),
        ("Failed: DID NOT RAISE RuntimeError", Comparison("pass"), "wrong"),
        ("RuntimeError: has mode x", Comparison("refused", "has mode x"), "refused"),
        ("AssertionError: Not equal to tolerance", Comparison("pass", PREDICTED), "wrong"),
        ("assert 0 == 2", Comparison("pass"), "harness"),
        ("ImportError: no tensorflow", None, "harness"),
    ],
)
def test_a_failure_beside_the_comparisons_is_judged_by_what_the_test_demands(crash: str, comparison: Comparison | None, kind: Kind) -> None:
    assert judge_failure(crash, [comparison] if comparison else [])[0] == kind


def test_a_misprint_is_corrected_for_its_operation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    feed, printed = {"x": np.array([0, 1], np.float32)}, {"y": np.array([1.0, 2.9], np.float32)}
    assert compare(_doubled_plus_one(), feed, printed).kind == "wrong"
    monkeypatch.setitem(MISPRINTS, "mul", {2.9: 3.0})
    assert compare(_doubled_plus_one(), feed, printed).kind == "pass"


def test_a_file_that_takes_too_long_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = apple.files("iOS14/test_pool.py") or [Path("absent.py")]
    (outcome,) = apple.run_file(path, apple.Limits(sample=1, seconds=0.05))
    assert (outcome.kind, outcome.reason) == ("harness", "stopped after 0.05 s")


def test_only_cases_with_values_of_known_operators_enter_the_share(tmp_path: Path) -> None:
    outcomes = [
        Outcome("a", "1", "pass", operators=("add",)),
        Outcome("a", "2", "refused", "has mode x", ("add",)),
        Outcome("a", "3", "refused", "is not implemented", ("add", "einsum")),
        Outcome("a", "4", "no_values"),
    ]
    for outcome in outcomes:
        append(tmp_path / "outcomes", outcome)
    assert read(tmp_path / "outcomes") == outcomes
    held = Tally.of(involving(outcomes, ["add", "mul"]))
    assert (held.compared, held.share) == (2, 0.5)


@pytest.mark.parametrize(
    ("kinds", "meets"),
    [(["pass"] * 97 + ["refused"] * 3, True), (["pass"] * 96 + ["refused"] * 4, False), (["pass"] * 99 + ["wrong"], False), ([], False)],
)
def test_the_bar_is_97_percent_and_nothing_wrong(kinds: list[Kind], meets: bool) -> None:
    outcomes = [Outcome("a", str(at), kind, operators=("add",)) for at, kind in enumerate(kinds)]
    assert meets_bar(outcomes, ["add"]) is meets


def test_a_refused_case_counts_whatever_its_operator() -> None:
    outcomes = [Outcome("a", str(at), "pass", operators=("add",)) for at in range(97)]
    refused = [Outcome("a", f"r{at}", "refused", operators=("einsum",)) for at in range(4)]
    assert meets_bar([*outcomes, *refused[:3]], ["add"]) and not meets_bar([*outcomes, *refused], ["add"])


def test_a_wrong_case_of_an_operator_nobody_emits_still_fails_the_bar() -> None:
    assert not meets_bar([Outcome("a", "1", "pass", operators=("add",)), Outcome("a", "2", "wrong", operators=("einsum",))], ["add"])


def test_the_document_tells_every_refusal_of_an_operator_used() -> None:
    outcomes = [Outcome("a", "1", "refused", "has mode x", ("add",)), Outcome("a", "2", "pass", operators=("add", "mul"))]
    told = markdown(outcomes, ["add", "mul", "sub"], "9.0", 60)
    assert "| add | 2 | 1 | 1 | 0 | 50.0% |" in told and "| sub | 0 | 0 | 0 | 0 |  |" in told
    assert "| has mode x | 1 |" in told.partition("of the operators used\n")[2].partition("## By file")[0]


@needs_apple
def test_every_operation_the_backend_emits_is_found_in_its_code_and_implemented() -> None:
    """Of each way to name one: a literal, a table's value, an f-string held by a closure."""
    found = emitted()
    assert {"conv", "leaky_relu", "real_div", "reduce_mean", "constexpr_affine_dequantize"} <= set(found)
    assert {name for name in found if not name.startswith("constexpr_")} <= set(implemented())


@needs_apple
def test_only_values_a_package_declares_as_fp16_are_counted_as_rounded() -> None:
    assert roundings_of(_doubled_plus_one()) == 0
    # x as fp16, the constant 2, the product, the constant 1, the sum, and Apple's expectation.
    assert roundings_of(_doubled_plus_one("fp16")) == 6


def _doubled_plus_one(dtype: str = "fp32") -> SimpleNamespace:
    """``2 x + 1`` as a converted model."""
    from edgepack.mil.environment import coremltools

    ct = coremltools()
    from coremltools.converters.mil.mil import Builder, Function

    number = {"fp32": np.float32, "fp16": np.float16}[dtype]
    program = ct.converters.mil.mil.Program()
    with Function({"x": Builder.placeholder(shape=(2,))}, opset_version=ct.target.iOS17) as function:
        x = function.inputs["x"] if dtype == "fp32" else Builder.cast(x=function.inputs["x"], dtype=dtype)
        found = Builder.add(x=Builder.mul(x=x, y=number(2)), y=number(1), name="y")
        function.set_outputs([found if dtype == "fp32" else Builder.cast(x=found, dtype="fp32", name="z")])
    program.add_function("main", function)
    return ct.convert(  # type: ignore[no-any-return]
        program, minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT32, skip_model_load=True
    )
