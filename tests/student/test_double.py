"""The float64 run of a torch student against numpy in float64."""

from typing import Any

import numpy as np
import pytest
import torch

from edgepack import Student
from tests.student.modules import Of1, network

X = np.random.default_rng(3).standard_normal((1, 4, 8)).astype(np.float32)
ONES = np.ones((8, 8))
# A sum of eight products in float64; any float32 on the way would leave 1e-8 or more.
FLOAT64 = 1e-13


def softmax(x: np.ndarray) -> np.ndarray:
    exponent = np.exp(x - x.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("function", "truth"),
    [
        (lambda self, x: x / 3, lambda x: x / 3),
        (lambda self, x: (x / 3) @ torch.ones(8, 8), lambda x: (x / 3) @ ONES),
        (lambda self, x: (x / 3).float() @ torch.ones(8, 8, dtype=torch.float32), lambda x: (x / 3) @ ONES),
        (lambda self, x: (x / 3).half().to(torch.float32), lambda x: x / 3),
        (lambda self, x: torch.softmax(x, -1, dtype=torch.float32).type_as(x), softmax),
        (lambda self, x: torch.cat([x / 3, torch.full((1, 1, 8), 0.1)], 1), lambda x: np.concatenate([x / 3, np.full((1, 1, 8), 0.1)], 1)),
    ],
    ids=["plain", "constant", "cast and typed constant", "half", "softmax in float32", "concatenation"],
)
def test_constants_and_casts_inside_forward_are_float64(function: Any, truth: Any) -> None:
    program = Student(Of1(function), (torch.from_numpy(X),), ["x"], ["y"]).program
    result = program.run_float64({"x": X})["y"]
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, truth(X.astype(np.float64)), rtol=0, atol=FLOAT64)


def test_an_exported_program_with_dtype_assertions_runs_in_float64() -> None:
    module = Of1(lambda self, x: (x / 3).to(torch.float32) @ torch.ones(8, 8))
    program = Student(torch.export.export(module, (torch.from_numpy(X),))).program
    result = program.run_float64({"x": X})["output_0"]
    np.testing.assert_allclose(result, (X.astype(np.float64) / 3) @ ONES, rtol=0, atol=FLOAT64)


def test_batchnorm_and_convolution_run_in_float64_and_leave_the_student_as_it_was() -> None:
    module = network()
    program = Student(module, (torch.ones(1, 3, 8, 8),), ["x"], ["y"]).program
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    before = program.run(feed)["y"]
    double = program.run_float64(feed)["y"]
    with torch.no_grad():
        truth = network().double()(torch.from_numpy(feed["x"]).double()).numpy()
    np.testing.assert_allclose(double, truth, rtol=0, atol=FLOAT64)
    np.testing.assert_array_equal(program.run(feed)["y"], before)
    assert before.dtype == np.float32 and torch.get_default_dtype() == torch.float32


def test_an_in_place_update_reaches_the_tensor_it_names() -> None:
    def update(self: Any, x: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(8, dtype=torch.float32)
        table[2:4] = x[0, 0, 2:4] / 3
        table += 1
        return table

    result = Student(Of1(update), (torch.from_numpy(X),), ["x"], ["y"]).program.run_float64({"x": X})["y"]
    truth = np.ones(8)
    truth[2:4] += X[0, 0, 2:4].astype(np.float64) / 3
    np.testing.assert_allclose(result, truth, rtol=0, atol=FLOAT64)


def test_a_view_of_a_tensor_that_is_no_parameter_is_promoted_too() -> None:
    """As anchors of a detector are held: a plain attribute, which ``module.double()`` leaves as it is."""
    module = Of1(lambda self, x: x / 3 * self.anchors[0].view(1, 1, 8))
    module.anchors = torch.full((2, 8), 3, dtype=torch.float32)
    result = Student(module, (torch.from_numpy(X),), ["x"], ["y"]).program.run_float64({"x": X})["y"]
    np.testing.assert_allclose(result, X.astype(np.float64), rtol=0, atol=FLOAT64)


def test_integers_stay_integers() -> None:
    program = Student(torch.nn.Embedding(4, 2), (torch.tensor([1, 3]),), ["ids"], ["y"]).program
    assert program.run_float64({"ids": np.asarray([1, 3])})["y"].dtype == np.float64


def test_the_default_type_is_restored_when_forward_raises() -> None:
    program = Student(Of1(lambda self, x: x.reshape(4, 8)), (torch.from_numpy(X),), ["x"], ["y"]).program
    with pytest.raises(Exception, match="forward raised"):
        program.run_float64({"x": X[:, :2]})
    assert torch.get_default_dtype() == torch.float32
