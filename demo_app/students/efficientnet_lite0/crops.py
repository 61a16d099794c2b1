"""The crops that calibrate and evaluate EfficientNet-Lite0; run as a script it writes their list again.

    python demo_app/students/efficientnet_lite0/crops.py

The photographs that scikit-image, scikit-learn and matplotlib carry in their wheels, each scene on one side of the split. Left out are
drawings, scans of text, images smaller than the network's input, and one of a microscope that is nearly empty: a classifier of photographs
says nothing about them. The sides were set before anything was quantized, and the boxes follow from the scene's name alone.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from edgepack.calibration.crops import Crop, pixel_digest, write_crops
from edgepack.student.spec import open_image

LIST = Path(__file__).resolve().parents[3] / "calibration" / "efficientnet" / "crops.csv"
CROPS = {"calibration": 11, "evaluation": 20}
# Squares of half to all of the shorter side: smaller ones show no object.
SMALLEST = 0.5


@dataclass(frozen=True)
class Scene:
    """What one or several photographs show.

    Attributes:
        name: of the scene; package: the distribution; files: its photographs.
        split: the side it is on.
    """

    name: str
    package: str
    files: tuple[str, ...]
    split: str


def _skimage(name: str, split: str, *files: str) -> Scene:
    return Scene(name, "scikit-image", tuple(f"skimage/data/{file}" for file in files), split)


SCENES = (
    _skimage("astronaut", "calibration", "astronaut.png"),
    Scene("china", "scikit-learn", ("sklearn/datasets/images/china.jpg",), "calibration"),
    _skimage("coins", "calibration", "coins.png"),
    Scene("flower", "scikit-learn", ("sklearn/datasets/images/flower.jpg",), "calibration"),
    Scene("grace_hopper", "matplotlib", ("matplotlib/mpl-data/sample_data/grace_hopper.jpg",), "calibration"),
    _skimage("gravel", "calibration", "gravel.png"),
    _skimage("brick", "evaluation", "brick.png"),
    _skimage("camera", "evaluation", "camera.png"),
    _skimage("chelsea", "evaluation", "chelsea.png"),
    _skimage("clock", "evaluation", "clock_motion.png"),
    _skimage("coffee", "evaluation", "coffee.png"),
    _skimage("grass", "evaluation", "grass.png"),
    _skimage("hubble", "evaluation", "hubble_deep_field.jpg"),
    _skimage("ihc", "evaluation", "ihc.png"),
    _skimage("moon", "evaluation", "moon.png"),
    _skimage("motorcycle", "evaluation", "motorcycle_left.png", "motorcycle_right.png"),
    _skimage("retina", "evaluation", "retina.jpg"),
    _skimage("rocket", "evaluation", "rocket.jpg"),
)


def crops_of(scene: Scene) -> list[Crop]:
    """Squares at places drawn from the scene's name, shared evenly by its photographs."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(scene.name.encode()).digest()[:8], "big"))
    return [_crop(scene, scene.files[index % len(scene.files)], random) for index in range(CROPS[scene.split])]


def _crop(scene: Scene, file: str, random: np.random.Generator) -> Crop:
    image = open_image(Path(str(distribution(scene.package).locate_file(file))), "RGB")
    side = int(min(image.size) * random.uniform(SMALLEST, 1))
    left, top = (int(random.integers(0, size - side + 1)) for size in image.size)
    box = (left, top, left + side, top + side)
    return Crop(scene.package, file, *box, sha256=pixel_digest(image.crop(box)), scene=scene.name, split=scene.split)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the crop list of EfficientNet-Lite0 again.")
    parser.add_argument("--out", type=Path, default=LIST, help="the CSV file")
    arguments = parser.parse_args()
    crops = [crop for scene in SCENES for crop in crops_of(scene)]
    write_crops(arguments.out, crops)
    print(f"{len(crops)} crops of {len(SCENES)} scenes in {arguments.out}")


if __name__ == "__main__":
    main()
