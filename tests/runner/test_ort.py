"""The onnxruntime session: copies, scalars, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack.runner import ort
from edgepack.runner.ort import RUNTIME, OrtSession


@pytest.fixture
def session(tmp_path: Path) -> OrtSession:
    """y = x * s with a scalar s; shape_of_s has as many elements as s has axes."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("Shape", ["s"], ["shape_of_s"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]), helper.make_tensor_value_info("s", TensorProto.FLOAT, [])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [3]),
            helper.make_tensor_value_info("shape_of_s", TensorProto.INT64, [None]),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return RUNTIME.load(str(path), 1)


def test_a_scalar_sample_stays_a_scalar(session: OrtSession) -> None:
    stacked = np.array([2, 3], np.float32)
    session.set_inputs({"x": np.ones(3, np.float32), "s": stacked[1]})
    session.invoke()
    np.testing.assert_array_equal(session.outputs()["y"], [3, 3, 3])
    assert session.outputs()["shape_of_s"].shape == (0,)


def test_inputs_and_outputs_are_copies(session: OrtSession) -> None:
    x, s = np.ones(3, np.float32), np.array(2, np.float32)
    session.set_inputs({"x": x, "s": s})
    x[:] = 100
    session.invoke()
    first = session.outputs()["y"]
    np.testing.assert_array_equal(first, [2, 2, 2])
    session.set_inputs({"x": x, "s": s})
    session.invoke()
    np.testing.assert_array_equal(first, [2, 2, 2])
    np.testing.assert_array_equal(session.outputs()["y"], [200, 200, 200])


def test_a_strided_sample_is_read_by_its_elements(session: OrtSession) -> None:
    session.set_inputs({"x": np.arange(6, dtype=np.float32)[::-2], "s": np.array(1, np.float32)})
    session.invoke()
    np.testing.assert_array_equal(session.outputs()["y"], [5, 3, 1])


@pytest.mark.parametrize(
    "feed",
    [
        {"x": np.ones(3, np.float32)},
        {"x": np.ones(3, np.float32), "s": np.array(1, np.float32), "z": np.ones(1, np.float32)},
        {"x": np.ones(4, np.float32), "s": np.array(1, np.float32)},
        {"x": np.ones(3, np.float64), "s": np.array(1, np.float32)},
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_a_feed_that_does_not_fit_is_refused(feed: dict[str, np.ndarray], session: OrtSession) -> None:
    with pytest.raises(Exception, match=r"(?i)input|type|dimension|name"):
        session.set_inputs(feed)
        session.invoke()


def test_it_says_what_it_runs_on(session: OrtSession) -> None:
    assert session.describe() == {"providers": ["CPUExecutionProvider"], "exact_int8": ort.sums_exactly()}
    assert (RUNTIME.name, RUNTIME.truth) == ("onnxruntime", "host")


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("aarch64", set(), True),
        ("x86_64", {"avx2", "avx512_vnni"}, True),
        ("AMD64", {"avx2", "avx_vnni"}, True),
        ("x86_64", {"avx2"}, False),
        ("x86_64", set(), False),
    ],
)
def test_the_slow_exact_kernels_are_asked_for_only_where_the_fast_ones_saturate(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: set[str], exact: bool
) -> None:
    monkeypatch.setattr(ort.platform, "machine", lambda: machine)
    monkeypatch.setattr(ort, "_cpu_flags", lambda: flags)
    assert ort.sums_exactly.__wrapped__() is exact


def test_codes_are_the_same_with_the_fast_and_the_exact_kernels(tmp_path: Path) -> None:
    """255 * 127 + 255 * 127 does not fit 16 bits: a processor that saturates answers 32767 instead."""
    path = tmp_path / "integer.onnx"
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "integer",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 32])],
        [helper.make_tensor("b", TensorProto.INT8, [64, 32], [127] * 64 * 32)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    held = RUNTIME.load(str(path), 1)
    held.set_inputs({"a": np.full((1, 64), 255, np.uint8)})
    held.invoke()
    np.testing.assert_array_equal(held.outputs()["y"], np.full((1, 32), 64 * 255 * 127))


def test_sessions_of_several_threads_share_one_pool_in_a_process_of_their_own(tmp_path: Path) -> None:
    """With a pool each the second pair of sessions would start as many threads again; a session of another size is refused."""
    model = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
    )
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    program = """
import psutil, sys
from edgepack.runner.ort import RUNTIME
RUNTIME.owns_process = True
held = [RUNTIME.load(sys.argv[1], 3)]
first = psutil.Process().num_threads()
held += [RUNTIME.load(sys.argv[1], 3) for _ in range(3)]
assert psutil.Process().num_threads() == first, (first, psutil.Process().num_threads())
try:
    RUNTIME.load(sys.argv[1], 2)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.onnx")], capture_output=True, text=True, timeout=60)
    assert done.stdout == "this process computes on 3 threads, not on 2\n", done.stderr
