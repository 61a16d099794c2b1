"""The files that samples come from, against what reading them really opens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepack.calibration.crops import Crop, pixel_digest, write_crops
from edgepack.calibration.files import data_of
from edgepack.calibration.manifest import CalibrationError, CalibrationSet
from edgepack.calibration.readers import Request, read
from edgepack.student.spec import ImagePreprocessing, StudentDescription, TensorSpec

PREPROCESSING = ImagePreprocessing(4, 4, 3)
STUDENT = StudentDescription(
    "s",
    "s.onnx",
    (TensorSpec("x", "float32", (1, 3, 4, 4), "NCHW"),),
    (TensorSpec("y", "float32", (1, 2)),),
    PREPROCESSING,
    ("a", "b"),
    "",
    1,
)
_watching: list[set[Path]] = []


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str):
        _watching[-1].add(Path(arguments[0]).resolve())


sys.addaudithook(_look)


@contextmanager
def opened_in(folder: Path) -> Iterator[set[Path]]:
    """The files of a folder that Python opens in the block."""
    _watching.append(set())
    found: set[Path] = set()
    try:
        yield found
    finally:
        found |= {path for path in _watching.pop() if path.is_relative_to(folder.resolve()) and path.is_file()}


def image(path: Path, seed: int) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))
    picture.save(path)
    return picture


def images(folder: Path) -> str:
    for index, name in enumerate(("a/1.png", "a/deep/2.png", "b/3.png")):
        image(folder / "photos" / name, index)
    (folder / "photos" / "notes.txt").touch()
    return '[calibration]\nimages = "photos"\n'


def globbed(folder: Path) -> str:
    images(folder)
    (folder / "labels.csv").write_text("1.png,a\n2.png,b\n")
    return '[calibration]\nimages = "photos/a/**/*.png"\nlabels = "labels.csv"\n'


def npz(folder: Path) -> str:
    np.savez(folder / "x.npz", x=np.zeros((2, 1, 3, 4, 4), np.float32))
    return '[calibration]\nnpz = "x.npz"\n'


def table(folder: Path) -> str:
    (folder / "x.csv").write_text(",".join(f"c{index}" for index in range(48)) + "\n" + ",".join("1" * 48) + "\n")
    return '[calibration]\ncsv = "x.csv"\n'


def crops(folder: Path) -> str:
    rows = []
    for index, split in enumerate(("one", "two")):
        picture = image(folder / "list" / f"{index}.png", index)
        rows.append(Crop("", f"{index}.png", 0, 0, 8, 8, pixel_digest(picture), f"scene {index}", split))
    write_crops(folder / "list" / "crops.csv", rows)
    return '[calibration]\ncrops = "list/crops.csv"\nsplit = "one"\n'


@pytest.mark.parametrize("source", [images, globbed, npz, table, crops])
def test_every_file_that_reading_opens_is_named_and_no_other(source: object, tmp_path: Path) -> None:
    manifest = tmp_path / "set.toml"
    manifest.write_text('name = "set"\n' + source(tmp_path))  # type: ignore[operator]
    given = CalibrationSet.load(manifest).calibration
    with opened_in(tmp_path) as opened:
        read(Request(given, tmp_path, STUDENT, PREPROCESSING, lambda *_: None))
    found = data_of(manifest)
    assert found is not None and {path.resolve() for path in found.values()} == opened and opened


def test_names_are_relative_so_that_a_moved_folder_gives_the_same(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "set.toml").write_text('name = "set"\n' + images(tmp_path / name))
    here, there = (data_of(tmp_path / name / "set.toml") for name in ("here", "there"))
    assert (
        here is not None and there is not None and list(here) == list(there) == ["photos/a/1.png", "photos/a/deep/2.png", "photos/b/3.png"]
    )


def test_what_python_makes_cannot_be_known(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text('name = "set"\n[calibration]\nnpz = "x.npz"\n[evaluation]\npython = "f.py:g"\n')
    assert data_of(tmp_path / "set.toml") is None


def test_data_that_are_missing_are_left_to_the_reader_and_a_bad_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text('name = "set"\n[calibration]\nimages = "nowhere"\n')
    assert data_of(tmp_path / "set.toml") == {}
    with pytest.raises(CalibrationError):
        data_of(tmp_path / "absent.toml")
