"""calibration/*.toml: which samples a calibration and an evaluation use.

    name = "photos"
    licence = "CC0-1.0"
    [calibration]
    images = "photos/*.jpg"              # or npz, csv, python, crops; exactly one
    [evaluation]
    images = "held_out"                  # one folder a class
    labels = "folders"

Paths are relative to the manifest and may not leave its folder.
"""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from edgepack.data import data_folder
from edgepack.errors import InputError
from edgepack.student.spec import ImagePreprocessing

_SOURCES = ("images", "npz", "csv", "python", "crops")


class CalibrationError(InputError):
    """A manifest or a sample that cannot be used; the message names the file and the sample."""


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set of samples; exactly one of ``images``, ``npz``, ``csv``, ``python``, ``crops`` is given.

    Attributes:
        images: a folder or a glob of image files, read through the student's preprocessing.
        npz: arrays with samples on the first axis. uint8 arrays of an image student are pixels 0..255, float arrays finished samples.
        csv: a header line, one sample a row.
        python: "file.py:function", a function that returns an iterable of samples: an array, a dict by input name, or (either, label).
        crops: a crop list (``edgepack.calibration.crops``): boxes in photographs of installed packages, or of files beside the list.
        split: of a crop list, the rows whose split this is; "" for all.
        columns: student input -> array key (npz), column name, glob or list of columns (csv). May be left out for a single input.
        labels: array key (npz), column (csv), "folders" or a CSV file of "file,label" (images), "label" (crops); "" for none. Python
            gives its own.
            An array of rank 3 holds masks: a class index for every pixel, 255 where none is judged.
        labels_of_student: of an evaluation set without labels: the student's own classes stand in for them.
        sha256: of the file, or of a folder's names and contents; checked when given.
        limit: use only the first so many samples; 0 for all.
    """

    images: str = ""
    npz: str = ""
    csv: str = ""
    python: str = ""
    crops: str = ""
    split: str = ""
    columns: dict[str, str | list[str]] = {}
    labels: str = ""
    labels_of_student: bool = False
    sha256: str = ""
    limit: int = 0

    def __post_init__(self) -> None:
        given = [name for name in _SOURCES if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(_SOURCES)} must be given, not {', '.join(given) or 'none'}")
        if self.limit < 0:
            raise ValueError(f"limit is {self.limit}; give a number of samples, or 0 for all")
        if self.labels and self.labels_of_student:
            raise ValueError("labels are given, and labels_of_student says that there are none")
        if self.split and not self.crops:
            raise ValueError("split chooses rows of a crop list; give it with crops")
        if self.crops and self.labels not in ("", "label"):
            raise ValueError('the labels of a crop list are in its column "label"')
        if self.python and (self.sha256 or self.labels):
            raise ValueError("a python source takes neither sha256 nor labels: its function gives (sample, label)")

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        return next(name for name in _SOURCES if getattr(self, name))

    @property
    def path(self) -> str:
        """What was given for it."""
        return str(getattr(self, self.kind))


class CalibrationSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest. ``preprocessing`` and ``student_labels`` serve students that cannot declare their own (.onnx, .pt2)."""

    name: str
    calibration: DataSource
    evaluation: DataSource | None = None
    licence: str = "unspecified"
    preprocessing: ImagePreprocessing | None = None
    student_labels: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> CalibrationSet:
        """Read a manifest.

        Raises:
            CalibrationError: the file does not exist or is not a manifest; the message says which field is wrong.
        """
        try:
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "it is no file")
            return msgspec.toml.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise CalibrationError(
                f"calibration manifest {path} cannot be read ({error.strerror})", "give the path of a .toml manifest"
            ) from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CalibrationError(f"{path} is not a calibration manifest ({error})", "see edgepack init for one that works") from error


def find_manifest(name: str) -> Path:
    """A manifest by path, or by the name of one that edgepack ships ("digits")."""
    path = Path(name)
    if path.is_file() or path.suffix == ".toml":
        return path
    shipped = data_folder("calibration") / f"{name}.toml"
    if not shipped.is_file():
        raise CalibrationError(f"no calibration manifest '{name}'", "give the path of a .toml manifest")
    return shipped
