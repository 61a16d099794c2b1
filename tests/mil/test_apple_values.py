"""Expected values that Apple ships in coremltools' operator tests (coremltools/converters/mil/mil/ops/tests; BSD-3-Clause).

Copied by hand for windows, padding and resizing, whose conventions are easiest to get wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .packages import builder, interpret


def near(found: Any, want: Any) -> None:
    np.testing.assert_allclose(found, np.asarray(want, np.float32), atol=1e-4, rtol=1e-5)


# iOS14/test_pool.py, test_builder_to_backend_smoke. Apple's second pool of each test has pad_type "same"; here its padding is written out.
LINE = np.array([[[1, 2, 3, 4, 5, 6, 7]]], np.float32)
POOLED = np.array(
    [[[[-10.80291205, -6.42076184], [-7.07910997, 9.1913279]], [[-3.18181497, 0.9132147], [11.9785544, 7.92449539]]]], np.float32
)


def average(x: Any, **parameters: Any) -> Any:
    return builder().avg_pool(x=x, pad_type="custom", exclude_padding_from_average=True, **parameters)


def test_average_pool_of_a_line() -> None:
    near(interpret(lambda x: average(x, kernel_sizes=[1], strides=[2], pad=[0, 0]), x=LINE)[0], [[[1, 3, 5, 7]]])
    near(interpret(lambda x: average(x, kernel_sizes=[3], strides=[3], pad=[1, 1]), x=LINE)[0], [[[1.5, 4.0, 6.5]]])


def test_average_pool_of_an_image() -> None:
    valid = interpret(lambda x: average(x, kernel_sizes=[1, 2], strides=[2, 1], pad=[0, 0, 0, 0]), x=POOLED)
    near(valid[0], [[[[-8.611837]], [[-1.1343001]]]])
    same = interpret(lambda x: average(x, kernel_sizes=[2, 3], strides=[1, 3], pad=[0, 1, 0, 1]), x=POOLED)
    near(same[0], [[[[-3.7778642], [1.056109]], [[4.4086123], [9.951525]]]])


def test_max_pool_ignores_its_padding() -> None:
    """iOS14/test_pool.py, TestMaxPool, num_dims 3: the window of -2, -4, -3 and a padded row gives -2, not 0."""
    x = np.array([[[[[7, -3, -5], [5, 4, 7], [-2, -4, -3]], [[-4, 3, -1], [6, -4, 4], [3, 6, 2]], [[-1, 4, -4], [-2, -1, -2], [3, 2, 8]]]]])

    def body(x: Any) -> Any:
        return builder().max_pool(x=x, kernel_sizes=[1, 2, 3], strides=[2, 1, 3], pad_type="custom", pad=[0, 0, 0, 1, 0, 0])

    near(interpret(body, x=x.astype(np.float32))[0], [[[[[7.0], [7.0], [-2.0]], [[4.0], [8.0], [8.0]]]]])


# iOS14/test_tensor_operation.py, TestPad.
@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("constant", [[0.5] * 7, [0.5, 0.5, 1, 2, 3, 0.5, 0.5], [0.5, 0.5, 4, 5, 6, 0.5, 0.5], [0.5] * 7]),
        ("reflect", [[6, 5, 4, 5, 6, 5, 4], [3, 2, 1, 2, 3, 2, 1], [6, 5, 4, 5, 6, 5, 4], [3, 2, 1, 2, 3, 2, 1]]),
        ("replicate", [[1, 1, 1, 2, 3, 3, 3], [1, 1, 1, 2, 3, 3, 3], [4, 4, 4, 5, 6, 6, 6], [4, 4, 4, 5, 6, 6, 6]]),
    ],
)
def test_pad(mode: str, want: list[list[float]]) -> None:
    def body(x: Any) -> Any:
        return builder().pad(x=x, pad=[1, 1, 2, 2], mode=mode, constant_val=np.float32(0.5))

    near(interpret(body, x=np.array([[1, 2, 3], [4, 5, 6]], np.float32))[0], want)


# iOS14/test_image_resizing.py, TestResizeBilinear and TestUpsampleBilinear: an axis [0, 1] sampled at five places.
@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
    ],
)
def test_resize_bilinear_samples_where_apple_does(mode: str, want: list[float]) -> None:
    def body(x: Any) -> Any:
        return builder().resize_bilinear(x=x, target_size_height=1, target_size_width=5, sampling_mode=mode)

    near(interpret(body, x=np.array([[[0, 1]]], np.float32))[0], [[want]])


def test_upsample_nearest_neighbor() -> None:
    """iOS14/test_image_resizing.py, TestUpsampleNearestNeighbor."""
    found = interpret(
        lambda x: builder().upsample_nearest_neighbor(x=x, scale_factor_height=np.float32(1), scale_factor_width=np.float32(2)),
        x=np.array([[[[1.5, 2.5, 3.5]]]], np.float32),
    )
    near(found[0], [[[[1.5, 1.5, 2.5, 2.5, 3.5, 3.5]]]])


def test_conv_with_bias() -> None:
    """iOS14/test_conv.py, test_conv_bias_fusion."""
    weight, bias = np.full((1, 1, 1, 1), 2.5, np.float32), np.array([10], np.float32)
    found = interpret(lambda x: builder().conv(x=x, weight=weight, bias=bias), x=np.array([[[[1, 2], [3, 4]]]], np.float32))
    near(found[0], [[[[12.5, 15.0], [17.5, 20.0]]]])


@pytest.mark.parametrize(("operator", "size"), [("depth_to_space", "block_size"), ("pixel_shuffle", "upscale_factor")])
def test_channels_to_pixels(operator: str, size: str) -> None:
    """iOS14/test_tensor_transformation.py, TestDepthToSpace and TestPixelShuffle: one channel, so both orders agree."""
    x = np.array([[[[9.0]], [[5.0]], [[1.0]], [[3.0]]]], np.float32)
    near(interpret(lambda x: getattr(builder(), operator)(x=x, **{size: 2}), x=x)[0], [[[[9.0, 5.0], [1.0, 3.0]]]])


@pytest.mark.parametrize(
    ("padding", "sizes", "kernel", "stride", "groups"),
    [((1, 2), (12, 14), (3, 2), (2, 1), 1), ((2, 2), (7, 7), (2, 2), (2, 1), 2)],
)
def test_conv_transpose(padding: tuple[int, int], sizes: tuple[int, int], kernel: tuple[int, int], stride: Any, groups: int) -> None:
    """iOS14/test_conv.py, TestConvTranspose, whose expected values are torch's."""
    import torch

    random = np.random.default_rng(4)
    x, bias = random.normal(size=(1, 4, *sizes)).astype(np.float32), random.normal(size=6).astype(np.float32)
    weight = random.normal(size=(4, 6 // groups, *kernel)).astype(np.float32)
    pad = [padding[0], padding[0], padding[1], padding[1]]

    def body(x: Any) -> Any:
        return builder().conv_transpose(x=x, weight=weight, bias=bias, pad=pad, pad_type="custom", strides=list(stride), groups=groups)

    tensors = [torch.tensor(array) for array in (x, weight, bias)]
    want = torch.nn.functional.conv_transpose2d(*tensors, stride=stride, padding=padding, groups=groups)
    near(interpret(body, x=x)[0], want.numpy())


def test_prelu() -> None:
    """iOS14/test_activation.py, TestPReLU, rank 4."""
    x = np.array([-1, 3, -1, 2, 4, -5], np.float32).reshape(1, 3, 1, 2)
    found = interpret(lambda x: builder().prelu(x=x, alpha=np.array([1, 2, 3], np.float32)), x=x)
    near(found[0].ravel(), [-1, 3, -2, 2, 4, -15])


def test_quantize_with_a_zero_point() -> None:
    """iOS17/test_quantization.py, TestQuantize."""

    def body(x: Any) -> Any:
        half = builder().cast(x=x, dtype="fp16")
        codes = builder().quantize(input=half, zero_point=np.int8(10), scale=np.float16(0.1), output_dtype="int8")
        return builder().cast(x=builder().dequantize(input=codes, scale=np.float16(1)), dtype="fp32")

    near(interpret(body, x=np.array([-1, 0, 1, 2], np.float32))[0], [0, 10, 20, 30])


def test_quantize_along_an_axis() -> None:
    """iOS17/test_quantization.py, TestQuantize, one scale a row."""

    def body(x: Any) -> Any:
        half = builder().cast(x=x, dtype="fp16")
        codes = builder().quantize(
            input=half, scale=np.array([0.1, 0.01], np.float16), zero_point=np.array([10, 0], np.uint8), axis=0, output_dtype="uint8"
        )
        return builder().cast(x=builder().dequantize(input=codes, scale=np.float16(1)), dtype="fp32")

    near(interpret(body, x=np.array([[-1, 0], [1, 2]], np.float32))[0], [[0, 10], [100, 200]])
