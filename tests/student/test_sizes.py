"""Sizes that stay open are declared by symbol, checked, and travel with the model."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from edgepack.student.program import Student
from edgepack.student.sizes import checked, refuse_other_answers, say_sizes, sizes_of
from edgepack.student.spec import StudentDescription, StudentError, TensorSpec

INPUTS = (TensorSpec("ids", "int64", ("batch", "sequence")), TensorSpec("mask", "int64", ("batch", "sequence")))
EXAMPLE = {"ids": (1, 16), "mask": (1, 16)}


def test_a_range_around_the_example_is_kept() -> None:
    assert checked({"sequence": (1, 128)}, INPUTS, EXAMPLE) == {"sequence": (1, 128)}


@pytest.mark.parametrize(
    ("sizes", "cause"),
    [
        ({"length": (1, 8)}, "'length', which no input has"),
        ({"sequence": (8, 1)}, "is no range"),
        ({"sequence": (0, 32)}, "is no range"),
        ({"sequence": (1, 2, 3)}, "is no range"),
        ({"sequence": (1.5, 32)}, "is no range"),
        ({"sequence": (17, 32)}, "sequence = 16, outside its range 17..32"),
    ],
)
def test_what_is_no_range_of_a_symbol_is_refused(sizes: dict[str, Sequence[int]], cause: str) -> None:
    with pytest.raises(StudentError, match=cause):
        checked(sizes, INPUTS, EXAMPLE)


def test_a_description_has_the_declared_sizes() -> None:
    spec = TensorSpec("x", shape=("batch", 4))
    student = Student(torch.nn.Linear(4, 2), (torch.zeros(1, 4),), [spec], ["y"], sizes={"batch": (1, 8)})
    assert student.describe("here").sizes == {"batch": (1, 8)}


def test_a_model_tells_its_sizes() -> None:
    model = helper.make_model(helper.make_graph([], "none", [], []))
    say_sizes(model, {"sequence": (1, 128), "batch": (1, 8)})
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert sizes_of(told) == {"batch": (1, 8), "sequence": (1, 128)}
    say_sizes(bare := onnx.ModelProto(), {})
    assert not bare.metadata_props and sizes_of({}) == {}


SPECS, EXAMPLE_ROW = [TensorSpec("x", shape=(1, "n"))], (torch.ones(1, 4),)


def described() -> StudentDescription:
    """A student whose n is 1 to 8."""
    return Student(torch.nn.ReLU(), EXAMPLE_ROW, SPECS, ["y"], sizes={"n": (1, 8)}).describe("here")


def test_a_capture_that_fixed_a_size_is_refused_by_what_it_answers() -> None:
    description = described()
    example = {"x": np.arange(1, 5, dtype=np.float32)[None]}
    doubled = lambda feed: {"y": feed["x"] * 2}  # noqa: E731
    refuse_other_answers(doubled, doubled, description, example)
    with pytest.raises(StudentError, match="at n 1 the captured model answers otherwise than the student in output 'y'"):
        refuse_other_answers(doubled, lambda feed: {"y": feed["x"] * feed["x"].shape[1] / 2}, description, example)
    with pytest.raises(StudentError, match="at n 8 the captured model"):
        refuse_other_answers(doubled, lambda feed: {"y": feed["x"][:, :4] * 2}, description, example)


def test_a_student_that_does_not_run_at_its_largest_size_is_refused() -> None:
    def at_most_4(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if feed["x"].shape[1] > 4:
            raise StudentError("the student's forward raised IndexError", "")
        return {"y": feed["x"]}

    description = described()
    with pytest.raises(StudentError, match="at n 8: the student's forward raised IndexError"):
        refuse_other_answers(at_most_4, at_most_4, description, {"x": np.ones((1, 4), np.float32)})
