"""Bodies of loops that stay: canonical like the graph around them, with shapes where every run has the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgepack.hub.canonical import canonicalize, run_plain

X = np.asarray([[1.0, -2.0, 3.0]], np.float32)
FEED = {"x": X, "count": np.asarray([3])}


def hub_of(text: str, feed: dict[str, Any]) -> tuple[onnx.ModelProto, ir.Model]:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>\n' + text)
    return model, canonicalize(model, feed).model


def assert_same(model: onnx.ModelProto, hub: ir.Model, feed: dict[str, Any]) -> None:
    found = run_plain(ir.to_proto(hub), feed)
    for name, wanted in run_plain(model, feed).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6)


def test_a_body_is_in_canonical_form_and_its_constants_lie_outside() -> None:
    model, hub = hub_of(
        """g (float[1,3] x, int64[1] count) => (float[N,3] y)
        {
            y = Loop (count, , x) <body = b (int64 i, bool c, float[N,3] s) => (bool c2, float[N,3] s2)
                { c2 = Identity (c)  two = Constant <value = float {2}> ()  zero = Constant <value = float {0}> ()  sum = Add (two, zero)
                  d = Dropout (s)  s2 = Mul (d, sum) }>
        }""",
        FEED,
    )
    (loop,) = hub.graph
    body = loop.attributes["body"].as_graph()
    assert not body.initializers and not {node.op_type for node in body} & {"Constant", "Dropout", "Add"}
    assert all(node.name.startswith("Loop_y/") for node in body)
    assert list(loop.outputs[0].shape) == [1, 3]
    for count in (0, 1, 4):
        assert_same(model, hub, {"x": X, "count": np.asarray([count])})


def test_loops_whose_bodies_use_the_same_names_do_not_disturb_each_other() -> None:
    loop = """{1} = Loop (count, , {0}) <body = b (int64 i, bool c, float[1,3] s) => (bool c2, float[1,3] s2)
        {{ c2 = Identity (c)  two = Constant <value = float {{{2}}}> ()  m = Mul (s, two)  s2 = Sub (m, x) }}>"""
    text = "g (float[1,3] x, int64[1] count) => (float[1,3] y) {{ {} {} }}"
    model, hub = hub_of(text.format(loop.format("x", "z", 2), loop.format("z", "y", 3)), FEED)
    assert [list(node.outputs[0].shape) for node in hub.graph] == [[1, 3], [1, 3]]
    assert_same(model, hub, FEED)


def test_a_body_whose_sizes_a_run_decides_is_left_to_onnxruntime() -> None:
    model, hub = hub_of(
        """g (float[1,3] x, int64[1] count) => (float[N,3] y)
        { y = Loop (count, , x) <body = b (int64 i, bool c, float[M,3] s) => (bool c2, float[K,3] s2)
            { c2 = Identity (c)  s2 = Concat <axis = 0> (s, x) }> }""",
        FEED,
    )
    assert not isinstance(next(iter(hub.graph)).outputs[0].shape[0], int)
    assert_same(model, hub, FEED)
