"""Where data moves and where it does not."""

from pathlib import Path

import numpy as np
import pytest

from edgepack.backends.tflite.layout import Layout, regroup
from tests.backends.tflite.models import Hub, both, node, operators


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def cnn(rng: np.random.Generator, join: str = "Flatten") -> Hub:
    """conv, residual block with a channel constant, pool, two branches, concat, then a linear layer on the flattened image."""
    nodes = [
        node("Conv", "x w0 b0", "c0", "conv0", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "c0", "r0", "relu0"),
        node("Conv", "r0 w1 b1", "c1", "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=6),
        node("Add", "c1 r0", "s", "residual"),
        node("Mul", "s gain", "g", "gain"),
        node("MaxPool", "g", "p0", "pool0", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("AveragePool", "g", "p1", "pool1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", "p0 p1", "k", "concat", axis=1),
        node(join, "k" if join == "Flatten" else "k target", "f", "join"),
        node("Gemm", "f w2 b2", "y", "fc", transB=1),
    ]
    weights = {
        "w0": normal(rng, 6, 3, 3, 3),
        "b0": normal(rng, 6),
        "w1": normal(rng, 6, 1, 3, 3),
        "b1": normal(rng, 6),
        "gain": normal(rng, 1, 6, 1, 1),
        "w2": normal(rng, 10, 12 * 5 * 4) / 16,
        "b2": normal(rng, 10),
        "target": np.asarray([1, -1], np.int64),
    }
    return Hub(nodes, {"x": normal(rng, 1, 3, 9, 8)}, weights)


@pytest.mark.parametrize("join", ["Flatten", "Reshape"])
def test_plain_cnn_has_no_transposes_and_equals_onnxruntime(join: str, rng: np.random.Generator, tmp_path: Path) -> None:
    ours, reference = both(cnn(rng, join), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-4, atol=1e-4)
    assert "TRANSPOSE" not in operators(tmp_path)


def test_flattened_image_read_by_more_than_a_linear_layer_returns_to_hub_order(rng: np.random.Generator, tmp_path: Path) -> None:
    hub = cnn(rng)
    hub.nodes += [node("Mul", "f ramp", "z", "ramp")]
    hub.initializers["ramp"] = np.arange(240, dtype=np.float32)
    hub.outputs = {"y": np.float32, "z": np.float32}
    ours, reference = both(hub, tmp_path)
    np.testing.assert_allclose(ours["z"], reference["z"], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 6, 1, 1), (2, 1, 3, 4)])
def test_flatten_of_one_pixel_or_one_channel_moves_nothing(shape: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    size = int(np.prod(shape[1:]))
    nodes = [node("Relu", "x", "r"), node("Flatten", "r", "f"), node("Gemm", "f w", "y")]
    ours, reference = both(Hub(nodes, {"x": normal(rng, *shape)}, {"w": normal(rng, size, 3)}), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-5, atol=1e-5)
    assert "TRANSPOSE" not in operators(tmp_path)


def test_patch_embedding_reaches_tokens_without_a_transpose(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c", "patch", kernel_shape=[4, 4], strides=[4, 4]),
        node("Reshape", "c tokens", "t", "tokens"),
        node("Transpose", "t", "s", "swap", perm=[0, 2, 1]),
        node("MatMul", "s m", "y", "project"),
    ]
    weights = {"w": normal(rng, 8, 3, 4, 4), "m": normal(rng, 8, 5), "tokens": np.asarray([1, 8, 6], np.int64)}
    ours, reference = both(Hub(nodes, {"x": normal(rng, 1, 3, 8, 12)}, weights), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-4, atol=1e-4)
    assert "TRANSPOSE" not in operators(tmp_path)


def test_attention_reads_swapped_keys_in_place(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [node("Transpose", "k", "kt", perm=[0, 2, 1]), node("MatMul", "q kt", "s"), node("Softmax", "s", "y")]
    ours, reference = both(Hub(nodes, {"q": normal(rng, 2, 5, 8), "k": normal(rng, 2, 7, 8)}, {}), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-5, atol=1e-6)
    assert operators(tmp_path) == ["BATCH_MATMUL", "SOFTMAX"]


def test_heads_split_and_joined_equal_onnxruntime(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [
        node("Reshape", "x split", "h", "split"),
        node("Transpose", "h", "t", "heads", perm=[0, 2, 1, 3]),
        node("Transpose", "h", "u", "keys", perm=[0, 2, 3, 1]),
        node("MatMul", "t u", "s", "scores"),
        node("MatMul", "s t", "o", "mix"),
        node("Transpose", "o", "b", "back", perm=[0, 2, 1, 3]),
        node("Reshape", "b join", "y", "join"),
    ]
    shapes = {"split": np.asarray([2, 5, 3, 4], np.int64), "join": np.asarray([2, 5, 12], np.int64)}
    ours, reference = both(Hub(nodes, {"x": normal(rng, 2, 5, 12) * 0.3}, shapes), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-4, atol=1e-4)


def test_channel_shuffle_costs_one_transpose(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [
        node("Reshape", "x groups", "g", "groups"),
        node("Transpose", "g", "t", "shuffle", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "t flat", "y", "flat"),
    ]
    shapes = {"groups": np.asarray([1, 2, 3, 4, 5], np.int64), "flat": np.asarray([1, 6, 4, 5], np.int64)}
    ours, reference = both(Hub(nodes, {"x": normal(rng, 1, 6, 4, 5)}, shapes), tmp_path)
    np.testing.assert_array_equal(ours["y"], reference["y"])
    assert operators(tmp_path).count("TRANSPOSE") == 1


def test_a_slope_for_each_feature_of_a_flattened_image_is_in_the_hubs_order(rng: np.random.Generator, tmp_path: Path) -> None:
    held = {"w": normal(rng, 4, 3, 1, 1), "shape": np.asarray([2, 80], np.int64), "slope": normal(rng, 80)}
    nodes = [node("Conv", "x w", "c"), node("Reshape", "c shape", "f"), node("PRelu", "f slope")]
    ours, reference = both(Hub(nodes, {"x": normal(rng, 2, 3, 4, 5)}, held), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_regrouping_describes_the_same_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = tuple(int(size) for size in rng.choice([1, 2, 3, 4, 6], size=rng.integers(1, 5)))
    new = split_again(rng, int(np.prod(old)))
    hub = np.arange(np.prod(old)).reshape(old)
    layout = Layout(old, tuple(int(axis) for axis in rng.permutation(len(old))))
    found = regroup(layout, new)
    before = Layout(old, found.before).arranged(hub)
    np.testing.assert_array_equal(before.ravel(), found.after.arranged(hub.reshape(new)).ravel())


def split_again(rng: np.random.Generator, size: int) -> tuple[int, ...]:
    """A random shape of ``size`` elements, with ones in it."""
    shape = []
    while size > 1:
        factor = int(rng.choice([held for held in range(1, size + 1) if size % held == 0]))
        shape.append(factor)
        size //= factor
    return (*shape, 1) if rng.random() < 0.5 else (1, *shape)
