"""Forms that a format has no operator for, said with others: the artifact answers as onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.backends.table import BackendError
from edgepack.hub.canonical import run_plain
from tests.backends.both_formats import FORMATS, artifact_outputs, one_node

RNG = np.random.default_rng(17)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> Any:
    return np.asarray(values, np.int64)


BOXES = np.asarray([[0, 0, 4, 5], [-2, 1, 12, 3], [3.3, 2.2, 3.9, 9.8]], np.float32)
# operator, inputs by name, how many of them come in at run time, attributes.
CASES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "reverse sequence": ("ReverseSequence", {"x": normal(4, 3, 2), "n": i64(1, 4, 2)}, 2, {}),
    "reverse sequence batch first": ("ReverseSequence", {"x": normal(3, 4), "n": i64(1, 4, 2)}, 1, {"batch_axis": 0, "time_axis": 1}),
    "compress": ("Compress", {"x": normal(3, 4), "c": np.asarray([True, False, True])}, 1, {"axis": -1}),
    "compress flat": ("Compress", {"x": normal(3, 2), "c": np.asarray([False, True, True, False, True])}, 1, {}),
    "crop and pad": ("CenterCropPad", {"x": normal(5, 8, 3), "s": i64(4, 11)}, 1, {"axes": [1, -1]}),
    "affine grid": ("AffineGrid", {"t": normal(2, 2, 3), "s": i64(2, 3, 4, 5)}, 1, {"align_corners": 1}),
    "affine grid of volumes": ("AffineGrid", {"t": normal(1, 3, 4), "s": i64(1, 3, 2, 3, 4)}, 1, {}),
    "unpool": (
        "MaxUnpool",
        {"x": normal(1, 1, 2, 2), "i": i64(5, 7, 13, 15).reshape(1, 1, 2, 2)},
        2,
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "columns to image": ("Col2Im", {"x": normal(2, 12, 20), "s": i64(5, 5), "b": i64(2, 3)}, 1, {"pads": [0, 1, 0, 1]}),
    "columns to line": ("Col2Im", {"x": normal(1, 6, 3), "s": i64(7), "b": i64(3)}, 1, {"strides": [2]}),
    "regions": (
        "RoiAlign",
        {"x": normal(2, 3, 6, 7), "r": BOXES, "b": i64(1, 0, 1)},
        3,
        {"output_height": 2, "output_width": 3, "sampling_ratio": 2, "spatial_scale": 0.5},
    ),
    "regions without half a pixel": (
        "RoiAlign",
        {"x": normal(2, 3, 6, 7), "r": BOXES, "b": i64(1, 0, 1)},
        2,
        {"output_height": 2, "output_width": 2, "sampling_ratio": 1, "coordinate_transformation_mode": "output_half_pixel"},
    ),
    "deformed convolution": (
        "DeformConv",
        {"x": normal(2, 4, 5, 6), "w": normal(4, 2, 3, 2), "o": normal(2, 24, 3, 6), "b": normal(4), "m": normal(2, 12, 3, 6)},
        5,
        {"group": 2, "offset_group": 2, "pads": [1, 1, 1, 1], "strides": [2, 1], "dilations": [1, 2]},
    ),
    "convolution of computed weights": (
        "Conv",
        {"x": normal(2, 4, 7, 6), "w": normal(6, 2, 3, 2), "b": normal(6)},
        3,
        {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]},
    ),
    "transposed convolution of computed weights": (
        "ConvTranspose",
        {"x": normal(1, 4, 3, 4), "w": normal(4, 3, 3, 2), "b": normal(6)},
        3,
        {"group": 2, "pads": [1, 0, 0, 1], "strides": [2, 3], "output_padding": [1, 0]},
    ),
    "convolution of volumes": (
        "Conv",
        {"x": normal(2, 4, 5, 6, 5), "w": normal(6, 2, 3, 2, 3), "b": normal(6)},
        1,
        {"group": 2, "pads": [1, 0, 1, 2, 1, 0], "strides": [2, 1, 2], "dilations": [1, 2, 1]},
    ),
    "transposed convolution of volumes": (
        "ConvTranspose",
        {"x": normal(1, 3, 3, 2, 4), "w": normal(3, 2, 3, 2, 3), "b": normal(2)},
        1,
        {"pads": [1, 0, 1, 2, 1, 0], "strides": [2, 1, 2], "output_padding": [1, 0, 1]},
    ),
}


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", CASES)
def test_a_spelled_form_equals_onnxruntime(name: str, format_name: str, tmp_path: Path) -> None:
    operator, inputs, given, attributes = CASES[name]
    model, feed = one_node(operator, inputs, given, **attributes), dict(list(inputs.items())[:given])
    wanted = run_plain(model, feed)["y"]
    # At most 36 products of unit numbers, added in two orders: 36 * 2^-24 * 4 is 1e-5.
    np.testing.assert_allclose(artifact_outputs(model, feed, format_name, tmp_path)["y"], wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_only_a_run_can_tell_is_refused_with_the_reason(format_name: str, tmp_path: Path) -> None:
    inputs = {"x": normal(1, 3, 6, 7), "r": BOXES, "b": i64(0, 0, 0)}
    adaptive = one_node("RoiAlign", inputs, 3, output_height=2, output_width=2, sampling_ratio=0)
    with pytest.raises(BackendError, match=r"RoiAlign '.*': it takes a maximum, or as many samples as a box is large"):
        artifact_outputs(adaptive, inputs, format_name, tmp_path)
