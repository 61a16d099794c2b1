"""What a student declares: tensors, preprocessing, labels, licence. Plain data that also travels in the pack."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image


LARGEST_PIXEL = 255.0


class StudentError(InputError):
    """A student that cannot be loaded, run or described."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One named input or output of the student.

    Attributes:
        name: the name every artifact uses.
        dtype: numpy name; None means as the example has it.
        shape: sizes, a string for a symbolic dimension ("batch"); None means as the example has it.
        layout: one letter a dimension ("NCHW", "NC", "NTC"), "" when the order means nothing. TFLite turns NCHW into NHWC.
        value_range: smallest and largest real value a correct sample holds; None when unbounded.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    layout: str = ""
    value_range: tuple[float, float] | None = None


class ImagePreprocessing(msgspec.Struct, frozen=True):
    """From an image file to the student's input: decode, resize, centre-crop, scale, normalize.

    ``x = (pixel / 255 - mean) / std`` for each channel, pixels 0..255, float32, in the input's layout with a batch of 1. Where the model
    itself does that (``folded``), a sample is the pixels.

    Attributes:
        height, width: of the input, in pixels.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        resize: "stretch" to the exact size, or "cover": the shorter side fits, the centre is cropped.
        interpolation: "bilinear", "bicubic" or "nearest", with Pillow's anti-aliasing.
        mean, std: for each channel, in units of 0..1.
        invert: white becomes black (dark ink on paper for a student trained on light strokes).
        folded: invert, mean and std are part of the model (``edgepack.hub.preprocess``); they stay here to say what it does.
    """

    height: int
    width: int
    channels: int = 3
    resize: str = "cover"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    invert: bool = False
    folded: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or self.height < 1 or self.width < 1:
            raise ValueError(f"preprocessing needs 1 or 3 channels and a positive size, not {self.channels} x {self.height} x {self.width}")
        if {len(self.mean), len(self.std)} - {1, self.channels} or min(self.std) <= 0:
            raise ValueError("preprocessing mean and std need one value, or one for each channel, and std above 0")
        if self.resize not in ("cover", "stretch") or self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"preprocessing knows no resize '{self.resize}' with interpolation '{self.interpolation}'")

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value an input can take: what pixels 0 and 255 become in the widest channel."""
        if self.folded:
            return 0.0, LARGEST_PIXEL
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return float(((0 - mean) / std).min()), float(((1 - mean) / std).max())

    def load(self, path: Path, layout: str = "NCHW") -> NDArray[np.float32]:
        """One image file as a sample of shape (1, C, H, W), or (1, H, W, C) for layout "NHWC".

        Raises:
            StudentError: the file is not an image Pillow can read.
        """
        return self.sample(open_image(path, "L" if self.channels == 1 else "RGB"), layout)

    def sample(self, image: Image, layout: str = "NCHW") -> NDArray[np.float32]:
        """One 8-bit image as a sample, shapes as ``load``."""
        pixels = self._fit(image.convert("L" if self.channels == 1 else "RGB"))
        return self.normalize(np.asarray(pixels, np.float32).reshape(self.height, self.width, self.channels), layout)

    @property
    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(factor, shift), each (C,): what the student takes is ``factor * pixel + shift``; 1 and 0 where that is pixels."""
        if self.folded:
            return np.ones(self.channels), np.zeros(self.channels)
        mean, std = (np.broadcast_to(np.asarray(each, np.float64), (self.channels,)) for each in (self.mean, self.std))
        return (-1 if self.invert else 1) / (LARGEST_PIXEL * std), ((1 if self.invert else 0) - mean) / std

    def normalize(self, pixels: NDArray[Any], layout: str = "NCHW") -> NDArray[np.float32]:
        """Pixels 0..255 of shape (H, W, C) as a sample with a batch of 1."""
        return self.values_of(np.ascontiguousarray((pixels if layout == "NHWC" else pixels.transpose(2, 0, 1))[None]), layout)

    def values_of(self, pixels: NDArray[Any], layout: str = "NCHW", dtype: str = "float32") -> NDArray[Any]:
        """What the student takes for pixels 0..255 of shape (..., C, H, W), or (..., H, W, C) for layout "NHWC", computed in ``dtype``."""
        if self.folded:
            return pixels.astype(dtype)
        unit = pixels.astype(dtype) / np.asarray(LARGEST_PIXEL, dtype)
        unit = 1 - unit if self.invert else unit
        mean, std = (self._along_channels(np.asarray(each, dtype), layout) for each in (self.mean, self.std))
        values: NDArray[Any] = (unit - mean) / std
        return values

    def pixels_of(self, values: NDArray[Any], layout: str = "NCHW") -> NDArray[np.float32]:
        """The whole pixels 0..255 nearest to what the student takes, shapes as ``values_of``."""
        factor, shift = (self._along_channels(each, layout) for each in self.affine)
        nearest: NDArray[np.float32] = np.clip(np.rint((values.astype(np.float64) - shift) / factor), 0, LARGEST_PIXEL).astype(np.float32)
        return nearest

    @staticmethod
    def _along_channels(numbers: NDArray[Any], layout: str) -> NDArray[Any]:
        return numbers if layout == "NHWC" else numbers.reshape(-1, 1, 1)

    def _fit(self, image: Image) -> Image:
        from PIL import ImageOps
        from PIL.Image import Resampling

        method = Resampling[self.interpolation.upper()]
        size = (self.width, self.height)
        return ImageOps.fit(image, size, method) if self.resize == "cover" else image.resize(size, method)


def row_of_scores(outputs: Sequence[TensorSpec]) -> int:
    """How many scores the first output has where it is one row of them, 0 where it is not."""
    if not outputs or not (outputs[0].dtype or "float32").startswith(("float", "bfloat")):
        return 0
    sizes = [size for size in outputs[0].shape or () if isinstance(size, int)]
    return sizes[-1] if sizes and sizes[-1] == math.prod(sizes) else 0


def refuse_unfitting_labels(labels: Sequence[str], outputs: Sequence[TensorSpec]) -> None:
    """StudentError when there are labels and the first output is one row of scores of another length.

    Other outputs (boxes, a mask) have their classes where their author put them, and are left alone.
    """
    classes = row_of_scores(outputs)
    if labels and classes and classes != len(labels):
        raise StudentError(
            f"the student has {len(labels)} labels and output '{outputs[0].name}' has {classes} classes on its last axis",
            "give one label a class in the order of that axis, or leave labels out",
        )


def open_image(path: Path, mode: str) -> Image:
    """One image file, decoded to Pillow's mode "L" or "RGB".

    Raises:
        StudentError: the file is not an image Pillow can read, or has more than 8 bits a channel.
    """
    from PIL import Image

    try:
        # Pillow's others need programs of their own (EPS runs Ghostscript) or are no photographs.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_IMAGE_FORMATS) as image:
            _refuse_deep(image.mode, path)
            _refuse_inflated(image.width * image.height, path)
            return image.convert(mode)
    except StudentError:
        raise
    except Exception as error:
        raise StudentError(f"{path} cannot be read as an image ({error})", "give a PNG or JPEG file") from error


_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# From here on (half of what Pillow refuses, 270 MB of RGB) an image must be a photograph: those take a byte for 4 to 8 pixels.
_MANY_PIXELS, _PIXELS_OF_A_BYTE = 2**26, 64


def _refuse_inflated(pixels: int, path: Path) -> None:
    if pixels > max(_MANY_PIXELS, _PIXELS_OF_A_BYTE * path.stat().st_size):
        raise StudentError(f"{path} unpacks to {pixels} pixels, too many for a file of its size", "scale it down first")


def _refuse_deep(mode: str, path: Path) -> None:
    """Pillow clips the modes of more than 8 bits at 255 instead of scaling them."""
    if mode.startswith(("I", "F")):
        raise StudentError(f"{path} has pixels of more than 8 bits (mode {mode})", "save it as an 8-bit PNG or JPEG")


class StudentDescription(msgspec.Struct, frozen=True):
    """A student without its weights: what steps, packs and reports need to know.

    Attributes:
        name: a short name; source: where it was loaded from ("student.py:student").
        inputs, outputs: with dtype and shape filled in.
        preprocessing: None when samples arrive as tensors.
        labels: class names in the order of the first output's last axis; may be empty.
        licence: of the weights, an SPDX expression.
        parameters: number of weights.
        state: inputs that take in the next step what outputs gave in this one, input name -> output name.
        sizes: symbols whose size stays open in every artifact, symbol -> (smallest, largest).
    """

    name: str
    source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: ImagePreprocessing | None
    labels: tuple[str, ...]
    licence: str
    parameters: int
    state: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}

    @property
    def image_preprocessing(self) -> ImagePreprocessing:
        """The preprocessing; StudentError where there is none to be part of the model."""
        if self.preprocessing is None or len(self.inputs) != 1:
            raise StudentError(
                f"the student '{self.name}' declares no preprocessing that could be folded",
                "give Student(preprocessing=...) or [preprocessing] in the calibration manifest, or leave --fold-preprocessing out",
            )
        return self.preprocessing

    def on_pixels(self) -> StudentDescription:
        """The same student with its preprocessing folded: its input takes pixels 0..255.

        Raises:
            StudentError: there is no preprocessing.
        """
        folded = msgspec.structs.replace(self.image_preprocessing, folded=True)
        pixels = msgspec.structs.replace(self.inputs[0], value_range=folded.value_range)
        return msgspec.structs.replace(self, preprocessing=folded, inputs=(pixels,))
