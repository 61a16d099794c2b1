"""An image processor becomes edgepack's preprocessing where both make the same of an image, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepack.student.huggingface.folder import ModelFolder
from edgepack.student.huggingface.images import PROCESSOR, preprocessing_of
from edgepack.student.huggingface.load import from_huggingface
from edgepack.student.spec import StudentError
from tests.student.huggingface.folders import rewritten, saved, transformers

EXACT = {"height": 32, "width": 32}


def of(folder: Path, processor: Any) -> Any:
    processor.save_pretrained(folder)
    return preprocessing_of(ModelFolder(folder, folder, {}, ()), 3)


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("processor", "resize"),
    [
        (transformers.ViTImageProcessor(size=EXACT), "stretch"),
        (transformers.ViTImageProcessor(size=EXACT, resample=3, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]), "stretch"),
        (transformers.ViTImageProcessor(size=EXACT, do_normalize=False), "stretch"),
        (transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=EXACT), "cover"),
    ],
)
def test_the_same_steps_are_found_and_make_the_same_values(tmp_path: Path, processor: Any, resize: str) -> None:
    found = of(tmp_path, processor)
    assert found is not None and found.resize == resize
    theirs = processor(photograph(), return_tensors="np")["pixel_values"]
    level = 1 / 255 / min(found.std)
    difference = np.abs(found.sample(photograph()) - theirs)
    # A level where a resampled value lies between two. A crop is cut before in ours and after in theirs, which moves single pixels of noise
    # by a few levels; a shift by one pixel would move all of them by tens.
    assert difference.mean() < 0.5 * level
    assert resize == "cover" or difference.max() <= 1.01 * level


@pytest.mark.parametrize(
    "processor",
    [
        transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=EXACT),
        transformers.ViTImageProcessor(size=EXACT, rescale_factor=1 / 127.5),
        transformers.ViTImageProcessor(size=EXACT, do_rescale=False),
        transformers.ViTImageProcessor(size=EXACT, do_resize=False),
        transformers.ViTImageProcessor(size=EXACT, resample=1),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ],
)
def test_steps_that_cannot_be_said_are_not_made_up(tmp_path: Path, processor: Any) -> None:
    assert of(tmp_path, processor) is None


@pytest.mark.parametrize(
    "wrong", [{"image_mean": "dark"}, {"image_std": [0, 0, 0]}, {"resample": [2]}, {"image_processor_type": "NoSuchImageProcessor"}]
)
def test_words_that_are_no_numbers_make_no_preprocessing(tmp_path: Path, wrong: dict[str, Any]) -> None:
    transformers.ViTImageProcessor(size=EXACT).save_pretrained(tmp_path)
    rewritten(tmp_path, PROCESSOR, **wrong)
    assert preprocessing_of(ModelFolder(tmp_path, tmp_path, {}, ()), 3) is None


@pytest.mark.parametrize("side", ["a", -32, 32.5, 2**40])
def test_an_image_of_no_size_is_refused(tmp_path: Path, side: object) -> None:
    folder = saved("vit", tmp_path / "net")
    transformers.ViTImageProcessor(size=EXACT).save_pretrained(folder)
    rewritten(folder, PROCESSOR, size={"height": side, "width": 32})
    with pytest.raises(StudentError, match="write whole numbers of pixels"):
        from_huggingface(folder)


def test_an_image_student_takes_image_files(tmp_path: Path) -> None:
    folder = saved("vit", tmp_path / "net")
    transformers.ViTImageProcessor(size=EXACT).save_pretrained(folder)
    student = from_huggingface(folder)
    (found,) = student.describe("net").inputs
    assert (found.name, found.shape, found.layout, found.value_range) == ("pixel_values", (1, 3, 32, 32), "NCHW", (-1.0, 1.0))
