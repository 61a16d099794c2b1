"""Descriptions of students, and requests for what a manifest's line names."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgepack.calibration.manifest import DataSource
from edgepack.calibration.readers import Request, Samples, read
from edgepack.student.spec import ImagePreprocessing, StudentDescription, TensorSpec

PREPROCESSING = ImagePreprocessing(4, 5, 3, mean=(0.5,), std=(0.25,))
IMAGE = TensorSpec("image", "float32", (1, 3, 4, 5), "NCHW", (-2.0, 2.0))
VECTOR = TensorSpec("x", "float32", (1, 3))


def described(
    *inputs: TensorSpec, labels: tuple[str, ...] = ("cat", "dog"), preprocessing: ImagePreprocessing | None = None
) -> StudentDescription:
    """A student with these inputs and two classes."""
    outputs = (TensorSpec("logits", "float32", (1, len(labels))),)
    return StudentDescription("s", "s.py:s", inputs, outputs, preprocessing, labels, "MIT", 1)


IMAGES = described(IMAGE, preprocessing=PREPROCESSING)
VECTORS = described(VECTOR)
PAIRS = described(VECTOR, TensorSpec("z", "int64", (2,)))


def samples(root: Path, student: StudentDescription = VECTORS, **source: Any) -> Samples:
    """What the reader gives for a source."""
    return read(Request(DataSource(**source), root.resolve(), student, student.preprocessing, lambda done, total: None))


def picture(path: Path, seed: int, height: int = 4, width: int = 5) -> np.ndarray:
    """Write a PNG; its pixels, uint8 (H, W, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def normalized(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) as float32 (N, 1, 3, H, W) in -2..2, by the formula of the preprocessing."""
    return ((pixels.astype(np.float64) / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)[:, None].astype(np.float32)
