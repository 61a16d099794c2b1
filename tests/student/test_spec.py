"""Image preprocessing against Pillow and plain arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image, ImageOps

from edgepack.student.spec import ImagePreprocessing, StudentError

RANDOM = np.random.default_rng(5)


def picture(folder: Path, height: int = 20, width: int = 30, name: str = "picture.png", mode: str = "RGB") -> Path:
    Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), np.uint8)).convert(mode).save(folder / name)
    return folder / name


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("resize", ["cover", "stretch"])
def test_an_image_is_resized_as_pillow_does_and_normalized_channel_by_channel(tmp_path: Path, resize: str, interpolation: str) -> None:
    path = picture(tmp_path)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    sample = ImagePreprocessing(12, 10, 3, resize, interpolation, mean, std).load(path)
    method = Image.Resampling[interpolation.upper()]
    image = Image.open(path)
    fitted = ImageOps.fit(image, (10, 12), method) if resize == "cover" else image.resize((10, 12), method)
    wanted = (np.asarray(fitted, np.float64) / 255 - mean) / std
    assert sample.shape == (1, 3, 12, 10) and sample.dtype == np.float32 and sample.flags.c_contiguous
    np.testing.assert_allclose(sample[0].transpose(1, 2, 0), wanted, atol=1e-6)


def test_nhwc_is_the_same_sample_transposed(tmp_path: Path) -> None:
    preprocessing, path = ImagePreprocessing(8, 9), picture(tmp_path)
    np.testing.assert_array_equal(preprocessing.load(path, "NHWC"), preprocessing.load(path).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_8_bit_mode_becomes_grey_as_pillow_makes_it(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path, 8, 8, "grey.tif" if mode == "CMYK" else "grey.png", mode)
    wanted = np.asarray(Image.open(path).convert("L"), np.float32) / np.float32(255)
    np.testing.assert_array_equal(ImagePreprocessing(8, 8, 1).load(path)[0, 0], wanted)


def test_inverting_makes_white_paper_black() -> None:
    pixels = np.asarray([[[255], [0]], [[51], [204]]], np.uint8)
    sample = ImagePreprocessing(2, 2, 1, invert=True).normalize(pixels)
    np.testing.assert_allclose(sample[0, 0], [[0, 1], [0.8, 0.2]], atol=1e-7)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 2)), min_size=3, max_size=3))
def test_no_pixel_leaves_the_value_range_and_both_ends_are_reached(channels: list[tuple[float, float]]) -> None:
    mean, std = zip(*channels, strict=True)
    preprocessing = ImagePreprocessing(1, 2, 3, mean=mean, std=std)
    sample = preprocessing.normalize(np.asarray([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert preprocessing.value_range == pytest.approx((sample.min(), sample.max()), rel=1e-5, abs=1e-5)


CHANNELS = st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 2)), min_size=3, max_size=3)


@given(CHANNELS, st.booleans(), st.sampled_from(["NCHW", "NHWC"]))
def test_every_pixel_comes_back_from_the_values_it_became(channels: list[tuple[float, float]], invert: bool, layout: str) -> None:
    mean, std = zip(*channels, strict=True)
    preprocessing = ImagePreprocessing(16, 16, 3, mean=mean, std=std, invert=invert)
    pixels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    values = preprocessing.normalize(pixels, layout)
    folded = replace(preprocessing, folded=True)
    np.testing.assert_array_equal(preprocessing.pixels_of(values, layout), folded.normalize(pixels, layout))
    np.testing.assert_array_equal(preprocessing.values_of(folded.normalize(pixels, layout), layout), values)
    factor, shift = (each if layout == "NHWC" else each.reshape(3, 1, 1) for each in preprocessing.affine)
    # Three float32 operations on numbers up to 1 + |mean|, over the smallest std: 3 * 2 * 2^-24 / 0.01.
    np.testing.assert_allclose(factor * folded.normalize(pixels, layout) + shift, values, atol=4e-5, rtol=1e-6)


def test_folded_preprocessing_gives_the_pixels_of_a_file_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
    Image.fromarray(pixels).save(path)
    held = ImagePreprocessing(4, 5, 1, mean=(0.3,), std=(0.2,), invert=True, folded=True)
    np.testing.assert_array_equal(held.load(path)[0, 0], pixels)
    assert held.value_range == (0.0, 255.0)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 2}, {"height": 0}, {"width": -1}, {"std": (0.0,)}, {"std": (-1.0, 1.0, 1.0)}, {"mean": (0.1, 0.2)}, {"mean": ()},
        {"std": ()}, {"resize": "crop"}, {"interpolation": "lanczos"},
    ],
)  # fmt: skip
def test_settings_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="preprocessing"):
        ImagePreprocessing(**{"height": 8, "width": 8, **options})


def test_a_16_bit_image_is_refused_since_pillow_would_clip_it(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(StudentError, match=r"deep\.png has pixels of more than 8 bits"):
        ImagePreprocessing(8, 8, 1).load(tmp_path / "deep.png")


@pytest.mark.parametrize("kind", ["text", "truncated", "missing"])
def test_a_file_that_is_no_whole_image_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.png"
    if kind != "missing":
        whole = picture(tmp_path).read_bytes()
        path.write_bytes(b"hello" if kind == "text" else whole[: len(whole) // 2])
    with pytest.raises(StudentError, match=r"broken\.png cannot be read as an image"):
        ImagePreprocessing(8, 8).load(path)


def test_an_image_that_unpacks_to_far_more_than_a_photograph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("L", (12_000, 12_000)).save(path)
    with pytest.raises(StudentError, match="unpacks to 144000000 pixels"):
        ImagePreprocessing(8, 8, 1).load(path)


def test_formats_that_need_a_program_of_their_own_are_not_opened(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    with pytest.raises(StudentError, match="cannot be read as an image"):
        ImagePreprocessing(8, 8).load(tmp_path / "a.eps")
