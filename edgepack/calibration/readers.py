"""Readers: from a folder of images, a glob, .npz, .csv or a Python callable to stacked samples."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import load_arrays, save_arrays
from edgepack.calibration.manifest import CalibrationError, DataSource
from edgepack.student.spec import ImagePreprocessing, StudentDescription, TensorSpec

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
_PREFIX = "input:"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Samples:
    """Samples in the student's terms.

    Attributes:
        arrays: input name -> array of shape (N, *input shape).
        labels: class indices of shape (N,), int64, or None.
    """

    arrays: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def take(self, indices: Sequence[int]) -> Samples:
        """The samples at ``indices``."""
        chosen = list(indices)
        labels = None if self.labels is None else self.labels[chosen]
        return Samples({name: array[chosen] for name, array in self.arrays.items()}, labels)

    def save(self, path: Path) -> None:
        """Write as .npz: one array for each input, prefixed so that no input name can collide, and the labels."""
        labels = {} if self.labels is None else {"labels": self.labels}
        save_arrays(path, {**labels, **{f"{_PREFIX}{name}": array for name, array in self.arrays.items()}})

    @classmethod
    def open(cls, path: Path) -> Samples:
        """Read what ``save`` wrote."""
        held = load_arrays(path)
        return cls({key.removeprefix(_PREFIX): array for key, array in held.items() if key.startswith(_PREFIX)}, held.get("labels"))


@dataclass(frozen=True)
class Request:
    """What a reader is asked: the source, where its paths start, and the student it reads for."""

    source: DataSource
    root: Path
    student: StudentDescription
    preprocessing: ImagePreprocessing | None
    progress: Progress

    @property
    def single_input(self) -> TensorSpec:
        """The one input of the student; CalibrationError when it has several and the source cannot tell them apart."""
        if len(self.student.inputs) != 1:
            names = ", ".join(spec.name for spec in self.student.inputs)
            raise CalibrationError(
                f"the student has inputs {names} and '{self.source.path}' does not say which is which", "name them under columns"
            )
        return self.student.inputs[0]


Reader = Callable[[Request], Samples]
READERS: dict[str, Reader] = {}


def reads(kind: str) -> Callable[[Reader], Reader]:
    """Register a reader for one kind of source."""

    def register(reader: Reader) -> Reader:
        READERS[kind] = reader
        return reader

    return register


def read(request: Request) -> Samples:
    """All samples of a source, unchecked but for its digest.

    Raises:
        CalibrationError: the file is missing, empty, damaged or leaves the manifest's folder.
    """
    if request.source.kind != "python":
        _check_digest(request)
    return READERS[request.source.kind](request)


@reads("images")
def _images(request: Request) -> Samples:
    """A folder (searched to the bottom) or a glob, in sorted order, through the student's preprocessing."""
    preprocessing, spec = request.preprocessing, request.single_input
    if preprocessing is None:
        raise CalibrationError(
            f"'{request.source.path}' holds images but the student declares no preprocessing", "give Student(preprocessing=...)"
        )
    files = _limited(_image_files(request), request.source.limit)
    layout = spec.layout or "NCHW"
    samples = [_with_progress(request, index, len(files), preprocessing.load(file, layout)) for index, file in enumerate(files)]
    labels = _image_labels(request, files)
    stacked = np.stack(samples) if samples else np.zeros((0, *_sizes(spec)), np.float32)
    return Samples({spec.name: stacked}, labels)


def _image_files(request: Request) -> list[Path]:
    path = _inside(request.root, request.source.path)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES]
    else:
        found = [file for file in request.root.glob(request.source.path) if file.is_file()]
    if not found:
        raise CalibrationError(
            f"'{request.source.path}' holds no image under {request.root.name}/", "point images at a folder or glob of PNG or JPEG files"
        )
    return sorted(found)


def _image_labels(request: Request, files: Sequence[Path]) -> NDArray[np.int64] | None:
    if not request.source.labels:
        return None
    if request.source.labels == "folders":
        return _label_indices([file.parent.name for file in files], request.student.labels)
    with _inside(request.root, request.source.labels).open(newline="", encoding="utf-8") as table:
        by_file = {row[0]: row[1] for row in csv.reader(table) if len(row) >= 2}
    missing = [file.name for file in files if file.name not in by_file]
    if missing:
        raise CalibrationError(f"{request.source.labels} has no label for {missing[0]}", "give one line file,label for each image")
    return _label_indices([by_file[file.name] for file in files], request.student.labels)


@reads("npz")
def _npz(request: Request) -> Samples:
    path = _inside(request.root, request.source.path)
    with _opened(path) as archive:
        arrays = {spec.name: _npz_array(request, spec, archive, path) for spec in request.student.inputs}
        labels = _take(archive, request.source.labels, path) if request.source.labels else None
    limit = request.source.limit or None
    classes = None if labels is None else _label_indices(labels[:limit].tolist(), request.student.labels)
    return Samples({name: array[:limit] for name, array in arrays.items()}, classes)


def _npz_array(request: Request, spec: TensorSpec, archive: Any, path: Path) -> NDArray[Any]:
    key = request.source.columns.get(spec.name, spec.name)
    array = _take(archive, str(key), path)
    if array.dtype == np.uint8 and spec.dtype == "float32" and request.preprocessing is not None:
        return _from_pixels(array, request.preprocessing, spec, path)
    return array


def _from_pixels(pixels: NDArray[np.uint8], preprocessing: ImagePreprocessing, spec: TensorSpec, path: Path) -> NDArray[np.float32]:
    """uint8 images (N, H, W) or (N, H, W, C), already of the student's size."""
    expected = (preprocessing.height, preprocessing.width, preprocessing.channels)
    images = pixels[..., None] if pixels.ndim == 3 else pixels
    if images.shape[1:] != expected:
        raise CalibrationError(
            f"{path.name} holds pixels of shape {list(pixels.shape[1:])}, the student takes {list(expected)}", "resize them first"
        )
    return (
        np.stack([preprocessing.normalize(image, spec.layout or "NCHW") for image in images])
        if len(images)
        else np.zeros((0, *_sizes(spec)), np.float32)
    )


@reads("csv")
def _csv(request: Request) -> Samples:
    path = _inside(request.root, request.source.path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path.name} cannot be read as CSV ({error})", "give a header line and one sample a row") from error
    rows = _limited([row for row in rows if row], request.source.limit)
    arrays = {spec.name: _csv_array(request, spec, header, rows, path) for spec in request.student.inputs}
    labels = [row[_column(header, request.source.labels, path)] for row in rows] if request.source.labels else None
    return Samples(arrays, None if labels is None else _label_indices(labels, request.student.labels))


def _csv_array(request: Request, spec: TensorSpec, header: list[str], rows: list[list[str]], path: Path) -> NDArray[Any]:
    chosen = request.source.columns.get(spec.name) or [name for name in header if name != request.source.labels]
    patterns = [chosen] if isinstance(chosen, str) else chosen
    indices = [index for index, name in enumerate(header) if any(fnmatch(name, pattern) for pattern in patterns)]
    if not indices:
        raise CalibrationError(f"{path.name} has no column for input '{spec.name}'", f"its columns are {', '.join(header[:8])}")
    try:
        values = np.asarray([[row[index] for index in indices] for row in rows], np.float64)
    except (ValueError, IndexError) as error:
        raise CalibrationError(f"{path.name} holds a row that is not all numbers ({error})", "clean the file") from error
    sizes = _sizes(spec)
    if values.shape[1:] and values.size and values.shape[1] != int(np.prod(sizes)):
        raise CalibrationError(
            f"{path.name} gives {values.shape[1]} numbers for input '{spec.name}' of shape {list(sizes)}", "name its columns"
        )
    return values.astype(spec.dtype or "float32").reshape(len(rows), *sizes)


@reads("python")
def _python(request: Request) -> Samples:
    from edgepack.student.load import load_function

    name, _, function = request.source.path.rpartition(":")
    produced = load_function(_inside(request.root, name), function)()
    pairs = [_pair(item) for item in _limited(list(produced), request.source.limit)]
    feeds = [feed if isinstance(feed, Mapping) else {request.single_input.name: feed} for feed, _ in pairs]
    arrays = {spec.name: _stack(spec, [_of(feed, spec.name, request) for feed in feeds], request) for spec in request.student.inputs}
    labels = [label for _, label in pairs]
    return Samples(arrays, None if not labels or labels[0] is None else _label_indices(labels, request.student.labels))


def _pair(item: Any) -> tuple[Any, Any]:
    return item if isinstance(item, tuple) and len(item) == 2 else (item, None)


def _of(feed: Mapping[str, Any], name: str, request: Request) -> NDArray[Any]:
    if name not in feed:
        raise CalibrationError(f"{request.source.path} gives no '{name}'", f"its samples hold {', '.join(feed) or 'nothing'}")
    return np.asarray(feed[name])


def _stack(spec: TensorSpec, samples: list[NDArray[Any]], request: Request) -> NDArray[Any]:
    shapes = {sample.shape for sample in samples}
    if len(shapes) > 1:
        raise CalibrationError(f"{request.source.path} gives '{spec.name}' in shapes {sorted(shapes)[:3]}", "give every sample one shape")
    return np.stack(samples) if samples else np.zeros((0, *_sizes(spec)), spec.dtype or "float32")


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if isinstance(size, str) else size for size in spec.shape or ())


def _limited(items: list[Any], limit: int) -> list[Any]:
    return items[:limit] if limit else items


def _with_progress(request: Request, index: int, total: int, sample: NDArray[np.float32]) -> NDArray[np.float32]:
    request.progress(index + 1, total)
    return sample


def _label_indices(labels: Sequence[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Class indices from indices or class names."""
    index = {name: position for position, name in enumerate(names)}
    try:
        return np.asarray([index[label] if isinstance(label, str) and label in index else int(label) for label in labels], np.int64)
    except (ValueError, TypeError) as error:
        raise CalibrationError(
            f"a label is neither a class name nor an index ({error})", "use the student's labels or their indices"
        ) from error


def _column(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise CalibrationError(f"{path.name} has no column '{name}'", f"its columns are {', '.join(header[:8])}")
    return header.index(name)


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(f"{path} cannot be read as .npz ({error})", "write it with numpy.savez") from error


def _take(archive: Any, key: str, path: Path) -> NDArray[Any]:
    if key not in getattr(archive, "files", ()):
        raise CalibrationError(
            f"{path.name} has no array '{key}'", f"it holds {', '.join(getattr(archive, 'files', ())) or 'no named arrays'}; set columns"
        )
    try:
        return np.asarray(archive[key])
    except ValueError as error:
        raise CalibrationError(f"array '{key}' of {path.name} cannot be read ({error})", "store plain numbers, not objects") from error


def _inside(root: Path, name: str) -> Path:
    """A path of the manifest, which may not leave the manifest's folder."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise CalibrationError(f"path '{name}' leaves the manifest's folder", "keep data beside the manifest, or link it there")
    return root / name


def _check_digest(request: Request) -> None:
    wanted, path = request.source.sha256, _inside(request.root, request.source.path)
    if not wanted:
        return
    files: Iterable[Path] = [path] if path.is_file() else _image_files(request)
    digest = hashlib.sha256()
    for file in files:
        if not path.is_file():
            digest.update(str(file.relative_to(request.root)).encode())
        digest.update(file.read_bytes())
    if digest.hexdigest() != wanted:
        raise CalibrationError(
            f"'{request.source.path}' is not the data the manifest names (sha256 {digest.hexdigest()[:12]}...)",
            "restore it, or correct sha256",
        )
