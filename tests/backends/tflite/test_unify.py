"""Artifacts with open sizes answer as onnxruntime does at every size of their range, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from edgepack.backends.table import BackendError
from edgepack.backends.tflite import lint
from edgepack.backends.tflite.unify import Line, line_through
from edgepack.inspection.tflite_file import inspect
from edgepack.runner.litert import LiteRTSession
from tests.backends.sized import Arrays, Open, Written
from tests.hub.graphs import normal

node = helper.make_node
# An fp32 sum of a few hundred terms in another order: 2^-24 * sqrt(400) is 1e-6 of the largest term.
CLOSE = 1e-5


class Runs:
    """One session for all sizes, as an application has it: inputs grow and shrink."""

    def __init__(self) -> None:
        self._session: LiteRTSession | None = None

    def __call__(self, path: Path, feed: Arrays) -> Arrays:
        self._session = self._session or LiteRTSession(str(path), 1)
        self._session.set_inputs(feed)
        self._session.invoke()
        return self._session.outputs()


def ints(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def sequence(*nodes: Any, **weights: NDArray[Any]) -> Open:
    """(1, t, 6) with t in 3..40, 8 in the example."""
    return Open(nodes, (1, "t", 6), {"t": (3, 40)}, {"t": 8}, weights)


def wave(*nodes: Any, **weights: NDArray[Any]) -> Open:
    """(1, 4, t) with t in 16..99, 50 in the example."""
    return Open(nodes, (1, 4, "t"), {"t": (16, 99)}, {"t": 50}, weights)


def image(*nodes: Any, **weights: NDArray[Any]) -> Open:
    """NCHW (n, 3, 8, 9) with n in 1..8, 1 in the example."""
    return Open(nodes, ("n", 3, 8, 9), {"n": (1, 8)}, {"n": 1}, weights, "NCHW")


def both(*nodes: Any, **weights: NDArray[Any]) -> Open:
    """(n, t, 6) with both open."""
    return Open(nodes, ("n", "t", 6), {"n": (1, 6), "t": (1, 30)}, {"n": 1, "t": 8}, weights)


def shape_of(*entries: str | int) -> list[Any]:
    """Nodes that compute ``shape`` from x: "0" is its first size."""
    gathers = [node("Gather", ["sizes", f"i{entry}"], [f"s{entry}"]) for entry in entries if isinstance(entry, str)]
    parts = [f"s{entry}" if isinstance(entry, str) else f"c{entry}" for entry in entries]
    return [node("Shape", ["x"], ["sizes"]), *gathers, node("Concat", parts, ["shape"], axis=0)]


HELD: dict[str, NDArray[Any]] = {"i0": ints(0), "i1": ints(1), "i2": ints(2), "c2": ints(2), "c3": ints(3), "c18": ints(18)}
ATTENTION = [
    *shape_of("0", "1", 2, 3),
    *(node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"),
    *(node("Reshape", [name, "shape"], [f"{name}s"]) for name in "qkv"),
    node("Transpose", ["qs"], ["qh"], perm=[0, 2, 1, 3]),
    node("Transpose", ["ks"], ["kh"], perm=[0, 2, 3, 1]),
    node("Transpose", ["vs"], ["vh"], perm=[0, 2, 1, 3]),
    node("MatMul", ["qh", "kh"], ["scores"]),
    node("Softmax", ["scores"], ["p"]),
    node("MatMul", ["p", "vh"], ["mixed"]),
    node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
    node("Shape", ["x"], ["whole"]),
    node("Reshape", ["back", "whole"], ["y"]),
]
PROJECTIONS = {f"w{name}": normal(6, 6, seed=place) for place, name in enumerate("qkv")}

CASES = {
    "attention": sequence(*ATTENTION, **HELD, **PROJECTIONS),
    "attention of a batch": both(*ATTENTION, **HELD, **PROJECTIONS),
    "positions from a table": sequence(
        node("Shape", ["x"], ["sizes"]),
        node("Slice", ["sizes", "i1", "c2"], ["t"]),
        node("Slice", ["table", "i0", "t", "i1"], ["places"]),
        node("Add", ["x", "places"], ["y"]),
        table=normal(1, 40, 6),
        **HELD,
    ),
    "the last row": sequence(
        node("Gather", ["x", "last"], ["y"], axis=1),
        last=np.asarray(-1, np.int64),
    ),
    "without its ends": sequence(node("Slice", ["x", "i1", "minus", "i1"], ["y"]), minus=ints(-1), i1=ints(1)),
    "a mean": sequence(node("ReduceMean", ["x", "i1"], ["y"], keepdims=0), i1=ints(1)),
    "a row in front": sequence(node("Concat", ["first", "x"], ["y"], axis=1), first=normal(1, 1, 6)),
    "every pair": sequence(
        node("Unsqueeze", ["x", "i1"], ["a"]), node("Unsqueeze", ["x", "i2"], ["b"]), node("Sub", ["a", "b"], ["y"]), i1=ints(1), i2=ints(2)
    ),
    "spread": sequence(
        node("Shape", ["x"], ["sizes"]), node("Expand", ["row", "sizes"], ["rows"]), node("Mul", ["rows", "x"], ["y"]), row=normal(1, 6)
    ),
    "flattened": both(node("Reshape", ["x", "flat"], ["f"]), node("Softmax", ["f"], ["y"]), flat=ints(0, -1)),
    "strided convolutions": wave(
        node("Conv", ["x", "w"], ["a"], strides=[4], pads=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v"], ["c"], strides=[2], pads=[1, 1]),
        node("MaxPool", ["c"], ["y"], kernel_shape=[2], strides=[2], pads=[1, 0]),
        w=normal(8, 4, 7),
        v=normal(5, 8, 3, seed=1),
    ),
    "a transposed convolution": wave(node("ConvTranspose", ["x", "w"], ["y"], strides=[2], pads=[1, 1]), w=normal(4, 5, 4)),
    "an average that leaves padding out": wave(node("AveragePool", ["x"], ["y"], kernel_shape=[3], pads=[1, 1])),
    "a global pool": wave(node("GlobalAveragePool", ["x"], ["y"])),
    "images of a batch": image(
        node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Flatten", ["b"], ["f"]),
        node("Gemm", ["f", "m"], ["y"]),
        w=normal(4, 3, 3, 3),
        m=normal(80, 5, seed=1),
    ),
    "a batch spread over rows": image(node("Reshape", ["x", "rows"], ["y"]), rows=ints(-1, 8, 9)),
}


def all_sizes(given: Open) -> list[dict[str, int]]:
    """Every size of one symbol; of two, corners and what lies between."""
    if len(given.sizes) == 1:
        ((symbol, (low, high)),) = given.sizes.items()
        return [{symbol: size} for size in (*range(high, low - 1, -1), high)]
    ends = [{symbol: held[end] for symbol, held in given.sizes.items()} for end in (0, 1)]
    random = np.random.default_rng(0)
    return ends + [{symbol: int(random.integers(low, high + 1)) for symbol, (low, high) in given.sizes.items()} for _ in range(20)]


@pytest.mark.parametrize("name", CASES)
def test_every_size_of_the_range_gives_what_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    held = CASES[name]
    written = Written(held, tmp_path, "tflite")
    assert written.furthest(Runs(), [held.example, *all_sizes(held)]) < CLOSE
    assert written.described.sizes == held.sizes
    assert lint(tmp_path / "model.tflite") == []


REFUSED = {
    "a size halved": (
        sequence(
            node("Shape", ["x"], ["s"]),
            node("Slice", ["s", "i1", "c2"], ["t"]),
            node("Div", ["t", "c2"], ["h"]),
            node("Slice", ["x", "i0", "h", "i1"], ["y"]),
            **HELD,
        ),
        "depends on the size in no simple way",
    ),
    "a sum over its size": (
        sequence(
            node("Shape", ["x"], ["s"]),
            node("Slice", ["s", "i1", "c2"], ["t"]),
            node("Cast", ["t"], ["f"], to=1),
            node("Div", ["x", "f"], ["y"]),
            **HELD,
        ),
        "Div '.*': open sizes: constant '.*' holds numbers that depend on the size",
    ),
    "a strided average that leaves padding out": (
        wave(node("AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1])),
        "is no leading part of that of the largest size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_explains_is_refused_by_its_node(name: str, tmp_path: Path) -> None:
    held, cause = REFUSED[name]
    with pytest.raises(BackendError, match=cause) as raised:
        Written(held, tmp_path, "tflite")
    assert raised.value.hint == "give the size a fixed value: leave it out of sizes"


def test_open_axes_stand_in_the_file_with_the_sizes_of_the_example(tmp_path: Path) -> None:
    Written(CASES["images of a batch"], tmp_path, "tflite")
    graph = schema.ModelT.InitFromPackedBuf((tmp_path / "model.tflite").read_bytes(), 0).subgraphs[0]
    (taken,), (given_out,) = ([graph.tensors[index] for index in held] for held in (graph.inputs, graph.outputs))
    assert taken.shape.tolist() == [1, 8, 9, 3] and taken.shapeSignature.tolist() == [-1, 8, 9, 3]
    assert inspect(tmp_path / "model.tflite").metadata["sizes"] == "n 1..8"
    assert given_out.shape.tolist() == [1, 5] and given_out.shapeSignature.tolist() == [-1, 5]


def test_the_description_says_how_an_output_follows_its_input(tmp_path: Path) -> None:
    described = Written(CASES["a row in front"], tmp_path, "tflite").described
    assert described.inputs[0].shape == (1, "t", 6) and described.outputs[0].shape == (1, "t+1", 6)


@given(st.integers(-9, 9), st.integers(-50, 50), st.sets(st.integers(2, 500), min_size=3, max_size=6))
def test_a_line_is_found_through_its_points_and_none_through_others(slope: int, offset: int, at: set[int]) -> None:
    sizes = [{"n": size} for size in sorted(at)]
    values = [slope * held["n"] + offset for held in sizes]
    assert line_through(values, sizes) == Line("n", slope, offset)
    assert line_through([*values[:-1], values[-1] + 1], sizes) is None or len(at) < 3


def test_a_value_of_two_symbols_lies_on_no_line() -> None:
    sizes = [{"n": 2, "t": 5}, {"n": 3, "t": 5}, {"n": 2, "t": 7}, {"n": 4, "t": 9}]
    assert line_through([held["n"] * held["t"] for held in sizes], sizes) is None
    assert line_through([2 * held["t"] - 1 for held in sizes], sizes) == Line("t", 2, -1)
