"""Labels for photographs or for the camera's frames, on a Raspberry Pi, with a pack that ``edgepack build`` wrote.

    python3 classify.py pack/ --folder photos/             all images once; --watch goes on with new ones
    python3 classify.py pack/ --camera --every 1           the newest frame of the Pi's camera, once a second

One file that needs Python 3.11, numpy, Pillow and onnxruntime, no more: ``edgepack device setup`` puts these on a Pi. That is why it reads
pack.json itself and why ``Preprocessing`` stands here again: a test holds it against edgepack's own, bit for bit.

Exit codes: 0 done or told to stop, 2 bad usage, pack or input, 3 the camera or the runtime failed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

# onnxruntime reads it when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

try:
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray
    from PIL import Image, ImageOps
except ImportError as missing:
    _hint = "run 'edgepack device setup ssh://pi@raspberrypi.local' on your computer, and start this with PYTHONPATH=~/.cache/edgepack/site"
    print(f"FAIL start: {missing} -> next: {_hint}", file=sys.stderr)
    sys.exit(2)

SCHEMA, MANIFEST = 1, "pack.json"
_COPY_AGAIN = "copy the pack again, whole"
# As edgepack reads them: a manifest of a thousand classes has 100 kB.
LARGEST_MANIFEST, LARGEST_SAMPLE = 64 * 2**20, 2**25
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
T = TypeVar("T")


# Control characters, line separators and what turns the direction of text: a terminal obeys them, and a pack may be a stranger's.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text with every character that a terminal obeys spelled out (\\x1b)."""
    return _OBEYED.sub(lambda found: ascii(found.group())[1:-1], text)


def one_line(said: object) -> str:
    """Words of a library or the system as one line that is safe to show."""
    return plain(" ".join(str(said).split())[:400])


class ProgramError(Exception):
    """What ends the program: one line, ``FAIL where: cause -> next: hint``, and an exit code."""

    def __init__(self, where: str, cause: object, hint: str, code: int = 2) -> None:
        super().__init__(f"FAIL {where}: {one_line(cause)} -> next: {plain(hint)}")
        self.code = code


class ImageError(Exception):
    """One image or answer of which nothing can be made; the others go on."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the student's input, exactly as ``edgepack.student.spec.ImagePreprocessing`` says and does it."""

    height: int
    width: int
    channels: int
    resize: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    invert: bool
    folded: bool

    def __post_init__(self) -> None:
        """ValueError for what edgepack would refuse too."""
        if self.channels not in (1, 3) or min(self.height, self.width) < 1 or {len(self.mean), len(self.std)} - {1, self.channels}:
            raise ValueError(f"preprocessing of {self.channels} channels, {self.height} x {self.width}")
        if self.height * self.width * self.channels > LARGEST_SAMPLE:
            raise ValueError(f"images become {self.height} x {self.width} pixels, too many for a student")
        if self.resize not in ("cover", "stretch") or self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"preprocessing knows no resize '{self.resize}' with interpolation '{self.interpolation}'")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError("preprocessing needs finite means and std above 0")

    @property
    def mode(self) -> str:
        """Pillow's."""
        return "L" if self.channels == 1 else "RGB"

    def sample(self, image: Image.Image, layout: str) -> NDArray[np.float32]:
        """Float32 (1, C, H, W), or (1, H, W, C) for layout "NHWC"; ``image`` has mode ``mode``."""
        pixels = np.asarray(self._fit(image), np.float32).reshape(self.height, self.width, self.channels)
        return self._values(np.ascontiguousarray((pixels if layout == "NHWC" else pixels.transpose(2, 0, 1))[None]), layout)

    def _fit(self, image: Image.Image) -> Image.Image:
        method, size = Image.Resampling[self.interpolation.upper()], (self.width, self.height)
        return ImageOps.fit(image, size, method) if self.resize == "cover" else image.resize(size, method)

    def _values(self, pixels: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
        if self.folded:
            return pixels
        unit = pixels / np.float32(255)
        unit = 1 - unit if self.invert else unit
        along = (-1,) if layout == "NHWC" else (-1, 1, 1)
        mean, std = (np.asarray(each, np.float32).reshape(along) for each in (self.mean, self.std))
        values: NDArray[np.float32] = (unit - mean) / std
        return values


@dataclass(frozen=True)
class Binding:
    """A tensor of the artifact: ``artifact = transpose(student, permutation)``, cast to ``dtype``."""

    name: str
    hub_name: str
    dtype: str
    permutation: tuple[int, ...]

    def to_artifact(self, array: NDArray[Any]) -> NDArray[Any]:
        """The student's tensor as the artifact takes it."""
        return np.ascontiguousarray(array.transpose(self.permutation) if self.permutation else array, dtype=self.dtype)

    def to_student(self, array: NDArray[Any]) -> NDArray[Any]:
        """The artifact's tensor in the student's layout."""
        return array.transpose(np.argsort(self.permutation)) if self.permutation else array


@dataclass(frozen=True)
class Artifact:
    """One artifact of the pack; ``failures``: the gates it did not pass."""

    target: str
    scheme: str
    runner: str
    path: str
    sha256: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.target} {self.scheme}"


@dataclass(frozen=True)
class Pack:
    """What this program needs of pack.json. ``layout``: of the input; ``output_layout``: of the first output."""

    folder: Path
    student: str
    layout: str
    output_layout: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    artifacts: tuple[Artifact, ...]


def load_pack(folder: Path) -> Pack:
    """The pack at ``folder``; ProgramError when it is none, is of another schema, is damaged, or takes no images."""
    fields = _manifest(folder)
    if fields.get("schema") != SCHEMA:
        version = str(fields.get("schema"))[:40]
        raise ProgramError("pack", f"{MANIFEST} has schema {version}, this program reads {SCHEMA}", "take the classify.py of that edgepack")
    try:
        return _pack(folder, fields)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ProgramError("pack", f"{MANIFEST} is damaged ({type(error).__name__}: {error})", _COPY_AGAIN) from error


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        held = path.lstat()
        if not stat.S_ISREG(held.st_mode) or held.st_size > LARGEST_MANIFEST:
            raise ValueError("it is no plain file, or too large")
        return _as(dict, json.loads(path.read_bytes()))
    except OSError as error:
        raise ProgramError(
            "pack", f"{folder} is not a pack ({MANIFEST}: {error.strerror})", "give the folder that edgepack build wrote"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ProgramError("pack", f"{path} is damaged ({error})", _COPY_AGAIN) from error


def _as(kind: type[T], value: object) -> T:
    """``value`` when it is a ``kind``; TypeError otherwise. JSON writes 1.0 as 1 where it may, and bool is no number."""
    if kind is float and type(value) is int:
        return kind(value)  # type: ignore[call-arg]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return plain(value) if isinstance(value, str) else value  # type: ignore[return-value]


def _all(kind: type[T], values: object) -> tuple[T, ...]:
    return tuple(_as(kind, value) for value in _as(list, values))


def _pack(folder: Path, fields: dict[str, Any]) -> Pack:
    student = fields["student"]
    if student["preprocessing"] is None or len(student["inputs"]) != 1:
        raise ProgramError("pack", "its student takes tensors, not images", "build it with Student(preprocessing=...)")
    return Pack(
        folder,
        _as(str, student["name"]),
        _as(str, student["inputs"][0]["layout"]) or "NCHW",
        _as(str, student["outputs"][0]["layout"]),
        _preprocessing(student["preprocessing"]),
        _all(str, student["labels"]),
        tuple(_artifact(each) for each in _as(list, fields["artifacts"])),
    )


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    height, width, channels = (_as(int, fields[name]) for name in ("height", "width", "channels"))
    resize, interpolation = (_as(str, fields[name]) for name in ("resize", "interpolation"))
    mean, std = (_all(float, fields[name]) for name in ("mean", "std"))
    invert, folded = (_as(bool, fields[name]) for name in ("invert", "folded"))
    return Preprocessing(height, width, channels, resize, interpolation, mean, std, invert, folded)


def _artifact(fields: dict[str, Any]) -> Artifact:
    target, scheme, runner = (_as(str, fields[name]) for name in ("target", "scheme", "runner"))
    inputs, outputs = (tuple(_binding(each) for each in _as(list, fields[name])) for name in ("inputs", "outputs"))
    path, sha256 = (_as(str, fields["file"][name]) for name in ("path", "sha256"))
    return Artifact(target, scheme, runner, path, sha256, inputs, outputs, _all(str, fields["failures"]))


def _binding(fields: dict[str, Any]) -> Binding:
    name, hub_name, dtype = (_as(str, fields[key]) for key in ("name", "hub_name", "dtype"))
    return Binding(name, hub_name, np.dtype(dtype).name, _all(int, fields["permutation"]))


# Which scheme is taken when none is asked for, best first; others only when neither is there.
_PREFERRED = {"w8a8": 0, "fp32": 1}


def choose(pack: Pack, target: str, scheme: str, force: bool) -> Artifact:
    """The artifact to run: as asked; among several one that passed its gate, w8a8 before fp32, in the pack's order.

    Raises:
        ProgramError: there is none, it is for another runtime, or it failed its gate and nobody said ``force``.
    """
    fitting = [each for each in pack.artifacts if target in ("", each.target) and scheme in ("", each.scheme)]
    here = [each for each in fitting if each.runner == "ort"]
    if not here:
        held = "it holds " + (", ".join(str(each) for each in pack.artifacts if each.runner == "ort") or "none for ONNX Runtime")
        cause = f"{fitting[0]} runs in {fitting[0].runner}, not in ONNX Runtime" if fitting else "the pack has no such artifact"
        raise ProgramError("pack", cause, held)
    chosen = min(here, key=lambda each: (bool(each.failures), _PREFERRED.get(each.scheme, len(_PREFERRED))))
    if chosen.failures and not force:
        raise ProgramError("gate", f"{chosen} failed: {chosen.failures[0]}", "choose another --scheme, or --force to run it all the same")
    return chosen


def verified(pack: Pack, artifact: Artifact) -> bytes:
    """The artifact's bytes, which are the ones that were verified; ProgramError when they are not, or lie outside the pack."""
    name, place = artifact.path[:200], pack.folder.resolve()
    try:
        path = (place / artifact.path).resolve()
        if not path.is_relative_to(place) or path == place:
            raise ProgramError("pack", f"{MANIFEST} names '{name}', outside the pack", "do not trust this pack")
        if path != place / artifact.path or not path.is_file():
            raise ProgramError("pack", f"'{name}' of the pack is missing, a link, or no plain file", _COPY_AGAIN)
        content = path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        raise ProgramError("pack", f"'{name}' cannot be read ({error})", _COPY_AGAIN) from error
    if hashlib.sha256(content).hexdigest() != artifact.sha256:
        raise ProgramError("pack", f"{name} is not the file that was verified: its digest differs", _COPY_AGAIN)
    return content


@dataclass(frozen=True)
class Answer:
    """What the model said of one image: (label, probability), or (label, share of the pixels) where it names a class for each."""

    kind: str
    best: tuple[tuple[str, float], ...]
    preprocess_ms: float
    inference_ms: float


class Model:
    """A verified artifact in ONNX Runtime, with what comes before and after it."""

    def __init__(self, pack: Pack, artifact: Artifact, threads: int, top: int) -> None:
        """ProgramError when the runtime refuses it, or it answers with nothing that the pack has labels for."""
        self._pack, self._artifact, self._top = pack, artifact, top
        if len(artifact.inputs) != 1 or not artifact.outputs:
            raise ProgramError("pack", f"{artifact} does not have one input and an output", "build the pack again")
        content = verified(pack, artifact)
        try:
            # From bytes: what runs is what was checked, and onnxruntime then refuses a model that keeps weights in other files.
            self._session = onnxruntime.InferenceSession(content, _options(threads), providers=["CPUExecutionProvider"])
            self._warm_up()
        except ProgramError:
            raise
        except Exception as error:
            raise ProgramError(
                "model", f"onnxruntime {onnxruntime.__version__} does not run {artifact} ({error})", _OTHER_RUNTIME, 3
            ) from error

    def _warm_up(self) -> None:
        """The first inference allocates: it is in no figure. It also shows what kind of answer there is."""
        answer = self.answer(Image.linear_gradient("L").convert(self._pack.preprocessing.mode))
        if not answer.best:
            raise ProgramError(
                "pack", "its labels fit neither one row of scores nor one for each pixel", "see the numbers with 'edgepack run'"
            )

    def sample(self, image: Image.Image) -> NDArray[Any]:
        """The tensor the artifact takes for an image."""
        return self._artifact.inputs[0].to_artifact(self._pack.preprocessing.sample(image, self._pack.layout))

    def open(self, source: Path | bytes) -> Image.Image:
        """An image file, or its bytes, decoded as the student wants it; ImageError when it cannot be."""
        return open_image(source, self._pack.preprocessing.mode)

    def answer(self, source: Image.Image | Path | bytes) -> Answer:
        """Labels for one image. Times: decoding with preprocessing, and inference.

        Raises:
            ImageError: it is no image, or the answer holds NaN or infinity. ProgramError: the runtime failed.
        """
        started = time.perf_counter()
        feed = {self._artifact.inputs[0].name: self.sample(source if isinstance(source, Image.Image) else self.open(source))}
        prepared = time.perf_counter()
        given = self._computed(feed)
        ended = time.perf_counter()
        kind, best = self._best(self._artifact.outputs[0].to_student(np.asarray(given)))
        return Answer(kind, best, 1e3 * (prepared - started), 1e3 * (ended - prepared))

    def _computed(self, feed: dict[str, NDArray[Any]]) -> Any:
        """The first output. What onnxruntime raises has no common type."""
        try:
            return self._session.run([self._artifact.outputs[0].name], feed)[0]
        except Exception as error:
            raise ProgramError("model", f"onnxruntime {onnxruntime.__version__} failed ({one_line(error)})", _OTHER_RUNTIME, 3) from error

    def _best(self, scores: NDArray[Any]) -> tuple[str, tuple[tuple[str, float], ...]]:
        labels, layout = self._pack.labels, self._pack.output_layout
        if (np.isnan(scores) | (scores == np.inf)).any():
            raise ImageError("the model answered with NaN or infinity")
        if labels and scores.size == len(labels):
            return "top", ranked(probabilities(scores.reshape(-1)), labels, self._top)
        if {*"CHW"} <= {*layout} and scores.ndim == len(layout) and scores.shape[layout.find("C")] == len(labels):
            return "areas", tuple(each for each in ranked(areas(scores, layout.find("C")), labels, self._top) if each[1])
        return "", ()


_OTHER_RUNTIME = "install the onnxruntime that 'edgepack device setup' installs, or choose another --scheme"


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    # Fatal errors alone are logged: what else it has to say is in its exceptions.
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    # Arm sums int8 products exactly; x86 without VNNI only when told to. Elsewhere it changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def ranked(values: NDArray[np.float64], labels: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
    """The ``count`` largest values with their labels, the first of equals first."""
    return tuple((labels[index], float(values[index])) for index in np.argsort(-values, kind="stable")[:count])


def probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Class scores (C,) as a distribution: as they are when they are one, else by softmax (``edgepack.verify.metrics.probabilities``)."""
    exact = scores.astype(np.float64)
    # An int8 softmax has steps of 1/256: each class may be half of one off.
    if exact.min() >= 0 and exact.max() <= 1.01 and abs(exact.sum() - 1) < 1e-2 + exact.size / 512:
        return exact
    exponent = np.exp(exact - exact.max())
    result: NDArray[np.float64] = exponent / exponent.sum()
    return result


def areas(scores: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """The share of the pixels for which each class of ``axis`` scores highest."""
    classes = scores.argmax(axis=axis)
    shares: NDArray[np.float64] = np.bincount(classes.reshape(-1), minlength=scores.shape[axis]) / classes.size
    return shares


_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# From here on an image must be a photograph: those take a byte for 4 to 8 pixels.
_MANY_PIXELS, _PIXELS_OF_A_BYTE = 2**26, 64


def open_image(source: Path | bytes, mode: str) -> Image.Image:
    """As ``edgepack.student.spec.open_image``; ImageError for what that refuses."""
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ImageError(f"its pixels have more than 8 bits (mode {image.mode})")
            if image.width * image.height > max(_MANY_PIXELS, _PIXELS_OF_A_BYTE * size):
                raise ImageError(f"it unpacks to {image.width * image.height} pixels, too many for its size")
            return image.convert(mode)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"it cannot be read as an image ({error})") from error


@dataclass(frozen=True)
class Shot:
    """One image to classify. ``patient``: it may be a copy under way, so try again later rather than tell that it is damaged."""

    name: str
    source: Path | bytes
    patient: bool = False


# A source that waits yields None now and then, so that whoever asks can answer the watchdog and see a signal. Seconds of one wait.
TICK_S = 0.1
Shots = Iterator[Shot | None]
Signature = tuple[int, int]


def folder_once(folder: Path) -> Shots:
    """Every image of a folder, by name; ProgramError when there is none."""
    found = sorted(signatures(folder))
    if not found:
        raise ProgramError("folder", f"{folder} holds no image", f"put {', '.join(sorted(IMAGE_SUFFIXES))} files there, or use --watch")
    yield from (Shot(str(path), path) for path in found)


def signatures(folder: Path) -> dict[Path, Signature]:
    """What changes while a file is written, for each image: size and time. Hidden files are other programs' copies under way."""
    try:
        with os.scandir(folder) as entries:
            named = [entry for entry in entries if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")]
            return dict(filter(None, map(_signature, named)))
    except OSError as error:
        raise ProgramError("folder", f"{folder} cannot be read ({error.strerror})", "give a folder of images") from error


def _signature(entry: os.DirEntry[str]) -> tuple[Path, Signature] | None:
    # It may have been moved away since it was listed.
    with suppress(FileNotFoundError):
        held = entry.stat()
        return (Path(entry.path), (held.st_size, held.st_mtime_ns)) if stat.S_ISREG(held.st_mode) else None
    return None


@dataclass
class Watched:
    """One file of a watched folder. ``since``: when it was first seen as it is; ``seen``: whether that was settled."""

    signature: Signature
    since: float
    seen: bool = False


class Watch:
    """A folder whose images count once they are complete: unchanged for SETTLED_S, and decodable.

    No system tells when another machine's copy is complete, and one that stalls looks settled. So what cannot be decoded is tried again for
    PATIENCE_S before it is called damaged, and whatever changes later is a new image.
    """

    LOOKS_EVERY_S, SETTLED_S, PATIENCE_S = 0.5, 1.0, 10.0

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._files: dict[Path, Watched] = {}

    def shots(self) -> Shots:
        """Without end."""
        while True:
            for path in self._settled():
                yield Shot(str(path), path, patient=self._clock() - self._files[path].since < self.PATIENCE_S)
            yield None
            time.sleep(self.LOOKS_EVERY_S)

    def again(self, shot: Shot) -> None:
        """Give an image once more, later."""
        if isinstance(shot.source, Path) and shot.source in self._files:
            self._files[shot.source].seen = False

    def _settled(self) -> list[Path]:
        now, found = self._clock(), signatures(self._folder)
        same = {path: held for path, held in self._files.items() if found.get(path) == held.signature}
        self._files = {path: same.get(path) or Watched(signature, now) for path, signature in sorted(found.items())}
        settled = [path for path, held in self._files.items() if not held.seen and now - held.since >= self.SETTLED_S]
        for path in settled:
            self._files[path].seen = True
        return settled


# A marker of JPEG other than stuffing (00), restarts (D0 to D7), TEM (01) and fill bytes (FF): ITU-T T.81, B.1.1.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_BEGIN, _END, _ALONE = 0xD8, 0xD9, 2


class MotionJpeg:
    """Cuts a stream into its JPEG images. Segments are stepped over by their length: a thumbnail in one has an end of its own."""

    # No frame of a camera is larger; a stream that never ends an image is dropped up to here.
    LARGEST = 64 * 2**20

    def __init__(self) -> None:
        self._held, self._at = bytearray(), 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The images that are complete with these bytes."""
        self._held += chunk
        frames = []
        while end := self._image_end():
            frames.append(bytes(self._held[:end]))
            self._drop(end)
        if len(self._held) > self.LARGEST:
            self._drop(len(self._held))
        return frames

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._at = 0

    def _image_end(self) -> int:
        """Where the first image ends; 0 while it does not."""
        if not self._at and not self._begin():
            return 0
        while found := _MARKER.search(self._held, self._at):
            place, code = found.start(), self._held[found.start() + 1]
            if code == _END:
                return place + _ALONE
            if code == _BEGIN:
                self._drop(place)
                self._at = _ALONE
            elif place + 4 > len(self._held):
                self._at = place
                return 0
            else:
                self._at = place + 2 + max(2, int.from_bytes(self._held[place + 2 : place + 4], "big"))
        # The last byte may be the first half of a marker.
        self._at = max(self._at, len(self._held) - 1)
        return 0

    def _begin(self) -> bool:
        """Drop what comes before an image; whether one begins."""
        begin = self._held.find(b"\xff\xd8\xff")
        self._drop(begin if begin >= 0 else max(0, len(self._held) - 2))
        self._at = _ALONE if begin >= 0 else 0
        return begin >= 0


class Camera:
    """A program that writes MJPEG to its output. Only its newest frame is kept: what is shown is now, however slow the model."""

    # Seconds without a frame after which a camera counts as stuck; a Pi's takes one or two to start.
    STUCK_S = 10.0

    def __init__(self, command: Sequence[str]) -> None:
        """ProgramError when it cannot be started."""
        self._command, self.dropped = command, 0
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise ProgramError("camera", f"{command[0]} does not start ({error.strerror})", "check --camera-command", 3) from error
        self._words: deque[bytes] = deque(maxlen=1)
        self._newest: bytes | None = None
        self._count, self._last, self._ended = 0, time.monotonic(), False
        self._changed = threading.Condition()
        for follow in (self._follow_frames, self._follow_words):
            threading.Thread(target=follow, daemon=True).start()

    def shots(self) -> Shots:
        """The newest frame whenever one is asked for. Ends with the program; ProgramError when that failed, is stuck, or gave no frame."""
        while (shot := self._take()) is not None or not self._ended:
            if shot is None and time.monotonic() - self._last > self.STUCK_S:
                raise ProgramError(
                    "camera", f"{self._command[0]} gave no frame for {self.STUCK_S:g} s", "see that no other program has it", 3
                )
            yield shot
        code = self._process.wait()
        if code or not self._count:
            words = b"".join(self._words).decode(errors="replace").strip() or "no words"
            cause = f"{self._command[0]} ended with {code} after {self._count} frames ({words})"
            raise ProgramError("camera", cause, "try its command by hand; 'rpicam-hello --list-cameras' names the Pi's cameras", 3)

    def close(self) -> None:
        """End the program and whatever it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)

    def _take(self) -> Shot | None:
        with self._changed:
            if self._newest is None and not self._ended:
                self._changed.wait(TICK_S)
            frame, self._newest = self._newest, None
            return None if frame is None else Shot(f"frame {self._count}", frame)

    def _follow_frames(self) -> None:
        assert self._process.stdout is not None
        stream = MotionJpeg()
        while chunk := os.read(self._process.stdout.fileno(), 2**16):
            for frame in stream.feed(chunk):
                self._keep(frame)
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _keep(self, frame: bytes) -> None:
        with self._changed:
            self.dropped += self._newest is not None
            self._newest, self._last = frame, time.monotonic()
            self._count += 1
            self._changed.notify()

    def _follow_words(self) -> None:
        assert self._process.stderr is not None
        self._words.extend(line for line in self._process.stderr if line.strip())


def camera_command(given: str, wanted: Preprocessing) -> list[str]:
    """The program that gives frames: the one given, else the Pi's own, with frames at least as large as the student wants them."""
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise ProgramError("usage", f"--camera-command cannot be split into words ({error})", "quote it as a shell would") from error
    program = next(filter(None, map(shutil.which, ("rpicam-vid", "libcamera-vid"))), None)
    if not words and program is None:
        raise ProgramError(
            "camera", "neither rpicam-vid nor libcamera-vid is here", "sudo apt install rpicam-apps, or give --camera-command"
        )
    # 4:3 as the sensors are, in steps that keep the width a multiple of 64.
    steps = max(10, math.ceil(wanted.height / 48), math.ceil(wanted.width / 64))
    size = ["--width", str(64 * steps), "--height", str(48 * steps)]
    # 15 frames a second: rpicam-vid compresses on the processor (its mjpeg_encoder.cpp), which takes time from the model.
    quality = ["--framerate", "15", "--quality", "90", "--flush"]
    return words or [str(program), "--nopreview", "--timeout", "0", "--codec", "mjpeg", *size, *quality, "--output", "-"]


class Service:
    """systemd's side, sd_notify(3): messages to the socket that $NOTIFY_SOCKET names; nothing where it names none."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def tell(self, message: str) -> None:
        """READY=1, WATCHDOG=1 or STOPPING=1."""
        if not self._address:
            return
        # "@" stands for the zero byte of Linux's abstract sockets. A manager that is restarting must not end this program.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.sendto(message.encode(), address)


@dataclass
class Stop:
    """Ctrl-C and SIGTERM: the first asks, so that the summary is still printed; the second ends at once."""

    asked: bool = False

    def listen(self) -> None:
        """From now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


# A quantile needs ten samples beyond it, as in edgepack.latency.statistics: 20 for p50, 100 for p90.
_QUANTILES = ((50, 20), (90, 100))


@dataclass
class Tally:
    """What the summary says. Times: of the newest inferences only, as a service runs for months."""

    count: int = 0
    unreadable: int = 0
    times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))

    def add(self, answer: Answer) -> None:
        """One classified image."""
        self.count += 1
        self.times_ms.append(answer.inference_ms)

    def summary(self, dropped: int | None) -> dict[str, Any]:
        """As data; quantiles that have too few samples are None, and so is ``dropped`` where there was no camera."""
        times = np.array(self.times_ms)
        held = {f"p{q}_ms": float(np.quantile(times, q / 100)) if times.size >= least else None for q, least in _QUANTILES}
        return {"count": self.count, "unreadable": self.unreadable, "dropped": dropped, "timed": times.size, **held}


class Printer:
    """A line for each image on standard output: words, or JSON."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def begin(self, pack: Pack, artifact: Artifact) -> None:
        """What runs, where."""
        held = {"student": pack.student, "target": artifact.target, "scheme": artifact.scheme, "failures": list(artifact.failures)}
        here = {"runtime": f"onnxruntime {onnxruntime.__version__}", "machine": machine()}
        gate = " (failed its gate)" if artifact.failures else ""
        self._say("begin", {**held, **here}, f"{pack.student}: {artifact}{gate}, {here['runtime']} on {here['machine']}")

    def answer(self, shot: Shot, answer: Answer) -> None:
        """One image."""
        name, measure = plain(shot.name), {"top": "probability", "areas": "share"}[answer.kind]
        best = [{"label": label, measure: value} for label, value in answer.best]
        words = ", ".join(f"{label} {100 * value:.1f}%" for label, value in answer.best)
        times = {"preprocess_ms": answer.preprocess_ms, "inference_ms": answer.inference_ms}
        spent = f"preprocessing {answer.preprocess_ms:.2f} ms, inference {answer.inference_ms:.3f} ms"
        prefix = "pixels: " if answer.kind == "areas" else ""
        self._say("image", {"input": name, answer.kind: best, **times}, f"{name}: {prefix}{words}  [{spent}]")

    def unreadable(self, shot: Shot, error: ImageError) -> None:
        """One image of which nothing can be made."""
        name, cause = plain(shot.name), one_line(error)
        self._say("unreadable", {"input": name, "cause": cause}, f"{name}: not classified, {cause}")

    def summary(self, held: dict[str, Any]) -> None:
        """The end."""
        words = [f"{held['count']} classified", f"{held['unreadable']} unreadable"]
        words += [] if held["dropped"] is None else [f"{held['dropped']} frames dropped"]
        words += [_quantile(f"p{q}", held[f"p{q}_ms"], least) for q, least in _QUANTILES]
        self._say("summary", held, "; ".join(words))

    def _say(self, event: str, data: dict[str, Any], words: str) -> None:
        print(json.dumps({"event": event, **data}) if self._json else words, flush=True)


def _quantile(name: str, value: float | None, least: int) -> str:
    return f"inference {name} needs {least} images" if value is None else f"inference {name} {value:.3f} ms"


def machine() -> str:
    """The board as its firmware names it, else the processor, with what that means for the times."""
    with suppress(OSError):
        return plain(Path("/proc/device-tree/model").read_bytes().rstrip(b"\0").decode(errors="replace"))
    return f"{platform.machine()} (no Raspberry Pi: its times say nothing of one)"


@dataclass
class Program:
    """The loop: take an image, answer, tell, wait."""

    model: Model
    printer: Printer
    service: Service
    stop: Stop
    tally: Tally

    def run(self, shots: Shots, every: float, count: int, again: Callable[[Shot], None]) -> None:
        """Until the source ends, ``count`` images are classified (0: no such end) or somebody says stop."""
        for shot in shots:
            self.service.tell("WATCHDOG=1")
            started = time.monotonic()
            if shot:
                self._classify(shot, again)
            if self.stop.asked or (count and self.tally.count >= count):
                return
            if shot:
                self._rest(every - (time.monotonic() - started))

    def _classify(self, shot: Shot, again: Callable[[Shot], None]) -> None:
        try:
            answer = self.model.answer(shot.source)
        except ImageError as error:
            if shot.patient:
                again(shot)
                return
            self.tally.unreadable += 1
            self.printer.unreadable(shot, error)
        else:
            self.tally.add(answer)
            self.printer.answer(shot, answer)

    def _rest(self, seconds: float) -> None:
        """Sleep, in slices short enough for the watchdog and for a signal."""
        until = time.monotonic() + seconds
        while not self.stop.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, TICK_S))
            self.service.tell("WATCHDOG=1")


def classify(asked: argparse.Namespace, stop: Stop) -> int:
    """The whole run; ProgramError when it cannot go on, after the summary of what it did."""
    pack = load_pack(asked.pack)
    artifact = choose(pack, asked.target, asked.scheme, asked.force)
    if asked.folder:
        signatures(asked.folder)
    command = [] if asked.folder else camera_command(asked.camera_command, pack.preprocessing)
    program = Program(Model(pack, artifact, asked.threads, asked.top), Printer(asked.json), Service(), stop, Tally())
    program.printer.begin(pack, artifact)
    program.service.tell("READY=1")
    if command:
        _from_camera(program, command, asked)
    else:
        _from_folder(program, asked)
    return 0


def _from_folder(program: Program, asked: argparse.Namespace) -> None:
    watch = Watch(asked.folder)
    shots = watch.shots() if asked.watch else folder_once(asked.folder)
    try:
        program.run(shots, asked.every, asked.count, watch.again)
    finally:
        _end(program, None)
    if program.tally.unreadable and not program.tally.count and not asked.watch:
        raise ProgramError("folder", f"none of the images in {asked.folder} can be read", "give PNG or JPEG files")


def _from_camera(program: Program, command: list[str], asked: argparse.Namespace) -> None:
    with closing(Camera(command)) as camera:
        try:
            program.run(camera.shots(), asked.every, asked.count, lambda _: None)
        finally:
            _end(program, camera.dropped)


def _end(program: Program, dropped: int | None) -> None:
    program.service.tell("STOPPING=1")
    program.printer.summary(program.tally.summary(dropped))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad usage as every other failure: one line, exit code 2."""
        raise ProgramError("usage", message, "classify.py --help")


def _number(kind: type[T], least: float) -> Callable[[str], T]:
    def read(text: str) -> T:
        value = kind(text)  # type: ignore[call-arg]
        if not least <= float(value) < math.inf:  # type: ignore[arg-type]
            raise ValueError(text)
        return value

    read.__name__ = f"{kind.__name__} of at least {least:g}"
    return read


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = _Parser(prog="classify.py", description="Labels for photographs or camera frames, with a pack of edgepack.")
    made.add_argument("pack", type=Path, help="folder of the pack")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, help="classify the images of this folder")
    source.add_argument("--camera", action="store_true", help="classify frames of the Pi's camera (rpicam-vid or libcamera-vid)")
    source.add_argument("--camera-command", default="", metavar="COMMAND", help="any program that writes MJPEG to its output")
    made.add_argument("--watch", action="store_true", help="with --folder: go on with images that arrive")
    made.add_argument("--scheme", default="", help="default: w8a8 where it is there and passed, else fp32")
    made.add_argument("--target", default="", help="default: the first of the pack that ONNX Runtime runs")
    made.add_argument("--top", type=_number(int, 1), default=3, help="labels for each image (3)")
    made.add_argument("--threads", type=_number(int, 1), default=1, help="of the model (1, as 'edgepack bench' measures it)")
    made.add_argument("--every", type=_number(float, 0), default=0.0, metavar="SECONDS", help="at most one image in so many seconds")
    made.add_argument("--count", type=_number(int, 0), default=0, help="stop after so many images")
    made.add_argument("--force", action="store_true", help="run an artifact that failed its gate")
    made.add_argument("--json", action="store_true", help="a JSON object a line")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; every failure is one line on standard error."""
    stop = Stop()
    stop.listen()
    try:
        asked = parser().parse_args(arguments)
        if asked.watch and not asked.folder:
            raise ProgramError("usage", "--watch goes with --folder", "classify.py --help")
        return classify(asked, stop)
    except ProgramError as failure:
        print(failure, file=sys.stderr)
        return failure.code
    except BrokenPipeError:
        # Whoever read the lines has gone ("| head"). What Python flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
