"""preprocessor_config.json as edgepack's own preprocessing, where transformers' own image processor makes the same of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.student.huggingface.folder import ModelFolder
from edgepack.student.spec import LARGEST_PIXEL, ImagePreprocessing

PROCESSOR = "preprocessor_config.json"
# PIL.Image.Resampling by number, as the file names them.
_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# Both resize with Pillow to whole pixels, which differ by one level where a crop lies between two.
_LEVELS = 1.5


def preprocessing_of(folder: ModelFolder, channels: int) -> ImagePreprocessing | None:
    """Resize, centre crop, scale and normalize as the folder's image processor does them.

    At the edge of a centre crop the two differ by what the filter reads beyond it: ours cuts first.

    Returns:
        None where ``ImagePreprocessing`` cannot say the same: no resize, a crop smaller than what was resized, sizes that depend on the
        image, another factor than 1/255. A calibration manifest's [preprocessing] can then say what comes close.
    """
    try:
        read = _read(folder.json(PROCESSOR), channels)
    except (TypeError, ValueError):  # a number or a name of a kind that ours does not have
        return None
    return read if read is not None and _agrees(folder, read) else None


def image_size(held: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the input, None where the file does not say."""
    last = held.get("crop_size") if held.get("do_center_crop") else held.get("size")
    if isinstance(last, int):
        return last, last
    if not isinstance(last, Mapping):
        return None
    if {"height", "width"} <= set(last):
        return last["height"], last["width"]
    return (last["shortest_edge"],) * 2 if held.get("do_center_crop") and "shortest_edge" in last else None


def _read(held: Mapping[str, Any], channels: int) -> ImagePreprocessing | None:
    """What the file seems to say; only running both tells whether it does."""
    size = image_size(held)
    interpolation = _INTERPOLATIONS.get(held.get("resample", 2))
    if size is None or interpolation is None or channels not in (1, 3):
        return None
    given = (held.get("image_mean"), held.get("image_std")) if held.get("do_normalize", True) else (0.0, 1.0)
    mean, std = (_numbers(value, default) for value, default in zip(given, (0.0, 1.0), strict=True))
    if {len(mean), len(std)} - {1, channels} or min(std) <= 0:
        return None
    resize = "cover" if held.get("do_center_crop") else "stretch"
    return ImagePreprocessing(*size, channels=channels, resize=resize, interpolation=interpolation, mean=mean, std=std)


def _numbers(given: Any, default: float) -> tuple[float, ...]:
    if given is None:
        return (default,)
    return tuple(float(value) for value in given) if isinstance(given, list | tuple) else (float(given),)


def _agrees(folder: ModelFolder, ours: ImagePreprocessing) -> bool:
    """Whether transformers' processor and ours make the same of an image that is wider than high, and of one that is higher than wide."""
    from PIL import Image

    allowed = _LEVELS / (LARGEST_PIXEL * min(ours.std))
    for height, width in ((2 * ours.height, 3 * ours.width), (3 * ours.height, 2 * ours.width)):
        image = Image.fromarray(_scene(height, width)).convert("L" if ours.channels == 1 else "RGB")
        try:
            theirs = np.asarray(_processor(folder)(image, return_tensors="np")["pixel_values"])
        except Exception:  # whatever it cannot do with an image, ours is not known to agree
            return False
        sample = ours.sample(image)
        if theirs.shape != sample.shape or float(np.abs(theirs - sample).max()) > allowed:
            return False
    return True


def _processor(folder: ModelFolder) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(str(folder.model), local_files_only=True, trust_remote_code=False, use_fast=False)


def _scene(height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3): smooth, without symmetry, every level used, so that a shift, a flip or swapped channels show."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = [x**2, y, (x + y**2) / 2]
    return np.stack([(LARGEST_PIXEL * channel).round() for channel in channels], axis=-1).astype(np.uint8)
