"""Activations spelled out: what is one operator afterwards, and what is left alone."""

import math

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.hub.graphs import kept, operators

node = helper.make_node
X = {"x": [2, 3, 4]}
HELD = {name: np.float32(value) for name, value in {"half": 0.5, "one": 1, "root": math.sqrt(2), "inverse": math.sqrt(0.5)}.items()}
HELD |= {"cubic": np.float32(0.044715), "scale": np.float32(math.sqrt(2 / math.pi)), "three": np.float32(3)}
ERF = [node("Div", ["x", "root"], ["u"]), node("Erf", ["u"], ["e"]), node("Add", ["e", "one"], ["s"])]
ERF_BY_PRODUCT = [node("Mul", ["inverse", "x"], ["u"]), node("Erf", ["u"], ["e"]), node("Add", ["one", "e"], ["s"])]
TANH = [node("Mul", ["cubic", "c"], ["t"]), node("Add", ["x", "t"], ["w"]), node("Mul", ["w", "scale"], ["v"]), node("Tanh", ["v"], ["e"])]
TANH += [node("Add", ["one", "e"], ["s"])]
POWER, PRODUCTS = [node("Pow", ["x", "three"], ["c"])], [node("Mul", ["x", "x"], ["q"]), node("Mul", ["q", "x"], ["c"])]
LAST, FIRST = (
    [node("Mul", ["x", "s"], ["p"]), node("Mul", ["p", "half"], ["y"])],
    [node("Mul", ["half", "x"], ["p"]), node("Mul", ["p", "s"], ["y"])],
)

SPELLINGS = {
    "torch before opset 20": ([*ERF, *LAST], "none"),
    "half first": ([*ERF_BY_PRODUCT, *FIRST], "none"),
    "tanh with a power": ([*POWER, *TANH, *FIRST], "tanh"),
    "tanh with products": ([*PRODUCTS, *TANH, *LAST], "tanh"),
}


def used(nodes: list[onnx.NodeProto]) -> dict[str, np.ndarray]:
    read = {name for held in nodes for name in held.input}
    return {name: np.asarray(array) for name, array in HELD.items() if name in read}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_gelu_that_is_spelled_out_becomes_one(name: str) -> None:
    nodes, approximate = SPELLINGS[name]
    form = kept(nodes, used(nodes), X)
    assert operators(form) == ["Gelu"]
    assert [onnx.helper.get_attribute_value(held) for held in form.graph.node[0].attribute] == ([b"tanh"] if approximate == "tanh" else [])


OTHERS = {
    "another factor": [*ERF, node("Mul", ["x", "s"], ["p"]), node("Mul", ["p", "one_third"], ["y"])],
    "another argument": [node("Mul", ["x", "half"], ["u"]), node("Erf", ["u"], ["e"]), node("Add", ["e", "one"], ["s"]), *LAST],
    "another value": [*ERF, node("Abs", ["x"], ["a"]), node("Mul", ["a", "s"], ["p"]), node("Mul", ["p", "half"], ["y"])],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_a_gelu_stays(name: str) -> None:
    held = used(OTHERS[name]) | ({"one_third": np.asarray(1 / 3, np.float32)} if name == "another factor" else {})
    assert "Erf" in operators(kept(OTHERS[name], held, X))


def test_a_product_that_is_read_elsewhere_is_still_computed() -> None:
    nodes = [*ERF, *LAST, node("Abs", ["p"], ["z"])]
    form = kept(nodes, used(nodes), X, outputs={"y": None, "z": None})
    assert "Erf" in operators(form)
