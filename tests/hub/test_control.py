"""Control flow written out: what the hub holds afterwards computes what the model with its bodies does, and holds no body."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.hub.canonical import canonicalize, run_plain
from edgepack.hub.passes import control

_HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
X = np.asarray([[1.0, -2.0, 3.0]], np.float32)

RUN_TIME_IF = """g (bool flag, float[1,3] x) => (float[1,3] y, float[1,3] z)
{
    y, z = If (flag) <
        then_branch = t () => (float[1,3] a, float[1,3] b) { a = Exp (x)  b = Add (x, a) },
        else_branch = e () => (float[1,3] a2, float[1,3] b2) { a2 = Neg (x)  b2 = Identity (x) }
    >
}"""
CONSTANT_IF = """g (float[1,3] x) => (float[1,3] y)
{
    flag = Constant <value = bool {0}> ()
    outer = Abs (x)
    y = If (flag) <
        then_branch = t () => (float[1,3] a) { a = Exp (x) },
        else_branch = e () => (float[1,3] a2) { a2 = Sub (outer, x) }
    >
}"""
LOOP = """g (float[1,3] x) => (float[1,3] last, float[4,1,3] all)
{
    trips = Constant <value = int64 {4}> ()
    go = Constant <value = bool {1}> ()
    last, all = Loop (trips, go, x) <
        body = b (int64 i, bool c, float[1,3] s) => (bool c2, float[1,3] s2, float[1,3] row)
        { c2 = Identity (c)  f = Cast <to = 1> (i)  t = Mul (s, f)  s2 = Add (t, x)  row = Abs (s2) }
    >
}"""
ENDING_LOOP = """g (float[1,3] x, float[1] limit) => (float[1,3] last)
{
    trips = Constant <value = int64 {6}> ()
    go = Constant <value = bool {1}> ()
    last = Loop (trips, go, x) <
        body = b (int64 i, bool c, float[1,3] s) => (bool c2, float[1,3] s2)
        { s2 = Add (s, s)  axes = Constant <value = int64[1] {1}> ()  m = ReduceMax <keepdims = 0> (s2, axes)
          n = Squeeze (m)  l = Squeeze (limit)  c2 = Less (n, l) }
    >
}"""
NESTED = """g (bool flag, float[1,3] x) => (float[1,3] last)
{
    trips = Constant <value = int64 {3}> ()
    go = Constant <value = bool {1}> ()
    last = Loop (trips, go, x) <
        body = b (int64 i, bool c, float[1,3] s) => (bool c2, float[1,3] s2)
        { c2 = Identity (c)
          s2 = If (flag) <
            then_branch = t () => (float[1,3] a) { a = Add (s, x) },
            else_branch = e () => (float[1,3] a2) { a2 = Mul (s, x) }
          > }
    >
}"""
SCAN = """g (float[1,3] x) => (float[1] last, float[1,3] all)
{
    first = Constant <value = float[1] {0.5}> ()
    last, all = Scan (first, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
        scan_output_axes = [1], scan_output_directions = [1],
        body = b (float[1] s, float[1] part) => (float[1] s2, float[1] row) { s2 = Add (s, part)  row = Mul (s2, part) }
    >
}"""


def hub_of(text: str, feed: dict[str, Any]) -> tuple[onnx.ModelProto, ir.Model]:
    model = onnx.parser.parse_model(_HEAD + text)
    return model, canonicalize(model, feed).model


@pytest.mark.parametrize(
    ("text", "feeds"),
    [
        (RUN_TIME_IF, [{"flag": np.asarray(True), "x": X}, {"flag": np.asarray(False), "x": X}]),
        (CONSTANT_IF, [{"x": X}]),
        (LOOP, [{"x": X}, {"x": -X}]),
        (ENDING_LOOP, [{"x": X, "limit": np.asarray([held], np.float32)} for held in (1.0, 10.0, 1e6)]),
        (NESTED, [{"flag": np.asarray(True), "x": X}, {"flag": np.asarray(False), "x": X}]),
        (SCAN, [{"x": X}]),
    ],
    ids=["if", "constant if", "loop", "ending loop", "if in a loop", "scan"],
)
def test_what_is_written_out_computes_the_same_and_has_no_body(text: str, feeds: list[dict[str, Any]]) -> None:
    model, hub = hub_of(text, feeds[0])
    assert not [node.op_type for node in hub.graph.all_nodes() if node.op_type in control.OPERATORS]
    for feed in feeds:
        found = run_plain(ir.to_proto(hub), feed)
        for name, wanted in run_plain(model, feed).items():
            np.testing.assert_allclose(found[name], wanted, rtol=1e-6)


def test_a_branch_that_could_fail_where_it_is_not_taken_stays_a_branch() -> None:
    text = """g (bool flag, int64[1] place, float[1,3] x) => (float[1,1] y)
    {
        y = If (flag) <
            then_branch = t () => (float[1,1] a) { a = Gather <axis = 1> (x, place) },
            else_branch = e () => (float[1,1] a2) { one = Constant <value = int64[1] {1}> ()  a2 = ReduceMax (x, one) }
        >
    }"""
    _, hub = hub_of(text, {"flag": np.asarray(True), "place": np.asarray([2]), "x": X})
    assert [node.op_type for node in hub.graph] == ["If"]


def test_a_loop_too_long_to_write_out_stays_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_NODES", 3)
    _, hub = hub_of(LOOP, {"x": X})
    assert "Loop" in [node.op_type for node in hub.graph]
