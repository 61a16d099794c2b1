"""An artifact with open sizes is judged at the ends of its range and between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepack.backends.artifact import ArtifactDescription, Binding
from edgepack.pack.manifest import SizeParity
from edgepack.quantize.scheme import Scheme
from edgepack.student.sizes import sizes_to_check
from edgepack.verify.sized import sample_at, size_failures, size_parity

Arrays = dict[str, NDArray[Any]]
INPUT = Binding("x", "image", "float32", ("n", 4, 5, 3), (0, 2, 3, 1))
DESCRIBED = ArtifactDescription("model.tflite", (INPUT,), (Binding("y", "scores", "float32", ("n",)),), "litert", sizes={"n": (1, 9)})
GOLDEN = {"image": np.random.default_rng(0).standard_normal((6, 2, 3, 4, 5)).astype(np.float32)}


def hub(feed: Arrays) -> Arrays:
    return {"scores": feed["image"].sum((1, 2, 3))}


def with_error(size: float, at: int = 0) -> Any:
    """An artifact whose answers are off by a share of each, at one batch or (0) at all."""

    def answer(feed: Arrays) -> Arrays:
        scores = hub(feed)["scores"]
        return {"scores": scores * (1 + size) if at in (0, len(scores)) else scores}

    return answer


def test_a_range_is_checked_at_its_ends_and_in_the_middle() -> None:
    assert sizes_to_check({"t": (1, 128)}) == [{"t": 1}, {"t": 64}, {"t": 128}]
    assert sizes_to_check({"t": (1, 2), "n": (4, 4)}) == [{"t": 1, "n": 4}, {"t": 2, "n": 4}]


def test_a_larger_batch_is_made_of_the_golden_samples_in_their_order() -> None:
    held = sample_at(GOLDEN, DESCRIBED.inputs, {"n": 5})["image"]
    np.testing.assert_array_equal(held, GOLDEN["image"].reshape(-1, 3, 4, 5)[:5])


def test_the_same_answers_at_every_size_pass() -> None:
    found = size_parity(Scheme.parse("fp32"), DESCRIBED, GOLDEN, hub, hub)
    assert [held.sizes["n"] for held in found] == [2, 1, 5, 9]
    assert all(held.sqnr_db is None for held in found) and size_failures(found, "android", "fp32") == ()


@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_wrong_answers_at_one_size_alone_fail_there(scheme: str) -> None:
    found = size_parity(Scheme.parse(scheme), DESCRIBED, GOLDEN, with_error(0.5, at=9), hub)
    (line,) = size_failures(found, "android", scheme)
    assert line.startswith(f"android {scheme}: at n 9 it is 6.0 dB from its hub")


def test_a_scheme_that_is_coarse_at_every_size_alike_passes() -> None:
    found = size_parity(Scheme.parse("fp16"), DESCRIBED, GOLDEN, with_error(1e-3), hub)
    assert all(held.sqnr_db == pytest.approx(60, abs=0.1) for held in found)
    assert size_failures(found, "android", "fp16") == ()


def one_row(feed: Arrays) -> Arrays:
    return {"scores": hub(feed)["scores"][:1]}


def no_number(feed: Arrays) -> Arrays:
    return {"scores": hub(feed)["scores"] * np.nan}


@pytest.mark.parametrize("answer", [one_row, no_number])
def test_another_shape_or_no_number_is_as_wrong_as_can_be(answer: Any) -> None:
    found = size_parity(Scheme.parse("fp32"), DESCRIBED, GOLDEN, lambda feed: (answer if len(feed["image"]) == 5 else hub)(feed), hub)
    (line,) = size_failures(found, "android", "fp32")
    assert "at n 5 it is -999.0 dB" in line


def test_a_failure_names_all_sizes() -> None:
    lines = size_failures([SizeParity({"n": 8, "t": 128}, 12.5, 90.0)], "ios", "fp32")
    assert lines == ("ios fp32: at n 8, t 128 it is 12.5 dB from its hub, below 90.0",)
