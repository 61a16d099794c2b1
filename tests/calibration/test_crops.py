"""Crop lists: the pixels that are meant, or a refusal that names the row."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgepack.calibration.crops import Crop, read_crops, write_crops
from edgepack.calibration.manifest import CalibrationError, DataSource
from tests.calibration.students import IMAGES, PAIRS, VECTORS, normalized, picture, samples

CHELSEA = ("scikit-image", "skimage/data/chelsea.png")


def crop_of(pixels: np.ndarray, box: tuple[int, int, int, int], scene: str, **changes: Any) -> Crop:
    """The row that names a box of a picture beside the list."""
    left, top, right, bottom = box
    digest = hashlib.sha256(np.ascontiguousarray(pixels[top:bottom, left:right]).tobytes()).hexdigest()
    held = Crop("", "photos/a.png", *box, sha256=digest, scene=scene, split="calibration")
    return msgspec.structs.replace(held, **changes)


@pytest.fixture
def photo(tmp_path: Path) -> np.ndarray:
    """photos/a.png, 8 x 10, beside the list."""
    return picture(tmp_path / "photos/a.png", 1, 8, 10)


def refusal(root: Path, *crops: Crop, **source: Any) -> str:
    write_crops(root / "crops.csv", crops)
    with pytest.raises(CalibrationError) as caught:
        samples(root, IMAGES, crops="crops.csv", **source)
    return f"{caught.value.cause} -> {caught.value.hint}"


def test_a_crop_is_the_box_of_the_photograph_through_the_students_preprocessing(tmp_path: Path, photo: np.ndarray) -> None:
    """The student takes 4 x 5: two boxes of that very size come out pixel for pixel."""
    boxes = [(0, 0, 5, 4), (5, 3, 10, 7)]
    write_crops(tmp_path / "crops.csv", [crop_of(photo, box, "a") for box in boxes])
    found = samples(tmp_path, IMAGES, crops="crops.csv").arrays["image"]
    wanted = np.stack([photo[top:bottom, left:right] for left, top, right, bottom in boxes])
    np.testing.assert_allclose(found, normalized(wanted), atol=1e-6)


def test_a_split_takes_its_own_rows_and_limit_the_first_of_them(tmp_path: Path, photo: np.ndarray) -> None:
    rows = [crop_of(photo, (x, 0, x + 5, 4), f"scene {x}", split="left" if x < 3 else "right") for x in range(6)]
    write_crops(tmp_path / "crops.csv", rows)
    assert [samples(tmp_path, IMAGES, crops="crops.csv", split=split).count for split in ("", "left", "right")] == [6, 3, 3]
    found = samples(tmp_path, IMAGES, crops="crops.csv", split="right", limit=2).arrays["image"]
    np.testing.assert_allclose(found, normalized(np.stack([photo[0:4, x : x + 5] for x in (3, 4)])), atol=1e-6)


def test_labels_are_those_of_the_label_column(tmp_path: Path, photo: np.ndarray) -> None:
    write_crops(tmp_path / "crops.csv", [crop_of(photo, (x, 0, x + 5, 4), "a", label=label) for x, label in enumerate(("dog", "0"))])
    found = samples(tmp_path, IMAGES, crops="crops.csv", labels="label")
    assert found.labels is not None and found.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match='in its column "label"'):
        DataSource(crops="crops.csv", labels="folders")


def test_a_photograph_of_an_installed_package_is_found_by_the_packages_record(tmp_path: Path) -> None:
    import skimage.data

    pixels = skimage.data.chelsea()
    package, file = CHELSEA
    write_crops(tmp_path / "crops.csv", [crop_of(pixels, (100, 50, 105, 54), "chelsea", package=package, file=file)])
    found = samples(tmp_path, IMAGES, crops="crops.csv").arrays["image"]
    np.testing.assert_allclose(found, normalized(pixels[None, 50:54, 100:105]), atol=1e-6)


def test_a_grey_photograph_is_read_as_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(80, dtype=np.uint8).reshape(8, 10)
    (tmp_path / "photos").mkdir()
    Image.fromarray(grey).save(tmp_path / "photos/a.png")
    write_crops(tmp_path / "crops.csv", [crop_of(np.repeat(grey[..., None], 3, 2), (0, 0, 5, 4), "a")])
    found = samples(tmp_path, IMAGES, crops="crops.csv").arrays["image"]
    np.testing.assert_allclose(found, normalized(np.repeat(grey[None, :4, :5, None], 3, 3)), atol=1e-6)


def test_pixels_that_are_not_those_of_the_list_are_refused_with_row_and_version(tmp_path: Path, photo: np.ndarray) -> None:
    good, bad = crop_of(photo, (0, 0, 5, 4), "a"), crop_of(photo, (1, 0, 6, 4), "a", sha256="0" * 64)
    assert "crop 1 of 'a': the pixels of photos/a.png in this folder are not those the list names" in refusal(tmp_path, good, bad)
    package, file = CHELSEA
    said = refusal(tmp_path, crop_of(photo, (0, 0, 5, 4), "a", package=package, file=file))
    assert "crop 0 of 'a'" in said and "scikit-image 0." in said and "install the version" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"package": "no-such-package"}, "package no-such-package is not installed -> pip install no-such-package"),
        ({"package": "scikit-image", "file": "skimage/data/none.png"}, "has no file skimage/data/none.png"),
        ({"package": "scikit-image", "file": "../../../etc/passwd"}, "leaves package scikit-image"),
        ({"file": "../a.png"}, "leaves the crop list's folder"),
        ({"file": "photos/b.png"}, "has no file photos/b.png"),
        ({"right": 11}, "box [0, 0, 11, 4] leaves photos/a.png, which has 10 x 8 pixels"),
        ({"left": 5}, "box [5, 0, 5, 4] leaves"),
        ({"left": -1}, "box [-1, 0, 5, 4] leaves"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, photo: np.ndarray, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(tmp_path, crop_of(photo, (0, 0, 5, 4), "a", **changes))


def test_a_scene_on_both_sides_is_refused_even_when_one_side_is_read(tmp_path: Path, photo: np.ndarray) -> None:
    rows = [crop_of(photo, (x, 0, x + 5, 4), "cat", split=split) for x, split in enumerate(("calibration", "evaluation"))]
    assert "scene 'cat' is in splits 'calibration' and 'evaluation'" in refusal(tmp_path, *rows, split="calibration")


def test_a_split_that_no_row_has_is_refused(tmp_path: Path, photo: np.ndarray) -> None:
    assert "crops.csv has no row of split 'test'" in refusal(tmp_path, crop_of(photo, (0, 0, 5, 4), "a"), split="test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("package,file\nx,y\n", "line 2 has no 'left'"),
        ("package,file,left,top,right,bottom,sha256,scene,split\n,a,0,zero,1,1,00,s,c\n", "line 2 is no crop"),
        ("package,file,left,top,right,bottom,sha256,scene,split\n,a,0,0,1,1,00,s,c,,,\n", "line 2 has more values than the header"),
        ("package,file,left,top,right,bottom,sha256,scene,split,tag\n,a,0,0,1,1,00,s,c,t\n", "unknown field `tag`"),
    ],
)
def test_a_file_that_is_no_crop_list_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "crops.csv").write_text(text)
    with pytest.raises(CalibrationError) as caught:
        read_crops(tmp_path / "crops.csv")
    assert said in caught.value.cause


def test_a_crop_list_needs_a_student_of_one_image(tmp_path: Path, photo: np.ndarray) -> None:
    write_crops(tmp_path / "crops.csv", [crop_of(photo, (0, 0, 5, 4), "a")])
    for student, said in ((VECTORS, "declares no preprocessing"), (PAIRS, "does not say which is which")):
        with pytest.raises(CalibrationError) as caught:
            samples(tmp_path, student, crops="crops.csv")
        assert said in caught.value.cause


def test_what_only_crop_lists_and_unlabelled_sets_have_is_refused_elsewhere() -> None:
    with pytest.raises(ValueError, match="split chooses rows of a crop list"):
        DataSource(npz="x.npz", split="evaluation")
    with pytest.raises(ValueError, match="labels_of_student says that there are none"):
        DataSource(npz="x.npz", labels="labels", labels_of_student=True)
