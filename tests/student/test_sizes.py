"""Sizes that stay open are declared by symbol, checked, and travel with the model."""

from collections.abc import Sequence

import onnx
import pytest
import torch
from onnx import helper

from edgepack.student.program import Student
from edgepack.student.sizes import checked, say_sizes, sizes_of
from edgepack.student.spec import StudentError, TensorSpec

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
