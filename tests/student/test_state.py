"""What a state may be, and how it is carried."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgepack.student.spec import StudentError, TensorSpec
from edgepack.student.state import Arrays, carried, checked, say_state, state_of, with_states

INPUTS = (TensorSpec("x", "float32", (1,)), TensorSpec("past", "float32", (1, 2)))
OUTPUTS = (TensorSpec("y", "float32", (1,)), TensorSpec("next", "float32", (1, 2)))


def total(feed: Arrays) -> Arrays:
    return {"y": feed["x"], "next": feed["past"] + feed["x"]}


def steps(count: int) -> list[Arrays]:
    return [{"x": np.ones(1, np.float32), "past": np.zeros((1, 2), np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("state", "outputs", "message"),
    [
        ({"before": "next"}, OUTPUTS, "the state names input 'before'"),
        ({"past": "after"}, OUTPUTS, "the state names output 'after'"),
        ({"past": "y"}, OUTPUTS, r"state input 'past' is float32\[1, 2\] and its output 'y' is float32\[1\]"),
        ({"x": "y", "past": "next"}, OUTPUTS, "every input of the student is state"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name(state: dict[str, str], outputs: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(StudentError, match=message):
        checked(state, INPUTS, outputs)


def test_later_steps_take_what_the_step_before_gave() -> None:
    answers = carried(total, steps(3), {"past": "next"})
    assert [float(answer["next"][0, 0]) for answer in answers] == [1, 2, 3]
    assert [float(answer["next"][0, 0]) for answer in carried(total, steps(3), {})] == [1, 1, 1]


def test_rows_of_a_sequence_hold_the_state_before_each_step() -> None:
    assert with_states(total, steps(3), {"past": "next"})["past"][:, 0, 0].tolist() == [0, 1, 2]


def test_a_model_of_the_build_tells_its_state() -> None:
    model = onnx.ModelProto()
    assert state_of(model) == {}
    say_state(model, {"past": "next"})
    assert state_of(model) == {"past": "next"}
