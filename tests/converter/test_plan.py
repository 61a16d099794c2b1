"""Plans are checked whole before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepack.converter.plan import Plan, PlanError
from edgepack.converter.step import Limits, Output, Step
from edgepack.errors import InputError

NUMBER = Step("number", "tests.converter.sample_steps:write_number", {}, {"number": 4}, ("number.txt",))
DOUBLE = Step("double", "tests.converter.sample_steps:double", {"number": NUMBER["number.txt"]}, {}, ("doubled.txt",))


def doubling(name: str, source: Output | Path) -> Step:
    return Step(name, "tests.converter.sample_steps:double", {"number": source}, {}, ("doubled.txt",))


def test_steps_run_after_what_they_read_whatever_the_order_they_come_in() -> None:
    assert [step.name for step in Plan.of([DOUBLE, NUMBER]).steps] == ["number", "double"]


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(PlanError, match="share a name"):
        Plan.of([NUMBER, NUMBER])


def test_an_input_that_no_step_writes_is_named() -> None:
    with pytest.raises(PlanError, match=r"step double: no step writes its input number \(number/number.txt\)"):
        Plan.of([DOUBLE])
    with pytest.raises(PlanError, match="no step writes its input number"):
        Plan.of([NUMBER, doubling("double", Output("number", "letter.txt"))])


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"input number \(.*absent.txt\) does not exist"):
        Plan.of([doubling("double", tmp_path / "absent.txt")])


def test_steps_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(PlanError, match=r"steps wait for each other: (a -> b -> a|b -> a -> b)"):
        Plan.of([doubling("a", Output("b", "doubled.txt")), doubling("b", Output("a", "doubled.txt"))])


@pytest.mark.parametrize(
    "step",
    [
        Step("bad", "tests.converter.sample_steps:absent"),
        Step("bad", "tests.converter.absent:step"),
        Step("bad", "tests.converter.sample_steps"),
        Step("bad", ":step"),
        Step("bad", "tests.converter.sample_steps:write_number"),
        Step("bad", "tests.converter.sample_steps:write_number", {}, {"number": 1, "letter": "a"}),
    ],
    ids=["no function", "no module", "no name", "no module name", "argument missing", "argument unknown"],
)
def test_a_function_that_cannot_be_called_with_what_the_step_gives_is_refused(step: Step) -> None:
    with pytest.raises(PlanError, match=r"step bad: .* cannot be called with"):
        Plan.of([step])


def test_an_argument_that_is_input_and_parameter_at_once_is_refused(tmp_path: Path) -> None:
    step = Step("bad", "tests.converter.sample_steps:write_number", {"number": tmp_path}, {"number": 1})
    with pytest.raises(PlanError, match="one argument is given twice"):
        Plan.of([step])


def test_a_reference_to_a_file_the_step_does_not_declare_is_refused() -> None:
    with pytest.raises(KeyError, match=r"step number writes no letter.txt"):
        NUMBER["letter.txt"]


@pytest.mark.parametrize(("seconds", "size"), [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (1e9, 1), (1, 0)])
def test_limits_that_cannot_be_kept_are_refused(seconds: float, size: int) -> None:
    with pytest.raises(InputError, match="cannot hold -> next: give above 0"):
        Limits(seconds, size)
