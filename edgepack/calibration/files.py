"""Which files a calibration manifest's samples come from: found without reading a sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from edgepack.calibration.crops import located, read_crops
from edgepack.calibration.manifest import CalibrationError, CalibrationSet, DataSource
from edgepack.calibration.readers import image_files, inside


def data_of(manifest: Path) -> dict[str, Path] | None:
    """Every file that the samples of a manifest are read from, by name.

    Returns:
        None for samples that Python makes: only running it tells what they are. What cannot be found is left out: reading it says why.

    Raises:
        CalibrationError: the manifest itself cannot be read.
    """
    given, root = CalibrationSet.load(manifest), manifest.resolve().parent
    found: dict[str, Path] = {}
    for source in (given.calibration, given.evaluation):
        if source is None:
            continue
        if source.python:
            return None
        with contextlib.suppress(CalibrationError):
            found |= dict(_FILES[source.kind](source, root))
    return found


def _single(source: DataSource, root: Path) -> Iterator[tuple[str, Path]]:
    yield source.path, inside(root, source.path)


def _images(source: DataSource, root: Path) -> Iterator[tuple[str, Path]]:
    yield from ((file.relative_to(root).as_posix(), file) for file in image_files(source.path, root))
    if source.labels not in ("", "folders"):
        yield source.labels, inside(root, source.labels)


def _crops(source: DataSource, root: Path) -> Iterator[tuple[str, Path]]:
    """The list, and the photographs of its rows that are used."""
    path = inside(root, source.path)
    yield source.path, path
    for index, crop in enumerate(read_crops(path)):
        if source.split in ("", crop.split):
            yield f"{crop.package}:{crop.file}", located(crop, path.parent, f"{path.name} crop {index}")


_FILES: dict[str, Callable[[DataSource, Path], Iterator[tuple[str, Path]]]] = {
    "images": _images,
    "npz": _single,
    "csv": _single,
    "crops": _crops,
}
