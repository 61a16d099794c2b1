"""Kernels in fp16: every number is one, sums are kept, and no tap moves far."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from edgepack.hub.graph import constant
from edgepack.quantize.half import rounded_to_half
from edgepack.quantize.kernels import keeping_sums, with_half_kernels
from edgepack.verify.metrics import sqnr_db
from tests.quantize.graphs import hub, run_all, samples

WEIGHTS = hnp.arrays(np.float32, (2, 3, 3, 3), elements=st.floats(-100, 100, width=32))


def exact_sum(taps: np.ndarray) -> float:
    """Of float32 numbers, without any rounding but the last."""
    return float(sum((Fraction(float(tap)) for tap in taps), Fraction(0)))


def plain(weight: np.ndarray) -> np.ndarray:
    return weight.astype(np.float16).astype(np.float32)


@given(WEIGHTS)
def test_every_tap_is_an_fp16_number_within_a_step_of_the_largest(weight: np.ndarray) -> None:
    found = keeping_sums(weight)
    np.testing.assert_array_equal(plain(found), found)
    # Half a step of rounding, and what the tap before it, of no coarser steps than the largest, handed on: as much again.
    step = np.spacing(np.abs(weight).max(axis=(2, 3), keepdims=True).astype(np.float16)).astype(np.float64)
    assert (np.abs(found.astype(np.float64) - weight) <= step).all()


@given(WEIGHTS)
def test_the_sum_of_taps_is_kept_to_half_a_step_of_what_the_last_tap_became(weight: np.ndarray) -> None:
    found = keeping_sums(weight)
    for before, after in zip(weight.reshape(6, 9), found.reshape(6, 9), strict=True):
        last = after[np.argsort(-np.abs(before), kind="stable")[-1]]
        half_step = float(np.spacing(np.abs(np.float16(last)))) / 2
        # Nine sums in float64 of numbers below 200 besides.
        assert abs(exact_sum(before) - exact_sum(after)) <= half_step + 9 * 200 * 2.0**-52


def test_a_kernel_that_fp16_holds_is_left_as_it_is() -> None:
    weight = plain(np.random.default_rng(0).normal(size=(4, 2, 5, 5)).astype(np.float32))
    np.testing.assert_array_equal(keeping_sums(weight), weight)


@pytest.mark.parametrize("largest", [1e5, np.inf, np.nan])
def test_a_kernel_beyond_fp16_is_left_to_the_writers_that_refuse_it(largest: float) -> None:
    weight = np.full((2, 1, 3, 3), 0.1, np.float32)
    weight[1, 0, 0, 0] = largest
    found = keeping_sums(weight)
    np.testing.assert_array_equal(found[1], weight[1])
    assert (found[0] != weight[0]).any()


def sharpening(pointwise: bool = False) -> ir.Model:
    """Depthwise kernels of large taps that nearly cancel; the 1x1 kernels after them are fp16 numbers unless ``pointwise``."""
    random = np.random.default_rng(3)
    weight = random.normal(0, 8, (3, 1, 3, 3)).astype(np.float32)
    weight[:, :, 1, 1] -= weight.sum(axis=(2, 3)) - np.float32(0.3)
    one_tap = plain(random.normal(0, 1, (4, 3, 1, 1)).astype(np.float32)) * np.float32(1 + 2**-14 * pointwise)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], group=3), helper.make_node("Conv", ["c", "p"], ["y"])]
    return hub(nodes, {"w": weight, "p": one_tap})


def test_on_smooth_pictures_cancelling_kernels_lose_a_tenth_of_what_plain_rounding_costs() -> None:
    model, data = sharpening(), samples(8)
    data.arrays["x"][:] = data.arrays["x"].mean(axis=(3, 4), keepdims=True) + 1e-3 * data.arrays["x"]
    exact = run_all(model, data)
    rounded, kept = (run_all(rounded_to_half(each, False), data) for each in (model, with_half_kernels(model)))
    assert sqnr_db(exact, kept) > sqnr_db(exact, rounded) + 10


def test_kernels_of_one_tap_and_the_model_itself_are_left_as_they_were() -> None:
    model = sharpening(pointwise=True)
    before = ir.to_proto(model).SerializeToString()
    after = with_half_kernels(model)
    assert ir.to_proto(model).SerializeToString() == before
    held, found = (
        {node.inputs[1].name: constant(node.inputs[1]) for node in each.graph if node.op_type == "Conv"} for each in (model, after)
    )
    assert [name for name in held if not np.array_equal(held[name], found[name])] == ["w"]  # type: ignore[arg-type]
