"""A sample of Apple's operator tests, and the harness's own rules."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgepack.mil.operation import implemented

from . import apple
from .compare import HALF_UNIT, Tolerance, compare
from .outcomes import Outcome, Tally, append, involving, read
from .report import verdict

needs_apple = pytest.mark.skipif(bool(apple.missing()), reason=apple.missing() or "present")


@needs_apple
@pytest.mark.slow
@pytest.mark.parametrize("file", ["iOS14/test_pool.py", "iOS14/test_conv.py", "iOS14/test_activation.py", "iOS17/test_quantization.py"])
def test_a_sample_of_apples_cases_agrees(file: str) -> None:
    (path,) = apple.files(file)
    outcomes = apple.run_file(path, apple.Limits(sample=24, seconds=300))
    counts = Tally.of(outcomes).counts
    assert counts["pass"] > 0 and counts["wrong"] == 0, verdict(outcomes, implemented())


def test_fp16_allows_the_roundings_and_fp32_only_apples_tolerance() -> None:
    want = np.array([0.0, 8.0])
    np.testing.assert_allclose(Tolerance(1e-4, 1e-5, 0).of(want), [1e-4, 1.8e-4])
    np.testing.assert_allclose(Tolerance(0.0, 0.0, 3).of(want), 3 * HALF_UNIT * 8)


@pytest.mark.parametrize(
    ("expected", "kind"),
    [([1.0, 3.0], "pass"), ([1.0, 3.1], "wrong"), ([[1.0, 3.0]], "wrong")],
    ids=["same", "other value", "other shape"],
)
def test_a_real_package_is_judged_by_value_and_shape(expected: object, kind: str) -> None:
    pytest.importorskip("coremltools")
    found = compare(_doubled_plus_one(), {"x": np.array([0, 1], np.float32)}, {"y": np.array(expected)}, Tolerance(1e-4, 1e-5, 0))
    assert (found.kind, found.operators) == (kind, ("add", "mul"))


def test_a_case_without_expected_values_does_not_count_as_passed() -> None:
    found = compare(_doubled_plus_one(), {"x": np.array([0, 1], np.float32)}, None, Tolerance(1e-4, 1e-5, 0))
    assert found.kind == "no_values"


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


def _doubled_plus_one() -> SimpleNamespace:
    """``2 x + 1`` as a converted model."""
    from edgepack.mil.environment import coremltools

    ct = coremltools()
    from coremltools.converters.mil.mil import Builder, Function

    program = ct.converters.mil.mil.Program()
    with Function({"x": Builder.placeholder(shape=(2,))}, opset_version=ct.target.iOS17) as function:
        function.set_outputs([Builder.add(x=Builder.mul(x=function.inputs["x"], y=np.float32(2)), y=np.float32(1), name="y")])
    program.add_function("main", function)
    return ct.convert(  # type: ignore[no-any-return]
        program, minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT32, skip_model_load=True
    )
