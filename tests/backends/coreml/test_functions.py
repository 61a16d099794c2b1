"""Functions, functions in pieces, tests of numbers, remainders and running sums, against float64 and ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.backends.table import BackendError
from edgepack.mil.program import Program
from tests.backends.functions import FUNCTIONS, domain, off_by

from .models import Arrays, make_model, run_onnxruntime, save, single

node = onnx.helper.make_node
RNG = np.random.default_rng(29)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def given_by(model: onnx.ModelProto, folder: Path, feed: Arrays, scheme: str = "fp32") -> Arrays:
    written = write(save(model, folder), folder, WriteOptions(scheme=scheme))
    assert lint(folder / written.file) == []
    given = Program.load(folder / written.file).run(feed)
    return {binding.hub_name: given[binding.name] for binding in written.outputs}


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_a_function_keeps_its_relative_accuracy_over_its_whole_domain(operator: str, tmp_path: Path) -> None:
    """At most a dozen roundings of 2^-24 a formula."""
    numbers = domain(operator)
    given = given_by(single(operator, numbers.shape), tmp_path, {"image": numbers})["result_0"]
    assert off_by(operator, given, numbers) < 12 * 2.0**-24


# What is given beside the input: a whole number is an int64 constant.
PIECES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "tan": ("Tan", [], {}),
    "selu": ("Selu", [], {}),
    "selu attributes": ("Selu", [], {"alpha": 1.0, "gamma": 2.0}),
    "celu": ("Celu", [], {"alpha": 0.4}),
    "celu plain": ("Celu", [], {}),
    "thresholded": ("ThresholdedRelu", [], {"alpha": 0.5}),
    "shrink": ("Shrink", [], {"bias": 0.25, "lambd": 0.5}),
    "fmod": ("Mod", [normal(5)], {"fmod": 1}),
    "lrn": ("LRN", [], {"size": 3, "alpha": 0.02, "beta": 0.6, "bias": 1.5}),
    "cumulative": ("CumSum", [np.asarray(1)], {}),
    "cumulative backwards": ("CumSum", [np.asarray(-1)], {"exclusive": 1, "reverse": 1}),
}


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize("name", PIECES)
def test_a_function_in_pieces_equals_onnxruntime(name: str, scheme: str, tmp_path: Path) -> None:
    """fp16 rounds input and result by 2^-11; next to a threshold the rounded input may be in another piece, so none is there."""
    operator, constants, attributes = PIECES[name]
    x = (np.round(normal(2, 3, 4, 5) * 4) / 4 + np.float32(0.0625)).astype(np.float32)
    held = [array if array.dtype != np.float32 else np.round(array * 4) / 4 + np.float32(1.5) for array in constants]
    model = single(operator, x.shape, held, **attributes)
    given = given_by(model, tmp_path, {"image": x}, scheme)["result_0"]
    wanted = run_onnxruntime(tmp_path / "hub.onnx", {"image": x})["result_0"]
    np.testing.assert_allclose(given, wanted, rtol=2e-6 if scheme == "fp32" else 8e-3, atol=2e-6 if scheme == "fp32" else 8e-3)


SPECIAL = np.asarray([0, -0.5, 0.5, 1, -1, 2, -3, 30, -30, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize(
    ("operator", "attributes"), [("IsNaN", {}), *(("IsInf", {"detect_negative": low}) for low in (0, 1)), ("IsInf", {"detect_positive": 0})]
)
def test_special_numbers_are_told_from_others(operator: str, attributes: dict[str, int], tmp_path: Path) -> None:
    nodes = [node(operator, ["image"], ["b"], **attributes), node("Cast", ["b"], ["y"], to=1)]
    given = given_by(make_model(nodes, {"image": SPECIAL.shape}, ["y"], {}), tmp_path, {"image": SPECIAL})["y"]
    assert np.array_equal(given, run_onnxruntime(tmp_path / "hub.onnx", {"image": SPECIAL})["y"])


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_of_whole_numbers_have_the_sign_they_must(fmod: int, tmp_path: Path) -> None:
    feed = {"image": np.asarray([5, -5, 5, -5, 6], np.float32), "other": np.asarray([3, 3, -3, -3, 3], np.float32)}
    casts = [node("Cast", [name], [f"{name}_whole"], to=6) for name in feed]
    nodes = [*casts, node("Mod", ["image_whole", "other_whole"], ["r"], fmod=fmod), node("Cast", ["r"], ["y"], to=1)]
    given = given_by(make_model(nodes, dict.fromkeys(feed, (5,)), ["y"], {}), tmp_path, feed)["y"]
    assert np.array_equal(given, run_onnxruntime(tmp_path / "hub.onnx", feed)["y"])


def test_a_window_without_a_middle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="LRN 'lrn': its window of 4 channels has no middle"):
        given_by(single("LRN", (1, 6, 2, 2), size=4), tmp_path, {})
