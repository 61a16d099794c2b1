"""Random small networks: the canonical form computes what the model computes, with float64 as the truth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests.hub.graphs import canonical, model, onnxruntime_run

Draw = Callable[[st.SearchStrategy[Any]], Any]
node = helper.make_node


class Chain:
    """A chain of nodes with its weights; knows the shape at its end."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.start = self.shape = shape
        self.last, self._random = "x", np.random.default_rng(seed)

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def normal(self, *shape: int) -> str:
        return self.weight((self._random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32))

    def positive(self, size: int) -> str:
        return self.weight(self._random.uniform(0.5, 2, size).astype(np.float32))

    def add(self, operator: str, *inputs: str, shape: tuple[int, ...] | None = None, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, [self.last, *inputs], [name], **attributes))
        self.last, self.shape = name, shape or self.shape


def convolution(chain: Chain, draw: Draw) -> None:
    if len(chain.shape) != 4:
        return
    n, channels, height, width = chain.shape
    if draw(st.booleans()):
        chain.add("Conv", chain.normal(channels, 1, 3, 3), group=channels, auto_pad=draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"])))
    else:
        chain.add("Conv", chain.normal(5, channels, 1, 1), chain.normal(5), shape=(n, 5, height, width))


def batch_normalization(chain: Chain, draw: Draw) -> None:
    if len(chain.shape) > 1:
        size = chain.shape[1]
        held = chain.positive(size), chain.normal(size), chain.normal(size), chain.positive(size)
        chain.add("BatchNormalization", *held, epsilon=draw(st.sampled_from([1e-5, 1e-3])))


def gemm(chain: Chain, draw: Draw) -> None:
    if len(chain.shape) != 2:
        return
    size, transposed = chain.shape[1], draw(st.integers(0, 1))
    bias = [chain.normal(*draw(st.sampled_from([(6,), (1, 6), (1,)])))] if draw(st.booleans()) else []
    scale = {"alpha": draw(st.sampled_from([1.0, 0.5])), "beta": draw(st.sampled_from([1.0, 2.0]))}
    chain.add(
        "Gemm", chain.normal(6, size) if transposed else chain.normal(size, 6), *bias, shape=(chain.shape[0], 6), transB=transposed, **scale
    )


def activation(chain: Chain, draw: Draw) -> None:
    chain.add(draw(st.sampled_from(["Relu", "Identity", "Dropout", "Neg"])))


def clip(chain: Chain, draw: Draw) -> None:
    low, high = draw(st.sampled_from([-0.5, 0.0])), draw(st.sampled_from([0.25, 6.0]))
    ends = [chain.weight(np.asarray(low, np.float32)), chain.weight(np.asarray(high, np.float32))]
    chain.add("Clip", *draw(st.sampled_from([ends, ends[:1], ["", ends[1]]])))


def reshape(chain: Chain, draw: Draw) -> None:
    batch, *rest = chain.shape
    size = int(np.prod(rest))
    target = draw(st.sampled_from([[0, -1], [batch, size], [-1, size], [0, size, 1], [1, batch, size]]))
    shape = {2: (batch, size), 3: (batch, size, 1) if target[-1] == 1 else (1, batch, size)}[len(target)]
    chain.add("Reshape", chain.weight(np.asarray(target)), shape=shape)


def flatten(chain: Chain, draw: Draw) -> None:
    chain.add("Flatten", shape=(chain.shape[0], int(np.prod(chain.shape[1:]))))


def mean(chain: Chain, draw: Draw) -> None:
    if len(chain.shape) != 4:
        return
    keep = draw(st.integers(0, 1))
    axes = chain.weight(np.asarray(draw(st.sampled_from([[2, 3], [-1, -2]]))))
    chain.add("ReduceMean", axes, shape=chain.shape[:2] + (1, 1) * keep, keepdims=keep)


def transpose(chain: Chain, draw: Draw) -> None:
    order = draw(st.permutations(range(len(chain.shape))))
    chain.add("Transpose", shape=tuple(chain.shape[axis] for axis in order), perm=order)


def pad(chain: Chain, draw: Draw) -> None:
    if len(chain.shape) == 4:
        sizes = draw(st.lists(st.integers(0, 2), min_size=2, max_size=2))
        before = [0, 0, *sizes]
        shape = tuple(size + 2 * extra for size, extra in zip(chain.shape, before, strict=True))
        chain.add("Pad", chain.weight(np.asarray(before * 2)), shape=shape)


PARTS = [convolution, convolution, batch_normalization, batch_normalization, gemm, activation, clip, reshape, flatten, mean, transpose, pad]


def chain_of(draw: Draw) -> Chain:
    chain = Chain(draw(st.integers(0, 2**16)), (draw(st.integers(1, 2)), 3, 5, 4))
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=7)):
        part(chain, draw)
    chain.add("Tanh")
    return chain


def in_float64(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    """Every float32 of a chain made float64 by hand, in onnx's own evaluator."""
    promoted = onnx.ModelProto()
    promoted.CopyFrom(proto)
    for tensor in promoted.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*promoted.graph.input, *promoted.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return np.asarray(ReferenceEvaluator(promoted).run(None, {"x": feed["x"].astype(np.float64)})[0])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_random_chain_keeps_its_function_and_its_error(data: st.DataObject) -> None:
    chain = chain_of(data.draw)
    proto = model(chain.nodes, {"x": chain.start}, {chain.last: None}, chain.weights)
    feed = {"x": np.random.default_rng(1).standard_normal(chain.start).astype(np.float32)}
    form, _ = canonical(proto, feed)
    truth = in_float64(proto, feed)
    before, after = (np.abs(onnxruntime_run(held, feed)[chain.last] - truth).max() for held in (proto, form))
    assert truth.shape == chain.shape == onnxruntime_run(form, feed)[chain.last].shape
    # Both round: the rewritten one may at most double the error of the first, and neither is below a few units in the last place of 1.
    assert after <= 2 * before + 16 * 2.0**-24
