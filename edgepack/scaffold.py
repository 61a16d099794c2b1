"""The project that ``edgepack init`` creates: templates, and small images drawn here so that it builds as it is."""

from __future__ import annotations

import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import InputError

_SIZE = 64
_CALIBRATION_EACH, _EVALUATION_EACH = 6, 4


class ScaffoldError(InputError):
    """A folder that cannot be created."""


def scaffold(folder: Path) -> list[str]:
    """Create ``folder`` with student.py, calibration.toml and images; answers what was written, relative to it.

    Raises:
        ScaffoldError: the folder exists and is not empty, or cannot be created.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ScaffoldError(f"{folder} exists and is not empty", "choose a new folder")
        place = folder.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place if place.exists() else place.parent, prefix=".edgepack-init.") as scratch:
            project = Path(scratch) / "project"
            shutil.copytree(
                str(resources.files("edgepack") / "templates" / "project"), project, ignore=shutil.ignore_patterns("__pycache__")
            )
            _draw_images(project)
            # File by file into a folder that is there already, since it may be the working folder.
            place.mkdir(exist_ok=True)
            for made in project.iterdir():
                made.rename(place / made.name)
    except OSError as error:
        raise ScaffoldError(f"{folder} cannot be created ({error.strerror or error})", "choose a folder you may write to") from error
    return ["student.py", "calibration.toml", "calibration/", "evaluation/"]


def _draw_images(project: Path) -> None:
    """A few noisy pictures of each class, different ones for calibration and evaluation."""
    from PIL import Image

    random = np.random.default_rng(0)
    for kind, count in (("calibration", _CALIBRATION_EACH), ("evaluation", _EVALUATION_EACH)):
        for label, shape in _SHAPES.items():
            target = project / kind / label
            target.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(_picture(shape(random), random)).save(target / f"{label}_{index}.png")


def _picture(mask: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.uint8]:
    """A mask in two random colours with noise, (64, 64, 3)."""
    ink, paper = random.integers(0, 256, 3), random.integers(0, 256, 3)
    noisy = np.where(mask[..., None], ink, paper) + random.normal(0, 12, (_SIZE, _SIZE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _grid(random: np.random.Generator) -> tuple[Any, Any, float]:
    """Offsets from a random centre, and a random radius."""
    rows, columns = np.mgrid[:_SIZE, :_SIZE] - random.integers(24, 40, 2)[:, None, None]
    return rows, columns, float(random.uniform(10, 20))


def _disc(random: np.random.Generator) -> NDArray[np.bool_]:
    rows, columns, radius = _grid(random)
    mask: NDArray[np.bool_] = rows**2 + columns**2 < radius**2
    return mask


def _square(random: np.random.Generator) -> NDArray[np.bool_]:
    rows, columns, radius = _grid(random)
    mask: NDArray[np.bool_] = (abs(rows) < radius) & (abs(columns) < radius)
    return mask


def _stripes(random: np.random.Generator) -> NDArray[np.bool_]:
    rows, _, radius = _grid(random)
    mask: NDArray[np.bool_] = np.broadcast_to((rows // (radius / 3)) % 2 == 0, (_SIZE, _SIZE))
    return mask


_SHAPES = {"disc": _disc, "square": _square, "stripes": _stripes}
