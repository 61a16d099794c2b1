"""Preprocessing in the graph: pixels in, the same answers, at no more than one operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.hub.graph import HubError
from edgepack.hub.preprocess import Affine, fold_preprocessing
from edgepack.student.spec import ImagePreprocessing

from .graphs import model, normal, onnxruntime_run

IMAGENET = ImagePreprocessing(8, 9, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
INVERTED = ImagePreprocessing(8, 9, 3, mean=(0.5,), std=(0.25,), invert=True)
UNSHIFTED = ImagePreprocessing(8, 9, 3)
UNEVEN = ImagePreprocessing(8, 9, 3, std=(1.0, 0.4, 0.9))


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=f"{operator}_{output}", **attributes)


def conv(source: str = "x", output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", f"{source} w b" if attributes.pop("bias", True) else f"{source} w", output, **attributes)


GRAPHS: dict[str, tuple[Sequence[onnx.NodeProto], str]] = {
    "a Conv without padding": ([conv()], "NCHW"),
    "a Conv without bias": ([conv(bias=False)], "NCHW"),
    "a Conv of three groups": ([node("Conv", "x wg b", "y", group=3)], "NCHW"),
    "a padded Conv": ([conv(pads=[1, 1, 1, 1])], "NCHW"),
    "two readers": ([conv(output="a"), node("ReduceMean", "x axes", "m"), node("Add", "a m", "y")], "NCHW"),
    "a product": ([node("Flatten", "x", "f"), node("MatMul", "f wm", "y")], "NCHW"),
    "a Transpose first": ([node("Transpose", "x", "t", perm=[0, 3, 1, 2]), conv("t")], "NHWC"),
    "channels last": ([node("ReduceMean", "x pair", "y")], "NHWC"),
}
WEIGHTS = {
    "w": normal(6, 3, 3, 3),
    "b": normal(6, seed=1),
    "wg": normal(6, 1, 3, 3, seed=2),
    "wm": normal(216, 5, seed=3),
    "axes": np.asarray([1, 2, 3], np.int64),
    "pair": np.asarray([1, 2], np.int64),
}
# Which graphs take which preprocessing into a weight they have.
ABSORBING = {"a Conv without padding", "a Conv without bias", "a Conv of three groups", "a Transpose first"}


def built(name: str) -> tuple[onnx.ModelProto, str]:
    nodes, layout = GRAPHS[name]
    read = {each for held in nodes for each in held.input}
    shape = (1, 3, 8, 9) if layout == "NCHW" else (1, 8, 9, 3)
    held = {name: array for name, array in WEIGHTS.items() if name in read}
    proto = model(nodes, {"x": shape}, {"y": None}, held)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True), layout


def folded(proto: onnx.ModelProto, preprocessing: ImagePreprocessing, layout: str, absorb: bool = True) -> tuple[onnx.ModelProto, str]:
    graph = ir.from_proto(proto)
    note = fold_preprocessing(graph, Affine(*preprocessing.affine), layout, absorb)
    result = ir.to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    return result, note


def added(before: onnx.ModelProto, after: onnx.ModelProto) -> Counter[str]:
    kinds = [Counter(held.op_type for held in proto.graph.node) for proto in (after, before)]
    return kinds[0] - kinds[1]


@pytest.mark.parametrize("preprocessing", [IMAGENET, INVERTED, UNSHIFTED, UNEVEN], ids=["imagenet", "inverted", "unshifted", "uneven"])
@pytest.mark.parametrize("name", list(GRAPHS))
def test_pixels_give_in_onnxruntime_what_normalized_values_gave(name: str, preprocessing: ImagePreprocessing) -> None:
    proto, layout = built(name)
    shape = [dimension.dim_value for dimension in proto.graph.input[0].type.tensor_type.shape.dim]
    pixels = np.random.default_rng(5).integers(0, 256, shape).astype(np.float32)
    wanted = onnxruntime_run(proto, {"x": preprocessing.values_of(pixels, layout)})["y"]
    for absorb in (True, False):
        found = onnxruntime_run(folded(proto, preprocessing, layout, absorb)[0], {"x": pixels})["y"]
        # Sums of at most 216 products of up to 8, each rounded to 2^-24 on either side: sqrt(216) * 8 * 2 * 2^-24 = 1.4e-5, three times.
        np.testing.assert_allclose(found, wanted, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", list(GRAPHS))
def test_a_conv_without_padding_takes_it_for_nothing_and_any_other_for_one_operator(name: str) -> None:
    proto, layout = built(name)
    after, note = folded(proto, IMAGENET, layout)
    if name in ABSORBING:
        assert not added(proto, after)
        assert "in the weights of Conv" in note
    else:
        assert added(proto, after) == ({"Mul": 1, "Add": 1} if name == "channels last" else {"Conv": 1})


def test_padding_with_zeros_is_right_where_nothing_is_shifted() -> None:
    proto, layout = built("a padded Conv")
    assert not added(proto, folded(proto, UNSHIFTED, layout)[0])
    assert added(proto, folded(proto, IMAGENET, layout)[0]) == {"Conv": 1}


def test_weights_are_left_alone_where_channels_differ_by_more_than_a_bit_or_scales_are_narrow() -> None:
    proto, layout = built("a Conv without padding")
    assert added(proto, folded(proto, UNEVEN, layout)[0]) == {"Conv": 1}
    assert added(proto, folded(proto, IMAGENET, layout, absorb=False)[0]) == {"Conv": 1}


def test_the_input_keeps_its_name_shape_and_type() -> None:
    proto, layout = built("a padded Conv")
    assert folded(proto, IMAGENET, layout)[0].graph.input[0] == proto.graph.input[0]


def test_a_student_that_takes_pixels_already_is_left_as_it_is() -> None:
    proto, layout = built("a padded Conv")
    after, note = folded(proto, msgspec.structs.replace(IMAGENET, folded=True), layout)
    assert after.graph == ir.to_proto(ir.from_proto(proto)).graph
    assert "as the student does" in note


def test_what_cannot_take_pixels_is_refused_by_name() -> None:
    padded, _ = built("a padded Conv")
    with pytest.raises(HubError, match=r"'x' float32\[1, 3, 8, 9\] is no NCHW image of 1 channels"):
        folded(padded, ImagePreprocessing(8, 9, 1), "NCHW")
    two = model([node("Add", "x z", "y")], {"x": (1, 3, 8, 9), "z": (1, 3, 8, 9)}, {"y": (1, 3, 8, 9)})
    with pytest.raises(HubError, match="the student has 2"):
        folded(two, IMAGENET, "NCHW")
    codes: dict[str, np.ndarray] = {"s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.uint8)}
    own = model([node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")], {"x": (1, 3, 8, 9)}, {"y": None}, codes)
    with pytest.raises(HubError, match="codes of its own"):
        folded(onnx.shape_inference.infer_shapes(own), IMAGENET, "NCHW")
