"""Losses, triangles, sums of products, Fourier transforms and declared shapes said with other operators, against numpy and onnxruntime."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.hub.graphs import FP32, canonical, kept, model, normal, onnxruntime_run, operators

node = helper.make_node
X = {"x": [3, 5, 4]}
Y = {"y": None}


def agrees(proto: onnx.ModelProto, feed: dict[str, np.ndarray], gone: str) -> onnx.ModelProto:
    """The canonical form, which answers as onnxruntime does for the captured model, and has no such operator."""
    form, _ = canonical(proto, feed)
    assert gone not in operators(form)
    given, wanted = onnxruntime_run(form, feed), onnxruntime_run(proto, feed)
    for name, array in wanted.items():
        np.testing.assert_allclose(given[name], array, rtol=FP32, atol=FP32, err_msg=name)
    return form


TARGET = np.asarray([[0, 4, 2, 1], [3, 3, 1, 0], [2, 0, 4, 1]])


@pytest.mark.parametrize("operator", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignored", [None, 1, -1])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_picks_one_score_a_place(operator: str, reduction: str, ignored: int | None, weighted: bool) -> None:
    target = np.where(TARGET == 1, -1, TARGET) if ignored == -1 else TARGET
    held = {"t": target, **({"w": np.abs(normal(5, seed=3))} if weighted else {})}
    attributes = {"reduction": reduction, **({} if ignored is None else {"ignore_index": ignored})}
    proto = model([node(operator, ["x", *held], ["y"], **attributes)], X, {"y": [3, 4] if reduction == "none" else []}, held)
    agrees(proto, {"x": -np.abs(normal(*X["x"]))}, operator)


def test_the_logarithm_of_the_softmax_is_an_output_of_its_loss() -> None:
    proto = model([node("SoftmaxCrossEntropyLoss", ["x", "t"], ["y", "z"])], X, {"y": [], "z": [3, 5, 4]}, {"t": TARGET})
    form = agrees(proto, {"x": normal(*X["x"])}, "SoftmaxCrossEntropyLoss")
    assert operators(form).count("LogSoftmax") == 1


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("diagonal", [None, 0, -2, 7])
def test_a_triangle_is_a_choice_by_a_constant(upper: int, diagonal: int | None) -> None:
    held = {} if diagonal is None else {"k": np.asarray(diagonal)}
    proto = model([node("Trilu", ["x", *held], ["y"], upper=upper)], X, Y, held)
    assert operators(agrees(proto, {"x": normal(*X["x"])}, "Trilu")) == ["Where"]


def test_a_triangle_of_infinities_has_zeros_outside() -> None:
    form = kept([node("Trilu", ["x"], ["y"], upper=0)], {}, {"x": [2, 2]})
    given = onnxruntime_run(form, {"x": np.full((2, 2), -np.inf, np.float32)})["y"]
    assert np.array_equal(given, [[-np.inf, 0], [-np.inf, -np.inf]])


def test_a_diagonal_of_run_time_is_compared_with() -> None:
    proto = model([node("Trilu", ["x", "k"], ["y"])], X | {"k": []}, Y, types={"k": TensorProto.INT64})
    agrees(proto, {"x": normal(*X["x"]), "k": np.asarray(1)}, "Trilu")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_of_equal_largest_elements_hardmax_takes_the_first(axis: int) -> None:
    proto = model([node("Hardmax", ["x"], ["y"], axis=axis)], X, Y)
    agrees(proto, {"x": np.round(normal(*X["x"]))}, "Hardmax")


EINSUM = {
    "ij,jk->ik": ([3, 4], [4, 5]),
    "bij,bjk->bik": ([2, 3, 4], [2, 4, 5]),
    "bhid,bhjd->bhij": ([2, 3, 4, 5], [2, 3, 6, 5]),
    "bqhd,bkhd->bhqk": ([2, 4, 3, 5], [2, 6, 3, 5]),
    "i,j->ij": ([3], [4]),
    "ij,ij->": ([3, 4], [3, 4]),
    "ij,kj": ([3, 4], [5, 4]),
    "abc,cd->bd": ([2, 3, 4], [4, 5]),
    "...ij,jk->...ik": ([2, 3, 4, 5], [5, 6]),
    "ij->ji": ([3, 4],),
    "ijk->j": ([2, 3, 4],),
    "ab,bc,cd->ad": ([2, 3], [3, 4], [4, 5]),
}


@pytest.mark.parametrize("equation", EINSUM)
def test_a_sum_of_products_is_a_product_of_matrices(equation: str) -> None:
    feed = {f"x{index}": normal(*shape, seed=index) for index, shape in enumerate(EINSUM[equation])}
    wanted = np.einsum(equation, *(array.astype(np.float64) for array in feed.values()))
    shapes = dict(zip(feed, EINSUM[equation], strict=True))
    proto = model([node("Einsum", list(feed), ["y"], equation=equation)], shapes, {"y": list(wanted.shape)})
    form = agrees(proto, feed, "Einsum")
    np.testing.assert_allclose(onnxruntime_run(form, feed)["y"], wanted, rtol=1e-5, atol=1e-5)


def test_a_diagonal_stays_an_einsum_for_a_refusal() -> None:
    form, _ = canonical(model([node("Einsum", ["x"], ["y"], equation="ii->i")], {"x": [3, 3]}, {"y": [3]}), {"x": normal(3, 3)})
    assert operators(form) == ["Einsum"]


def spectrum(shape: list[int], axis: int, length: int | None = None, **attributes: Any) -> tuple[onnx.ModelProto, np.ndarray]:
    held = {"axis": np.asarray(axis), **({"n": np.asarray(length)} if length else {})}
    proto = model([node("DFT", ["x", "n" if length else "", "axis"], ["y"], **attributes)], {"x": shape}, Y, held)
    return proto, normal(*shape)


@pytest.mark.parametrize("length", [None, 5, 12])
@pytest.mark.parametrize("attributes", [{}, {"onesided": 1}, {"inverse": 1}])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_fourier_transform_is_numpys(length: int | None, attributes: dict[str, int], parts: int) -> None:
    if parts == 2 and "onesided" in attributes:
        return  # one side alone does not say what a complex signal was
    proto, x = spectrum([2, 8, 3, parts], 1, length, **attributes)
    signal = x[..., 0].astype(np.complex128) + (1j * x[..., 1] if parts == 2 else 0)
    wanted = (np.fft.ifft if "inverse" in attributes else np.fft.fft)(signal, length, axis=1)
    wanted = wanted[:, : wanted.shape[1] // 2 + 1] if "onesided" in attributes else wanted
    form, _ = canonical(proto, {"x": x})
    assert "DFT" not in operators(form)
    given = onnxruntime_run(form, {"x": x})["y"]
    np.testing.assert_allclose(given, np.stack([wanted.real, wanted.imag], -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [False, True])
def test_a_short_time_transform_is_one_of_every_frame(window: bool) -> None:
    held = {"step": np.asarray(3), **({"w": np.hanning(8).astype(np.float32)} if window else {}), "n": np.asarray(8)}
    proto = model([node("STFT", ["x", "step", "w" if window else "", "n"], ["y"])], {"x": [2, 20, 1]}, {"y": [2, 5, 5, 2]}, held)
    agrees(proto, {"x": normal(2, 20, 1)}, "STFT")


def test_axes_of_run_time_with_a_declared_result_are_a_reshape() -> None:
    proto = model([node("Unsqueeze", ["x", "a"], ["y"])], X | {"a": [1]}, {"y": [3, 1, 5, 4]}, types={"a": TensorProto.INT64})
    agrees(proto, {"x": normal(*X["x"]), "a": np.asarray([1])}, "Unsqueeze")


def test_parts_of_no_size_are_left_out() -> None:
    nodes = [node("Split", ["x", "sizes"], ["a", "b"], axis=1), node("Relu", ["a"], ["r"]), node("Concat", ["r", "b"], ["y"], axis=1)]
    assert operators(kept(nodes, {"sizes": np.asarray([5, 0])}, X)) == ["Relu"]


def test_a_group_normalization_by_numbers_of_run_time_is_written_out() -> None:
    inputs = {"x": [2, 4, 3], "s": [4], "b": [4]}
    proto = model([node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)], inputs, {"y": [2, 4, 3]})
    agrees(proto, {name: normal(*shape) for name, shape in inputs.items()}, "GroupNormalization")


@pytest.mark.parametrize("order", [1, 2])
def test_what_has_no_length_stays_zero_when_it_is_normalized(order: int) -> None:
    form = kept([node("LpNormalization", ["x"], ["y"], axis=1, p=order)], {}, {"x": [2, 3]})
    given = onnxruntime_run(form, {"x": np.asarray([[0, 0, 0], [3, 0, -4]], np.float32)})["y"]
    np.testing.assert_allclose(given, [[0, 0, 0], np.asarray([3, 0, -4]) / (7 if order == 1 else 5)], rtol=1e-6)
