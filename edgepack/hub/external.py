"""Which other files an .onnx file reads, found in its bytes: no protobuf library and no copy of the weights.

Runtimes read these files themselves, so they are looked at before one gets the model. Field numbers: onnx.proto.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgepack.errors import InputError, one_line

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
# Message -> its fields that can hold a tensor, and what each is.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
# protobuf's own limit on nesting.
_DEEPEST = 100
# A network of a hundred thousand nodes has three million fields, which take three seconds.
_MOST_FIELDS = 5_000_000
# What protobuf can hold.
_LARGEST_FILE = 2**31
_LAST_BYTE_OF_A_VARINT = 63


class ModelFileError(InputError):
    """An .onnx file that cannot be read, or that reads files it must not."""


@dataclass(frozen=True)
class External:
    """Where a tensor outside the model lies: a path relative to the model, and bytes of that file."""

    location: str
    offset: int = 0
    length: int = 0


def external_tensors(content: bytes) -> Iterator[External]:
    """Every tensor of a serialized ModelProto that lies in another file; ValueError where the bytes are no protobuf."""
    pending, left = [("model", 0, len(content), 0)], _MOST_FIELDS
    while pending:
        kind, start, end, depth = pending.pop()
        if depth > _DEEPEST:
            raise ValueError("its graphs nest too deep")
        entries = {}
        for number, begin, stop in _fields(content, start, end):
            left -= 1
            if left < 0:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            inner = _FIELDS[kind].get(number)
            if inner == "entry":
                key, value = _entry(content, begin, stop)
                entries[key] = value
            elif inner is not None:
                pending.append((inner, begin, stop, depth + 1))
        if entries:
            yield External(entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0)))


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first, last + 1) of every length-delimited field."""
    place, numbers = start, 0
    while place < end:
        tag, place = _varint(content, place, end)
        wire = tag & 7
        if not tag >> 3:
            raise ValueError("it has a field of number 0")
        if wire != _BYTES:
            numbers += 1
            if numbers > _MOST_FIELDS:
                raise ValueError(f"it has more than {_MOST_FIELDS} numbers that are not packed")
        if wire == _VARINT:
            _, place = _varint(content, place, end)
        elif wire == _BYTES:
            size, place = _varint(content, place, end)
            if size > end - place:
                raise ValueError("it is cut off")
            yield tag >> 3, place, place + size
            place += size
        elif wire in _FIXED:
            place += _FIXED[wire]
        else:
            raise ValueError(f"it has a field of wire type {wire}")
    if place != end:
        raise ValueError("it is cut off")


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift <= _LAST_BYTE_OF_A_VARINT:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("it is cut off")


def _entry(content: bytes, start: int, end: int) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    held = {number: content[begin:stop].decode() for number, begin, stop in _fields(content, start, end)}
    return held.get(1, ""), held.get(2, "")


def refuse_foreign_files(path: Path, *, may_be_absent: bool = False) -> None:
    """What a model reads lies beside it.

    Args:
        may_be_absent: whether a file that is not there is none of the caller's business.

    Raises:
        ModelFileError: it names a file that is elsewhere, is a link, is not there, or is shorter than the model says.
    """
    for held in _external_of(path):
        if not may_be_absent or os.path.lexists(path.parent / held.location):
            _refuse_elsewhere(held, path)
        elif _leaves(held.location):
            raise _outside(held, path)


def refuse_any_file(path: Path) -> None:
    """ModelFileError for a model that keeps weights elsewhere: the artifact of a pack is one file, and its digest is over that file."""
    for held in _external_of(path):
        raise ModelFileError(f"{path.name} keeps weights in another file ({held.location[:80]!r})", "build the pack again")


def _external_of(path: Path) -> set[External]:
    try:
        return set(external_tensors(content_of(path)))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is not a valid ONNX model ({one_line(error)})", "it is damaged, or none: export it again") from error


def content_of(path: Path) -> bytes:
    """A serialized model; OSError for what is no plain file, or is larger than one can be."""
    if not path.is_file():
        raise OSError("it is no file")
    if path.stat().st_size > _LARGEST_FILE:
        raise OSError("it has more bytes than an ONNX file can")
    return path.read_bytes()


def _refuse_elsewhere(held: External, model: Path) -> None:
    """Neither the name nor a link on the way may leave the model's folder."""
    file = model.parent / held.location
    try:
        found = file.lstat()
        inside = not _leaves(held.location) and file.resolve().is_relative_to(model.parent.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        cause = f"{model.name} keeps weights in {held.location[:80]!r}, which cannot be read ({one_line(error)})"
        raise ModelFileError(cause, _BESIDE) from error
    if not inside or not stat.S_ISREG(found.st_mode):
        raise _outside(held, model)
    if held.offset < 0 or held.length < 0 or held.offset + held.length > found.st_size:
        raise ModelFileError(f"{model.name} keeps weights in {held.location[:80]!r}, past the end of that file", "copy both files again")


def _leaves(location: str) -> bool:
    return not location or Path(location).is_absolute() or ".." in Path(location).parts


def _outside(held: External, model: Path) -> ModelFileError:
    return ModelFileError(f"{model.name} keeps weights in {held.location[:80]!r}, outside its folder or behind a link", _BESIDE)


_BESIDE = "put the file of weights beside the model, as a file of its own"
