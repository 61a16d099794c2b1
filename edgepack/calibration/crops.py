"""Crop lists: boxes cut at run time from photographs that installed packages carry, or that lie beside the manifest.

A crop list is a CSV file with the columns of ``Crop``. It holds no pixels: photographs keep their licence and their place, and a digest for
each crop says that what was cut is what was meant. A scene is never in two splits: two photographs of one object are one scene.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgepack.calibration.manifest import CalibrationError

if TYPE_CHECKING:
    from PIL.Image import Image

# Photographs kept decoded while their crops are cut; lists are sorted by file, so few are needed at a time.
_KEPT_OPEN = 4


class Crop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of a crop list.

    Attributes:
        package: the distribution that carries the photograph ("scikit-image"); "" for a file beside the crop list.
        file: its path inside the package as the package's own record has it, or relative to the crop list.
        left, top, right, bottom: the box in pixels, right and bottom exclusive.
        sha256: of the crop's pixels as RGB, uint8, row by row, before any resizing.
        scene: what the photograph shows; crops of one scene are not independent.
        split: "calibration", "evaluation" or a name of the user's.
        label: class name or index, "" for none.
    """

    package: str
    file: str
    left: int
    top: int
    right: int
    bottom: int
    sha256: str
    scene: str
    split: str
    label: str = ""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom


def read_crops(path: Path) -> list[Crop]:
    """All rows of a crop list, in order.

    Raises:
        CalibrationError: the file cannot be read, a row is not a crop (its line is named), or a scene is in two splits.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"crop list {path.name} cannot be read ({error})", "give a UTF-8 file of comma-separated values") from error
    if not rows:
        raise CalibrationError(f"crop list {path.name} has no rows", f"give a header {','.join(Crop.__struct_fields__)} and a row a crop")
    crops = [_crop(row, f"{path.name} line {line}") for line, row in rows]
    _refuse_shared_scenes(crops, path)
    return crops


def write_crops(path: Path, crops: Iterable[Crop]) -> None:
    """Write what ``read_crops`` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Crop.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(crop) for crop in crops)


def cut(crop: Crop, folder: Path, row: str) -> Image:
    """The crop as an RGB image, its digest checked.

    Args:
        folder: of the crop list, where paths without a package start; row: what messages call the crop.

    Raises:
        CalibrationError: the package is not installed, the file or the box is not there, or the pixels are not those of the list.
    """
    image = _photograph(located(crop, folder, row))
    if not (0 <= crop.left < crop.right <= image.width and 0 <= crop.top < crop.bottom <= image.height):
        raise CalibrationError(
            f"{row}: box {list(crop.box)} leaves {crop.file}, which has {image.width} x {image.height} pixels", "correct the box"
        )
    piece = image.crop(crop.box)
    found = pixel_digest(piece)
    if found != crop.sha256.lower():
        holder = f"{crop.package} {distribution(crop.package).version}" if crop.package else "this folder"
        raise CalibrationError(
            f"{row}: the pixels of {crop.file} in {holder} are not those the list names (sha256 {found[:12]}...)",
            "install the version the list was written for (of a JPEG, Pillow's too), or write the list again",
        )
    return piece


def pixel_digest(image: Image) -> str:
    """sha256 of an RGB image's bytes, row by row."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def _crop(row: dict[str, Any], where: str) -> Crop:
    missing = [name for name in ("package", "file", "left", "top", "right", "bottom", "sha256", "scene", "split") if row.get(name) is None]
    if missing or None in row:
        cause = f"has no '{missing[0]}'" if missing else "has more values than the header"
        raise CalibrationError(f"crop list {where} {cause}", f"the columns are {','.join(Crop.__struct_fields__)}")
    try:
        return msgspec.convert(row, Crop, strict=False)
    except msgspec.ValidationError as error:
        raise CalibrationError(f"crop list {where} is no crop ({error})", f"the columns are {','.join(Crop.__struct_fields__)}") from error


def _refuse_shared_scenes(crops: Sequence[Crop], path: Path) -> None:
    split_of: dict[str, str] = {}
    for crop in crops:
        held = split_of.setdefault(crop.scene, crop.split)
        if held != crop.split:
            raise CalibrationError(
                f"{path.name}: scene '{crop.scene}' is in splits '{held}' and '{crop.split}'", "keep all crops of a scene on one side"
            )


def located(crop: Crop, folder: Path, row: str) -> Path:
    """The photograph of a crop; CalibrationError when it is not there, or where it may not be."""
    path = _in_package(crop, row) if crop.package else (folder / crop.file).resolve()
    if not crop.package and not path.is_relative_to(folder.resolve()):
        raise CalibrationError(f"{row}: '{crop.file}' leaves the crop list's folder", "keep photographs beside the list")
    if not path.is_file():
        where = f"package {crop.package} {distribution(crop.package).version}" if crop.package else f"folder {folder.name}/"
        raise CalibrationError(f"{row}: {where} has no file {crop.file}", "correct package and file")
    return path


def _in_package(crop: Crop, row: str) -> Path:
    try:
        held = distribution(crop.package)
    except PackageNotFoundError:
        raise CalibrationError(f"{row}: package {crop.package} is not installed", f"pip install {crop.package}") from None
    if ".." in Path(crop.file).parts or Path(crop.file).is_absolute():
        raise CalibrationError(f"{row}: '{crop.file}' leaves package {crop.package}", "name the file as the package's record does")
    return Path(str(held.locate_file(crop.file)))


@lru_cache(maxsize=_KEPT_OPEN)
def _photograph(path: Path) -> Image:
    """The whole photograph as RGB; cached because a list cuts many crops from each."""
    from edgepack.student.spec import open_image

    return open_image(path, "RGB")
