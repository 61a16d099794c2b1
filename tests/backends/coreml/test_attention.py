"""Attention as one operation from iOS 18 on: what becomes it, what stays in pieces, and that both are what ONNX says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.hub.canonical import canonicalize
from edgepack.hub.graph import OPSET
from edgepack.hub.reference import Float64Run
from edgepack.mil.program import Program

from .models import Arrays

FUSED = "scaled_dot_product_attention"
HEADS, LENGTH, SOURCE, WIDTH = 2, 5, 7, 8
QKV = f"float[1,{HEADS},{LENGTH},{WIDTH}] q, float[1,{HEADS},{SOURCE},{WIDTH}] k, float[1,{HEADS},{SOURCE},{WIDTH}] v"
OUT = f"float[1,{HEADS},{LENGTH},{WIDTH}] y"
MASK = f", float[1,1,{LENGTH},{SOURCE}] m"
KEY = "kt = Transpose <perm = [0, 1, 3, 2]> (k)"
# 1 / sqrt(8) and the smallest float32.
CONSTANTS = "float scale = {0.35355338}, float half = {2}, float root = {0.59460354}, float hidden = {-3.4028235e38}, float one = {1}"

# Name -> inputs, nodes, what is left to scale or mask the query with.
SPELLED = {
    "scores times 1 / sqrt(d)": ("", f"{KEY}; s = MatMul(q, kt); t = Mul(s, scale); p = Softmax(t); y = MatMul(p, v)"),
    "query and key times their root": (
        "",
        f"{KEY}; a = Mul(q, root); b = Mul(root, kt); s = MatMul(a, b); p = Softmax(s); y = MatMul(p, v)",
    ),
    "a query scaled before it is moved": (
        "",
        f"{KEY}; a = Mul(q, scale); b = Transpose <perm = [0, 1, 3, 2]> (a); c = Transpose <perm = [0, 1, 3, 2]> (b); s = MatMul(c, kt);"
        "p = Softmax(s); y = MatMul(p, v)",
    ),
    "no scale": ("", f"{KEY}; s = MatMul(q, kt); p = Softmax <axis = 3> (s); y = MatMul(p, v)"),
    "a scale of its own and a mask": (
        MASK,
        f"{KEY}; s = MatMul(q, kt); t = Div(s, half); u = Add(m, t); p = Softmax(u); y = MatMul(p, v)",
    ),
    "two masks": (MASK, f"{KEY}; s = MatMul(q, kt); t = Add(s, m); u = Add(t, m); p = Softmax(u); y = MatMul(p, v)"),
    "hidden by choice": (
        MASK,
        f"{KEY}; s = MatMul(q, kt); c = Greater(m, one); t = Where(c, hidden, s); p = Softmax(t); y = MatMul(p, v)",
    ),
    "a choice and a mask": (
        MASK,
        f"{KEY}; s = MatMul(q, kt); c = Less(m, one); t = Where(c, s, hidden); u = Add(t, m); p = Softmax(u); y = MatMul(p, v)",
    ),
    "heads and batch as one axis": (
        "",
        f"{KEY}; n = Constant <value_ints = [{HEADS}, {LENGTH}, {SOURCE}]> (); f = Constant <value_ints = [{HEADS}, {SOURCE}, {WIDTH}]> ();"
        f"g = Constant <value_ints = [1, {HEADS}, {LENGTH}, {WIDTH}]> ();"
        "s = MatMul(q, kt); t = Reshape(s, n); p = Softmax(t); w = Reshape(v, f); z = MatMul(p, w); y = Reshape(z, g)",
    ),
}
IN_PIECES = {
    "scores that are an output": ("", f"{KEY}; s = MatMul(q, kt); p = Softmax(s); y = MatMul(p, v); z = Neg(s)", "z"),
    "a softmax over rows": ("", f"{KEY}; s = MatMul(q, kt); p = Softmax <axis = 2> (s); y = MatMul(p, v)", ""),
    "a soft limit": ("", f"{KEY}; s = MatMul(q, kt); t = Tanh(s); p = Softmax(t); y = MatMul(p, v)", ""),
    "a scale after the mask": (MASK, f"{KEY}; s = MatMul(q, kt); t = Add(s, m); u = Mul(t, half); p = Softmax(u); y = MatMul(p, v)", ""),
    "a mask of one column": ("", f"{KEY}; s = MatMul(q, kt); c = ReduceMax(q, last); t = Add(s, c); p = Softmax(t); y = MatMul(p, v)", ""),
    "something instead of zero": (
        MASK,
        f"{KEY}; s = MatMul(q, kt); c = Less(m, one); t = Where(c, s, half); p = Softmax(t); y = MatMul(p, v)",
        "",
    ),
}


def parsed(inputs: str, nodes: str, outputs: str = OUT) -> onnx.ModelProto:
    body = "\n".join(node.strip() for node in nodes.split(";") if node.strip())
    constants = f"{CONSTANTS}, int64[1] last = {{-1}}"
    text = f'<ir_version: 10, opset_import: ["" : {OPSET}]> g ({QKV}{inputs}) => ({outputs}) <{constants}> {{ {body} }}'
    return onnx.parser.parse_model(text)


def fed(model: onnx.ModelProto, seed: int = 3) -> Arrays:
    random = np.random.default_rng(seed)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input}
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def ran(
    model: onnx.ModelProto, feed: Arrays, folder: Path, scheme: str = "fp32", system: str = "iOS18"
) -> tuple[Arrays, Mapping[str, int]]:
    """What the package made of a model gives, by the hub's names, and how often it has each operation."""
    folder.mkdir(exist_ok=True)
    is_hub = model.opset_import[0].version == OPSET
    hub = onnx.shape_inference.infer_shapes(model, data_prop=True) if is_hub else ir.to_proto(canonicalize(model, feed).model)
    onnx.save(hub, folder / "hub.onnx")
    written = write(folder / "hub.onnx", folder, WriteOptions(scheme, minimum_os=system))
    assert lint(folder / written.file) == []
    program = Program.load(folder / written.file)
    given = program.run({held.name: feed[held.hub_name].astype(held.dtype) for held in written.inputs})
    types = [step.operation.type for step in program.steps]
    return {held.hub_name: given[held.name] for held in written.outputs}, {name: types.count(name) for name in types}


# Sums of up to 8 products and a weighted mean of 7 values of size 4 at most, errors of scores grow by exp's slope: 32 roundings of 2^-24,
# and of 2^-11 in float16.
TOLERANCE = {"fp32": 4 * 32 * 2.0**-24, "fp16": 4 * 32 * 2.0**-11 / 4}


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize("name", SPELLED)
def test_products_around_a_softmax_become_one_operation_and_give_what_float64_gives(name: str, scheme: str, tmp_path: Path) -> None:
    model = parsed(*SPELLED[name])
    feed = fed(model)
    found, counts = ran(model, feed, tmp_path, scheme)
    assert (counts.get(FUSED), counts.get("softmax"), counts.get("matmul")) == (1, None, None)
    np.testing.assert_allclose(found["y"], Float64Run(model)(feed)["y"], rtol=0, atol=TOLERANCE[scheme])


@pytest.mark.parametrize("name", ["scores times 1 / sqrt(d)", "query and key times their root", "a query scaled before it is moved"])
def test_the_scale_of_the_operation_itself_leaves_no_multiplication(name: str, tmp_path: Path) -> None:
    model = parsed(*SPELLED[name])
    assert set(ran(model, fed(model), tmp_path)[1]) <= {FUSED, "transpose"}


@pytest.mark.parametrize("name", IN_PIECES)
def test_what_the_operation_does_not_say_stays_in_pieces(name: str, tmp_path: Path) -> None:
    inputs, nodes, more = IN_PIECES[name]
    model = parsed(inputs, nodes, OUT + (f", float[1,{HEADS},{LENGTH},{SOURCE}] {more}" if more else ""))
    feed = fed(model)
    found, counts = ran(model, feed, tmp_path)
    assert FUSED not in counts and counts["softmax"] == 1
    np.testing.assert_allclose(found["y"], Float64Run(model)(feed)["y"], rtol=0, atol=TOLERANCE["fp32"])


def test_an_older_system_gets_the_pieces(tmp_path: Path) -> None:
    model = parsed(*SPELLED["two masks"])
    assert FUSED not in ran(model, fed(model), tmp_path, system="iOS17")[1]


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_a_row_that_sees_nothing_is_the_mean_of_all_values_as_in_onnx(scheme: str, tmp_path: Path) -> None:
    """In float16 the smallest number is -65504, which does not swallow a score when nothing is rounded before the softmax."""
    model = parsed(
        MASK, f"{KEY}; s = MatMul(q, kt); h = Mul(m, hidden); t = Mul(s, scale); u = Add(t, h); p = Softmax(u); y = MatMul(p, v)"
    )
    feed = fed(model)
    feed["m"] = (np.arange(SOURCE) > np.array([[-1], [2], [6], [0], [4]])).astype(np.float32)[None, None]
    feed["q"] *= 4
    found, counts = ran(model, feed, tmp_path, scheme)
    wanted = Float64Run(model)(feed)["y"]
    np.testing.assert_allclose(wanted[:, :, 0], feed["v"].astype(np.float64).mean(axis=2), rtol=0, atol=1e-12)
    assert counts[FUSED] == 1
    np.testing.assert_allclose(found["y"], wanted, rtol=0, atol=4 * TOLERANCE[scheme])


def test_a_constant_mask_that_hides_a_whole_row_stays_in_pieces(tmp_path: Path) -> None:
    model = parsed("", f"{KEY}; s = MatMul(q, kt); t = Add(s, rows); p = Softmax(t); y = MatMul(p, v)")
    rows = np.where(np.arange(SOURCE) > np.array([[-1], [2], [6], [0], [4]]), -np.float32(3e38), 0).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rows, "rows"))
    assert FUSED not in ran(model, fed(model), tmp_path)[1]


def test_layers_that_share_a_mask_share_what_is_made_of_it(tmp_path: Path) -> None:
    nodes = f"{KEY}; h = Mul(m, hidden); " + "".join(
        f"s{i} = MatMul({q}, kt); u{i} = Add(s{i}, h); p{i} = Softmax(u{i}); {y} = MatMul(p{i}, v); "
        for i, q, y in ((0, "q", "x"), (1, "x", "y"))
    )
    model = parsed(MASK, nodes)
    feed = fed(model)
    feed["m"] = (np.arange(SOURCE) > 3).astype(np.float32) * np.ones((1, 1, LENGTH, 1), np.float32)
    found, counts = ran(model, feed, tmp_path, "fp16")
    assert (counts[FUSED], counts["reduce_max"]) == (2, 1)
    np.testing.assert_allclose(found["y"], Float64Run(model)(feed)["y"], rtol=0, atol=4 * TOLERANCE["fp16"])


def of_attention(heads: int, mask: str = "", **attributes: Any) -> onnx.ModelProto:
    """An Attention-23 node of four query heads; ``mask`` names its element type."""
    inputs = {"q": (1, 4, LENGTH, WIDTH), "k": (1, heads, SOURCE, WIDTH), "v": (1, heads, SOURCE, WIDTH)}
    held = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    given = [helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, (LENGTH, SOURCE))] if mask else []
    node = helper.make_node("Attention", ["q", "k", "v", *(["b"] if mask else [])], ["y"], "attention", **attributes)
    cast = [helper.make_node("Cast", ["m"], ["b"], to=getattr(onnx.TensorProto, mask))] if mask else []
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 4, LENGTH, WIDTH))
    graph = helper.make_graph([*cast, node], "test", [*held, *given], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        pytest.param(of_attention(4), 1, id="plain"),
        pytest.param(of_attention(2), 1, id="grouped queries"),
        pytest.param(of_attention(4, is_causal=1), 1, id="causal"),
        pytest.param(of_attention(4, scale=0.5), 1, id="scale"),
        pytest.param(of_attention(4, "FLOAT"), 1, id="added mask"),
        pytest.param(of_attention(4, "BOOL"), 1, id="boolean mask"),
        pytest.param(of_attention(4, softcap=2.0), 0, id="soft limit"),
    ],
)
def test_onnx_own_attention_becomes_it_where_it_says_the_same(model: onnx.ModelProto, count: int, tmp_path: Path) -> None:
    feed = fed(model)
    if "m" in feed:
        # As a boolean mask it leaves nothing to see in its second row.
        feed["m"] = (feed["m"] > 0).astype(np.float32)
        feed["m"][1] = 0
    found, counts = ran(model, feed, tmp_path)
    assert counts.get(FUSED, 0) == count
    np.testing.assert_allclose(found["y"], Float64Run(model)(feed)["y"], rtol=0, atol=TOLERANCE["fp32"])
