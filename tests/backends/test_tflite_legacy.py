"""Artifacts for TensorFlow Lite 2.14, in that runtime: int8 within FACTS' table, floats as LiteRT's, and what it lacks refused by name.

``python -m tests.backends.test_tflite_legacy`` prints how far its own int8 kernels are off, from artifacts that are written for today's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import helper

from edgepack.backends import tflite
from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.backends.table import BackendError
from edgepack.backends.tflite.runtimes import runtime
from tests.backends import test_int8_isolation as isolation
from tests.backends.int8_cases import CASES, Arrays, Quantized
from tests.backends.test_int8_isolation import Found, Run, demand, measured
from tests.backends.tflite.models import Hub, _back, _forth, dynamic, node, operators, read_file, run_litert, single
from tests.backends.tflite.old_table import with_table
from tests.backends.tflite.probe import known_versions
from tests.backends.tflite.test_float_conformance import ALL, TOLERANCE
from tests.conformance.worker import PASS, Result
from tests.fuzz.worker import Job, Trial, prepare, tflite_2_14
from tests.old_runtime import RUNTIME, OldSession, demanded

pytestmark = pytest.mark.usefixtures("old")
OLD = "tflite@2.14"
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def old() -> None:
    demanded()


def _normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def images(hub: Hub) -> WriteOptions:
    """Inputs and outputs of rank 4 are declared NCHW, as images are."""
    inputs = {name: "NCHW" for name, array in hub.feed.items() if array.ndim == 4}
    return WriteOptions("fp32", inputs, dict.fromkeys(hub.outputs or {"y": None}, "NCHW"), runtime=RUNTIME)


def run_old(description: ArtifactDescription, folder: Path, feed: Arrays) -> Arrays:
    """The artifact's outputs in the hub's layout, as ``run_litert`` gives LiteRT's."""
    session = OldSession(str(folder / description.file))
    bound = {binding.hub_name: binding for binding in description.inputs}
    session.set_inputs({bound[name].name: _forth(array, bound[name].permutation) for name, array in feed.items()})
    session.invoke()
    results = session.outputs()
    return {binding.hub_name: _back(results[binding.name], binding.permutation) for binding in description.outputs}


def _written(folder: Path, quantized: Quantized, release: str = RUNTIME) -> ArtifactDescription:
    held = quantized.model.graph
    inputs = {value.name: "NCHW" for value in held.input if len(value.type.tensor_type.shape.dim) == 4}
    ends = {value.name: "NCHW" for value in held.output if len(value.type.tensor_type.shape.dim) == 4}
    return tflite.write(folder / "hub.onnx", folder, WriteOptions("w8a8", inputs, ends, runtime=release))


def _run(by: Any, folder: Path, quantized: Quantized, release: str = RUNTIME) -> Run:
    description = _written(folder, quantized, release)
    return lambda feed: by(description, folder, feed)["y"]


def codes(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, count: int, samples: int) -> list[Found]:
    """What the old runtime makes of a case."""
    monkeypatch.setitem(isolation.RUNS, OLD, partial(_run, run_old))
    monkeypatch.setitem(isolation.SCALE_DTYPES, OLD, "float32")
    return measured(name, OLD, count, samples, folder)


def coarse_calls(quantized: Quantized, folder: Path) -> list[str]:
    """The operators with coarse int8 kernels that today's artifact of a case calls with codes."""
    old = runtime(RUNTIME)
    assert old is not None
    onnx.save(quantized.model, folder / "hub.onnx")
    _written(folder, quantized, release="")
    file = read_file(folder / "model.tflite").subgraphs[0]
    kinds = [(file.tensors[call.outputs[0]].type, name) for call, name in zip(file.operators, operators(folder), strict=True)]
    (folder / "model.tflite").unlink()
    return [name for kind, name in kinds if kind == schema.TensorType.INT8 and name in old.coarse]


def within_the_table_or_refused(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, samples: int) -> None:
    (quantized,) = isolation.settings(1, "float32", CASES[name], folder, 1)
    coarse = coarse_calls(quantized, folder)
    if not coarse:
        demand(CASES[name].bar, codes(name, monkeypatch, folder, 1, samples))
        return
    said = rf"it becomes ({'|'.join(coarse)}) in int8, which TensorFlow Lite 2.14 does not round to the nearest code -> next: use another"
    with pytest.raises(BackendError, match=said):
        _written(folder, quantized)
    assert not (folder / "model.tflite").exists()


@pytest.mark.parametrize("name", CASES)
def test_codes_meet_the_table_or_the_operator_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    within_the_table_or_refused(name, monkeypatch, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_codes_meet_the_table_over_half_a_million_codes(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    within_the_table_or_refused(name, monkeypatch, tmp_path, 100)


def test_products_on_codes_are_refused(tmp_path: Path) -> None:
    """They round twice there; the table allows one code in ten thousand."""
    for name in ("conv", "depthwise", "conv_transpose", "gemm", "matmul_weight"):
        (quantized,) = isolation.settings(1, "float32", CASES[name], tmp_path, 1)
        assert coarse_calls(quantized, tmp_path), name


def _sample(hubs: dict[str, Hub]) -> Iterable[str]:
    """The first two cases of each operator."""
    seen: Counter[str] = Counter()
    for name, hub in hubs.items():
        key = hub.nodes[0].op_type
        seen[key] += 1
        if seen[key] <= 2:
            yield name


def equals_litert(name: str, folder: Path) -> None:
    hub = ALL[name]
    description = tflite.write(hub.save(folder / "hub.onnx"), folder, images(hub))
    now, then = (run(description, folder, hub.feed)["y"] for run in (run_litert, run_old))
    assert now.shape == then.shape
    np.testing.assert_allclose(then, now, **TOLERANCE)


@pytest.mark.parametrize("name", _sample(ALL))
def test_a_float_operator_gives_what_litert_gives(name: str, tmp_path: Path) -> None:
    equals_litert(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_float_case_gives_what_litert_gives(name: str, tmp_path: Path) -> None:
    equals_litert(name, tmp_path)


def ranged(operator: str, shape: tuple[int, ...], x: tuple[int, ...]) -> Hub:
    """A product of weight codes with an input that is ranged at run time (w8d8); output channels lie along the last axis of a matrix."""
    axis = 0 if operator == "Conv" else 1
    count = shape[axis]
    held = {"q": RNG.integers(-127, 128, shape).astype(np.int8), "s": np.full(count, 0.01, np.float32), "z": np.zeros(count, np.int8)}
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "dq", axis=axis), dynamic(node(operator, "x w", "y", "product"))]
    return Hub(nodes, {"x": _normal(*x)}, held)


RANGED = {"Conv": ranged("Conv", (4, 3, 3, 3), (1, 3, 8, 8)), "MatMul": ranged("MatMul", (64, 24), (5, 64))}


@pytest.mark.parametrize("operator", RANGED)
def test_a_product_that_ranges_its_input_is_refused(operator: str, tmp_path: Path) -> None:
    """A convolution's kernel chooses other codes than LiteRT's; of FULLY_CONNECTED, it has none with a scale for each row of weights."""
    hub, said = RANGED[operator], {"Conv": "CONV_2D in int8", "MatMul": "FULLY_CONNECTED version 12"}[operator]
    options = msgspec.structs.replace(images(hub), scheme="w8d8")
    with pytest.raises(BackendError, match=f"{operator} 'product': it becomes {said}, "):
        tflite.write(hub.save(tmp_path / "hub.onnx"), tmp_path, options)
    tflite.write(tmp_path / "hub.onnx", tmp_path, msgspec.structs.replace(options, runtime=""))


def test_the_page_shows_the_table_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "legacy.md").read_text(encoding="utf-8")
    assert with_table(page) == page


def test_it_knows_exactly_the_versions_that_the_table_says() -> None:
    old = runtime(RUNTIME)
    assert old is not None
    assert known_versions() == old.highest


def test_a_transpose_of_seven_axes_is_refused_with_its_name_the_versions_and_a_hint(tmp_path: Path) -> None:
    wide = Hub([node("Transpose", "x", "y", "turn", perm=[6, 4, 2, 0, 1, 3, 5])], {"x": np.zeros((2, 1, 3, 2, 2, 3, 2), np.float32)}, {})
    model = wide.save(tmp_path / "hub.onnx")
    assert tflite.obstacles(model) == []
    (found,) = tflite.obstacles(model, RUNTIME)
    assert (found.operator, found.node) == ("Transpose", "turn")
    said = "it becomes TRANSPOSE version 8, and TensorFlow Lite 2.14 knows versions up to 6"
    assert found.cause == said
    with pytest.raises(BackendError, match=re.escape(f"tflite: Transpose 'turn': {said} -> next: ")):
        tflite.write(model, tmp_path, WriteOptions("fp32", runtime=RUNTIME))
    assert not (tmp_path / "model.tflite").exists()
    tflite.write(model, tmp_path, WriteOptions("fp32"))
    with pytest.raises(RuntimeError, match="TRANSPOSE"):
        OldSession(str(tmp_path / "model.tflite")).invoke()


def test_a_runtime_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    model = RANGED["MatMul"].save(tmp_path / "hub.onnx")
    with pytest.raises(BackendError, match=r"nothing is known of a runtime '1\.0' -> next: use 2\.14"):
        tflite.write(model, tmp_path, WriteOptions("w8d8", runtime="1.0"))


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
def test_a_largest_of_nothing_is_refused(operator: str, tmp_path: Path) -> None:
    hub = Hub([node(operator, "x axes", "y", "most")], {"x": np.zeros((2, 0, 4), np.float32)}, {"axes": np.asarray([1])})
    (found,) = tflite.obstacles(hub.save(tmp_path / "hub.onnx"), RUNTIME)
    assert (found.operator, found.node) == (operator, "most") and "of nothing" in found.cause


def test_a_bool_that_is_padded_is_refused(tmp_path: Path) -> None:
    hub = Hub([node("Pad", "x pads", "y", "pad")], {"x": np.ones((2, 3), bool)}, {"pads": np.asarray([0, 1, 0, 0])}, {"y": bool})
    (found,) = tflite.obstacles(hub.save(tmp_path / "hub.onnx"), RUNTIME)
    assert found.node == "pad" and "of bool, which TensorFlow Lite 2.14 does not have" in found.cause


def test_a_slice_of_six_axes_is_refused_with_both_numbers(tmp_path: Path) -> None:
    held = {"starts": np.asarray([1]), "ends": np.asarray([3]), "axes": np.asarray([2])}
    hub = Hub([node("Slice", "x starts ends axes", "y", "cut")], {"x": _normal(1, 2, 4, 1, 2, 3)}, held)
    (found,) = tflite.obstacles(hub.save(tmp_path / "hub.onnx"), RUNTIME)
    assert found.node == "cut" and "SLICE of 6 axes, and TensorFlow Lite 2.14 takes up to 5" in found.cause


def test_a_reshaped_tensor_that_is_read_again_is_not_written_over(tmp_path: Path) -> None:
    """Its planner lets the difference take the place of the image that the transposition still needs."""
    nodes = [
        *(node("Reshape", "x wide", "v", "first"), node("Reshape", "v column", "c", "second"), node("Sub", "c one", "y")),
        *(node("Reshape", "v pairs", "p", "third"), node("Transpose", "p", "z")),
    ]
    shapes = {"wide": np.asarray([1, 1, 16, 1, 1]), "column": np.asarray([16, 1]), "pairs": np.asarray([8, 2])}
    hub = Hub(nodes, {"x": _normal(1, 16, 1, 1)}, {**shapes, "one": np.asarray([4.3], np.float32)}, {"y": np.float32, "z": np.float32})
    model = onnx.load(hub.save(tmp_path / "model.onnx")).SerializeToString()
    prepared = prepare(Job(str(tmp_path), "w8a8", (), model, hub.feed))
    assert tflite_2_14(Trial(prepared.job, prepared.expected[OLD])) == Result(PASS)


SKIPPING = {
    "conv": single("Conv", _normal(2, 3, 7, 9), weights={"w": _normal(4, 3, 2, 3)}, auto_pad="SAME_UPPER", strides=[3, 2]),
    "depthwise": single("Conv", _normal(1, 5, 3, 4), weights={"w": _normal(5, 1, 3, 2)}, auto_pad="SAME_UPPER", group=5, strides=[1, 3]),
    "average": single("AveragePool", _normal(1, 4, 8, 8), pads=[1, 0, 1, 0], kernel_shape=[4, 1], strides=[3, 3]),
    "maximum": single("MaxPool", _normal(1, 4, 8, 8), pads=[1, 0, 1, 0], kernel_shape=[4, 1], strides=[3, 3]),
}


@pytest.mark.parametrize("name", SKIPPING)
def test_windows_further_apart_than_they_are_large_are_padded_apart_from_the_kernel(name: str, tmp_path: Path) -> None:
    """With padding SAME its kernels answer zeros."""
    hub = SKIPPING[name]
    description = tflite.write(hub.save(tmp_path / "hub.onnx"), tmp_path, images(hub))
    now, then = (run(description, tmp_path, hub.feed)["y"] for run in (run_litert, run_old))
    assert now.any()
    np.testing.assert_allclose(then, now, **TOLERANCE)


@pytest.mark.parametrize("operator", ["Less", "Equal", "And", "Pow", "Mod", "Where", "Max", "Mul", "Add", "Sub", "Div"])
def test_operands_of_more_axes_than_it_broadcasts_are_spread_first(operator: str, tmp_path: Path) -> None:
    """Its kernels end the process there."""
    # Of the second the kernels of products and sums make a fast case, which ends the process at five axes.
    shapes = ((2, 4, 3, 1, 2, 2), (2,)) if operator in ("Mul", "Add", "Sub", "Div") else ((2, 1, 3, 1, 2, 2), (1, 4, 3, 2, 1, 2))
    kind = {"And": bool, "Mod": np.int32}.get(operator, np.float32)
    arrays = [(np.abs(RNG.standard_normal(shape)) * 3 + 1).astype(kind) for shape in shapes]
    feed = dict(zip("ab", arrays, strict=True)) | ({"c": RNG.random((1, 4, 1, 1, 2, 1)) > 0.5} if operator == "Where" else {})
    out = {"y": bool if operator in ("Less", "Equal", "And") else kind}
    hub = Hub([node(operator, "c a b" if operator == "Where" else "a b")], feed, {}, out)
    description = tflite.write(hub.save(tmp_path / "hub.onnx"), tmp_path, WriteOptions("fp32", runtime=RUNTIME))
    now, then = (run(description, tmp_path, feed)["y"] for run in (run_litert, run_old))
    np.testing.assert_allclose(then, now, rtol=1e-6)


def main() -> None:
    """The table of test_int8_isolation, of artifacts written for today's runtime and run in the old one."""
    isolation.RUNS[OLD], isolation.SCALE_DTYPES[OLD] = partial(_run, run_old, release=""), "float32"
    print("target | operator | codes | % equal float64 | % of no ties | % equal ORT | worst setting | step | delta | - | -")
    for name in CASES:
        print(isolation.row(name, OLD, 10, 2), flush=True)


if __name__ == "__main__":
    main()
