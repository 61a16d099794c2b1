"""Elements taken and put by index: both formats answer as onnxruntime, for indices that are known and for those of run time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.backends.table import BackendError
from edgepack.hub.canonical import run_plain
from tests.backends.both_formats import FORMATS, artifact_outputs, one_node

RNG = np.random.default_rng(11)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values: Any) -> Any:
    return np.asarray(values, np.int64)


X = normal(3, 4, 5)
# operator, inputs after the data, attributes. Indices count from both ends; updates that meet in one place have a reduction.
CASES: dict[str, tuple[str, Any, list[Any], dict[str, Any]]] = {
    "gather elements": ("GatherElements", X, [RNG.integers(-4, 4, (3, 6, 5))], {"axis": 1}),
    "gather elements shorter": ("GatherElements", X, [RNG.integers(-3, 3, (5, 2, 4))], {}),
    "gather elements last axis": ("GatherElements", X, [RNG.integers(-5, 5, (3, 4, 7)).astype(np.int32)], {"axis": -1}),
    "gather nd rows": ("GatherND", X, [i64([[0], [-1]], [[2], [1]])], {}),
    "gather nd elements": ("GatherND", X, [i64([0, 1, -1], [-1, -4, 2])], {}),
    "gather nd batch": ("GatherND", X, [RNG.integers(-4, 4, (3, 2, 1))], {"batch_dims": 1}),
    "gather nd batches": ("GatherND", X, [RNG.integers(-5, 5, (3, 4, 1))], {"batch_dims": 2}),
    "gather nd bool": ("GatherND", X > 0, [i64([0, 1], [-1, 2])], {}),
    "scatter nd rows": ("ScatterND", X, [i64([2], [-3]), normal(2, 4, 5)], {}),
    "scatter nd elements": ("ScatterND", X, [i64([2, 0, -1], [0, -4, 3]), normal(2)], {}),
    "scatter nd bool": ("ScatterND", X > 0, [i64([2, 1], [0, 3]), normal(2, 5) > 0], {}),
    "scatter nd whole": ("ScatterND", i64(*range(6)).astype(np.int32), [i64([2], [-1]), i64(70, 80).astype(np.int32)], {}),
    **{
        f"scatter nd {reduction}": ("ScatterND", X, [i64([1, 2], [0, 0], [1, -2]), normal(3, 5)], {"reduction": reduction})
        for reduction in ("add", "mul", "max", "min")
    },
    "scatter nd all rows": ("ScatterND", X, [i64([0], [1], [2]), normal(3, 4, 5)], {"reduction": "add"}),
    "scatter nd first rows": ("ScatterND", X, [i64([0], [1]), normal(2, 4, 5)], {"reduction": "max"}),
    "scatter elements": ("ScatterElements", X, [i64([[0, 2, 1, 1, 0]], [[3, 3, -2, 0, 1]]), normal(2, 1, 5)], {"axis": 1}),
    "scatter elements every place": ("ScatterElements", X, [np.argsort(normal(3, 4, 5), axis=2), normal(3, 4, 5)], {"axis": -1}),
    "scatter elements add": ("ScatterElements", X, [RNG.integers(-3, 3, (5, 4, 5)), normal(5, 4, 5)], {"reduction": "add"}),
    "scatter elements max": ("ScatterElements", X, [RNG.integers(-3, 3, (5, 2, 4)), normal(5, 2, 4)], {"reduction": "max"}),
}


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("computed", [False, True], ids=["known", "run_time"])
@pytest.mark.parametrize("name", CASES)
def test_indices_mean_what_they_mean_in_onnxruntime(name: str, computed: bool, format_name: str, tmp_path: Path) -> None:
    operator, data, others, attributes = CASES[name]
    inputs = {"x": data} | {f"i{index}": array for index, array in enumerate(others)}
    given = len(inputs) if computed else 1
    model, feed = one_node(operator, inputs, given, **attributes), dict(list(inputs.items())[:given])
    wanted = run_plain(model, feed)["y"]
    # Elements are moved as they are; sums and products of three numbers round differently at most twice.
    np.testing.assert_allclose(artifact_outputs(model, feed, format_name, tmp_path)["y"], wanted, rtol=2**-22, atol=2**-22)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot_leaves_out_what_is_no_class(axis: int, format_name: str, tmp_path: Path) -> None:
    indices = np.asarray([[0, 2, -1], [-3, 3, -4]])
    held = {"x": indices, "depth": np.asarray(3, np.int64), "values": np.asarray([-1.5, 2], np.float32)}
    model = one_node("OneHot", held, axis=axis)
    wanted = run_plain(model, {"x": indices})["y"]
    np.testing.assert_array_equal(artifact_outputs(model, {"x": indices}, format_name, tmp_path)["y"], wanted)


def test_a_reduction_at_run_time_over_too_many_rows_is_refused_by_name(tmp_path: Path) -> None:
    held = {"x": normal(4096, 16), "i": RNG.integers(0, 4096, (512, 1)), "u": normal(512, 16)}
    model = one_node("ScatterND", held, 3, reduction="max")
    with pytest.raises(BackendError, match=r"ScatterND '.*': reduction max at indices computed at run time has no kernel"):
        artifact_outputs(model, held, "tflite", tmp_path)
