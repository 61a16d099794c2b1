"""Readers: from a folder of images, a glob, .npz, .csv, a Python callable or a crop list to stacked samples."""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import load_arrays, refuse_claims, save_arrays
from edgepack.calibration.crops import cut, read_crops
from edgepack.calibration.manifest import CalibrationError, DataSource
from edgepack.errors import EdgepackError, one_line
from edgepack.student.spec import ImagePreprocessing, StudentDescription, TensorSpec

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
_PREFIX = "input:"
# (height, width)
_RANK_OF_A_MASK = 2
# What numpy raises on a damaged archive or array.
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Samples:
    """Samples in the student's terms.

    Attributes:
        arrays: input name -> array of shape (N, *input shape).
        labels: class indices of shape (N,), or masks of shape (N, H, W) with 255 where nothing is judged; int64, or None.
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
        self.refuse_several_inputs()
        return self.student.inputs[0]

    def refuse_several_inputs(self) -> None:
        """CalibrationError when the student has several inputs and the source does not say which is which."""
        if len(self.student.inputs) != 1:
            names = ", ".join(spec.name for spec in self.student.inputs)
            raise CalibrationError(
                f"the student has inputs {names} and '{self.source.path}' does not say which is which", "name them under columns"
            )


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
    _refuse_unknown_columns(request)
    _check_digest(request)
    return READERS[request.source.kind](request)


def _refuse_unknown_columns(request: Request) -> None:
    inputs = [spec.name for spec in request.student.inputs]
    unknown = [name for name in request.source.columns if name not in inputs]
    if unknown:
        raise CalibrationError(f"columns names '{unknown[0]}', which is no input of the student", f"its inputs are {', '.join(inputs)}")


@reads("images")
def _images(request: Request) -> Samples:
    """A folder (searched to the bottom) or a glob, in sorted order, through the student's preprocessing."""
    spec, preprocessing = request.single_input, _preprocessing(request)
    files = _limited(image_files(request.source.path, request.root), request.source.limit)
    layout = spec.layout or "NCHW"
    samples = [_with_progress(request, index, len(files), preprocessing.load(file, layout)) for index, file in enumerate(files)]
    labels = _image_labels(request, files)
    stacked = np.stack(samples) if samples else np.zeros((0, *_sizes(spec)), np.float32)
    return Samples({spec.name: stacked}, labels)


def _preprocessing(request: Request) -> ImagePreprocessing:
    if request.preprocessing is None:
        raise CalibrationError(
            f"'{request.source.path}' holds images but the student declares no preprocessing", "give Student(preprocessing=...)"
        )
    return request.preprocessing


def image_files(given: str, root: Path) -> list[Path]:
    """The images of a folder (searched to the bottom) or a glob, sorted; CalibrationError when there is none."""
    path = inside(root, given)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES]
    else:
        found = [path] if path.is_file() else _globbed(given, root)
    for file in found:
        inside(root, str(file.relative_to(root)))
    if not found:
        raise CalibrationError(f"'{given}' holds no image under {root.name}/", "point images at a folder or glob of PNG or JPEG files")
    return sorted(found)


def _globbed(given: str, root: Path) -> list[Path]:
    try:
        return [file for file in root.glob(given) if file.is_file()]
    except ValueError as error:
        raise CalibrationError(f"'{given}' is not a glob ({error})", "write ** as a folder: photos/**/*.jpg") from error


def _image_labels(request: Request, files: Sequence[Path]) -> NDArray[np.int64] | None:
    if not request.source.labels:
        return None
    if request.source.labels == "folders":
        return _label_indices([file.parent.name for file in files], request.student.labels)
    by_file = {row[0].strip(): row[1].strip() for row in _csv_rows(inside(request.root, request.source.labels)) if len(row) >= 2}
    return _label_indices([_label_of(file, files, by_file, request) for file in files], request.student.labels)


def _label_of(file: Path, files: Sequence[Path], by_file: Mapping[str, str], request: Request) -> str:
    """By the path from the manifest, or by the bare name where no other image has it."""
    path = file.relative_to(request.root).as_posix()
    if path in by_file:
        return by_file[path]
    if file.name not in by_file:
        raise CalibrationError(f"{request.source.labels} has no label for {path}", "give one line file,label for each image")
    if Counter(other.name for other in files)[file.name] > 1:
        raise CalibrationError(f"{request.source.labels} names {file.name}, and several images have that name", f"write {path},label")
    return by_file[file.name]


def _csv_rows(path: Path) -> list[list[str]]:
    """All rows that are not empty; a byte order mark, as spreadsheets write it, is skipped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path.name} cannot be read as CSV ({error})", "give a UTF-8 file of comma-separated values") from error


@reads("crops")
def _crops(request: Request) -> Samples:
    """The rows of a crop list that are of the split asked for, in order, through the student's preprocessing."""
    spec, preprocessing, source = request.single_input, _preprocessing(request), request.source
    path = inside(request.root, source.path)
    crops = _limited([crop for crop in read_crops(path) if source.split in ("", crop.split)], source.limit)
    if not crops:
        raise CalibrationError(f"{path.name} has no row of split '{source.split}'", "name a split of its column split")
    samples = []
    for index, crop in enumerate(crops):
        image = cut(crop, path.parent, f"{path.name} crop {index} of '{crop.scene}'")
        samples.append(_with_progress(request, index, len(crops), preprocessing.sample(image, spec.layout or "NCHW")))
    labels = _label_indices([crop.label for crop in crops], request.student.labels) if source.labels else None
    return Samples({spec.name: np.stack(samples)}, labels)


@reads("npz")
def _npz(request: Request) -> Samples:
    path = inside(request.root, request.source.path)
    with _opened(path) as archive:
        arrays = {spec.name: _npz_array(request, spec, archive, path) for spec in request.student.inputs}
        labels = _take(archive, request.source.labels, path) if request.source.labels else None
    limit = request.source.limit or None
    classes = None if labels is None else _label_indices(_listed(labels[:limit]), request.student.labels)
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
    path = inside(request.root, request.source.path)
    header, *rows = _csv_rows(path) or [[]]
    uneven = [index for index, row in enumerate(rows) if len(row) != len(header)]
    if uneven:
        raise CalibrationError(
            f"{path.name}: sample {uneven[0]} has {len(rows[uneven[0]])} values, the header {len(header)}", "clean the file"
        )
    rows = _limited(rows, request.source.limit)
    arrays = {spec.name: _csv_array(request, spec, header, rows, path) for spec in request.student.inputs}
    label = _column(header, request.source.labels, path) if request.source.labels else None
    return Samples(arrays, None if label is None else _label_indices([row[label] for row in rows], request.student.labels))


def _csv_array(request: Request, spec: TensorSpec, header: list[str], rows: list[list[str]], path: Path) -> NDArray[Any]:
    indices = _csv_columns(request, spec, header, path)
    sizes = _sizes(spec)
    if len(indices) != int(np.prod(sizes)):
        raise CalibrationError(
            f"{path.name} gives {len(indices)} numbers for input '{spec.name}' of shape {list(sizes)}", "name its columns"
        )
    try:
        values = np.asarray([[row[index] for index in indices] for row in rows], np.float64)
    except ValueError as error:
        raise CalibrationError(f"{path.name} holds a row that is not all numbers ({error})", "clean the file") from error
    return _converted(values, spec, path).reshape(len(rows), *sizes)


def _csv_columns(request: Request, spec: TensorSpec, header: list[str], path: Path) -> list[int]:
    """Positions of an input's columns in the order in which the manifest lists them; a glob's matches in the file's order."""
    chosen = request.source.columns.get(spec.name)
    if not chosen:
        request.refuse_several_inputs()
        return [index for index, name in enumerate(header) if name != request.source.labels]
    found: dict[int, None] = {}
    for pattern in [chosen] if isinstance(chosen, str) else chosen:
        matches = [index for index, name in enumerate(header) if name == pattern or fnmatchcase(name, pattern)]
        if not matches:
            raise CalibrationError(
                f"{path.name} has no column '{pattern}' for input '{spec.name}'", f"its columns are {', '.join(header[:8])}"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _converted(values: NDArray[np.float64], spec: TensorSpec, path: Path) -> NDArray[Any]:
    """Numbers of a text file as the input's type, which must hold each of them."""
    dtype = np.dtype(spec.dtype or "float32")
    with np.errstate(invalid="ignore", over="ignore"):
        result = values.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(result.astype(np.float64), values):
        row = int(np.flatnonzero((result.astype(np.float64) != values).any(axis=1))[0])
        raise CalibrationError(f"{path.name}: sample {row} holds numbers that {dtype} does not", f"input '{spec.name}' takes {dtype}")
    return result


@reads("python")
def _python(request: Request) -> Samples:
    from edgepack.student.load import load_function

    name, _, function = request.source.path.rpartition(":")
    produce = load_function(inside(request.root, name), function)
    try:
        pairs = [_pair(item) for item in itertools.islice(produce(), request.source.limit or None)]
    except EdgepackError:
        raise
    except Exception as error:
        raise CalibrationError(f"{request.source.path} raised {one_line(error)}", "let it return an iterable of samples") from error
    feeds = [feed if isinstance(feed, Mapping) else {request.single_input.name: feed} for feed, _ in pairs]
    arrays = {spec.name: _stack(spec, [_of(feed, spec.name, request) for feed in feeds], request) for spec in request.student.inputs}
    labels = [label for _, label in pairs if label is not None]
    if labels and len(labels) != len(pairs):
        raise CalibrationError(
            f"{request.source.path} gives {len(labels)} labels for {len(pairs)} samples", "give all of them one, or none"
        )
    return Samples(arrays, _label_indices(labels, request.student.labels) if labels else None)


def _pair(item: Any) -> tuple[Any, Any]:
    return item if isinstance(item, tuple) and len(item) == 2 else (item, None)


def _of(feed: Mapping[str, Any], name: str, request: Request) -> NDArray[Any]:
    if name not in feed:
        raise CalibrationError(f"{request.source.path} gives no '{name}'", f"its samples hold {', '.join(map(str, feed)) or 'nothing'}")
    try:
        return np.asarray(feed[name])
    except Exception as error:
        raise CalibrationError(
            f"{request.source.path} gives a '{name}' that is no array ({one_line(error)})", "give numpy arrays, or detached CPU tensors"
        ) from error


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


def _label_indices(labels: Sequence[Any] | NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Class indices from indices or class names; masks, arrays of indices of one shape, as they are."""
    index = {name: position for position, name in enumerate(names)}
    try:
        if len(labels) and np.ndim(labels[0]) == _RANK_OF_A_MASK:
            return _masks(np.asarray(labels))
        return np.asarray([index[label] if isinstance(label, str) and label in index else _whole(label) for label in labels], np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise CalibrationError(
            f"a label is neither a class name nor an index ({error})", "use the student's labels or their indices"
        ) from error


def _listed(labels: NDArray[Any]) -> Sequence[Any] | NDArray[Any]:
    """Python numbers and strings; masks stay an array."""
    return labels if labels.ndim > _RANK_OF_A_MASK else labels.tolist()


def _masks(masks: NDArray[Any]) -> NDArray[np.int64]:
    if not np.issubdtype(masks.dtype, np.integer):
        raise ValueError(f"masks are {masks.dtype}")
    return masks.astype(np.int64)


def _whole(label: Any) -> int:
    number = int(label)
    if not isinstance(label, str) and number != label:
        raise ValueError(f"{label} is no whole number")
    return number


def _column(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise CalibrationError(f"{path.name} has no column '{name}'", f"its columns are {', '.join(header[:8])}")
    return header.index(name)


def _opened(path: Path) -> Any:
    try:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        refuse_claims(path)
        archive = np.load(path, allow_pickle=False)
    except _DAMAGED as error:
        raise CalibrationError(f"{path} cannot be read as .npz ({error})", "write it with numpy.savez") from error
    if isinstance(archive, np.ndarray):
        raise CalibrationError(f"{path} is a single array, not an .npz", "write it with numpy.savez")
    return archive


def _take(archive: Any, key: str, path: Path) -> NDArray[Any]:
    if key not in archive.files:
        held = ", ".join(archive.files) or "no arrays"
        raise CalibrationError(f"{path.name} has no array '{key}'", f"it holds {held}; set columns or labels")
    try:
        array = np.asarray(archive[key])
    except _DAMAGED as error:
        raise CalibrationError(f"array '{key}' of {path.name} cannot be read ({error})", "store plain numbers, not objects") from error
    if array.ndim == 0:
        raise CalibrationError(f"array '{key}' of {path.name} is a single number", "put samples on the first axis")
    return array


def inside(root: Path, name: str) -> Path:
    """A path of the manifest, which may not leave the manifest's folder."""
    try:
        path = (root / name).resolve()
        leaves = Path(name).is_absolute() or not path.is_relative_to(root.resolve())
        waits = path.exists() and not (path.is_file() or path.is_dir())
    except (OSError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"'{name[:80]}' is no path ({error})", "keep data beside the manifest and name it from there") from error
    if leaves:
        raise CalibrationError(f"path '{name}' leaves the manifest's folder", "keep data beside the manifest and name it from there")
    if waits:
        raise CalibrationError(f"'{name}' is a pipe or a device", "give a file or a folder")
    return root / name


def _check_digest(request: Request) -> None:
    wanted = request.source.sha256.lower()
    if not wanted:
        return
    path = inside(request.root, request.source.path)
    files = [path] if path.is_file() or request.source.kind != "images" else image_files(request.source.path, request.root)
    digest = hashlib.sha256()
    for file in files:
        if not path.is_file():
            digest.update(file.relative_to(request.root).as_posix().encode())
        digest.update(_file_bytes(file))
    if digest.hexdigest() != wanted:
        raise CalibrationError(
            f"'{request.source.path}' is not the data the manifest names (sha256 {digest.hexdigest()[:12]}...)",
            "restore it, or correct sha256",
        )


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read ({error.strerror})", "restore it, or correct the manifest") from error
