"""The C runner's side of the contract: requests as lines, tensors as plain bytes (edgepack/runner/native/request.h)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgepack.arrays import Arrays
from edgepack.devices.runner_process import Request, RunnerError

# What the runner passes on; it refuses the rest by name.
_DTYPES = frozenset(
    "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()  # noqa: SIM905
)
_NUMBERS = ("schema", "threads", "warm_up", "pairs", "inner", "warm_up_seconds", "seconds")
_BROKEN = "try again; if it happens again, report it: the runner is not this edgepack's"


_Count = Annotated[int, Meta(ge=0, le=2**62)]


class _Array(msgspec.Struct, frozen=True):
    """Where one array of the outputs lies: ``stride`` bytes from sample to sample, each of ``shape``."""

    name: Annotated[str, Meta(max_length=1000)]
    dtype: str
    offset: _Count
    stride: _Count
    shape: Annotated[list[_Count], Meta(max_length=8)]


class Answer(msgspec.Struct, frozen=True):
    """What the C runner says beside the contract's response."""

    count: _Count = 0
    arrays: list[_Array] = []
    peak_bytes: _Count = 0
    cpu_seconds: Annotated[float, Meta(ge=0, le=1e12)] = 0.0


def request_lines(request: Request, runtime: str, feed: Arrays, silence: float = 0.0) -> bytes:
    """The request file.

    Args:
        request: its artifacts, inputs and outputs are paths on the device.
        runtime: path of the library there.
        feed: stacked inputs; empty for "describe".
        silence: seconds without a word after which a tethered runner leaves; 0 for never.

    Raises:
        RunnerError: a name that cannot be written, or arrays that the runner does not pass.
    """
    lines: list[tuple[Any, ...]] = [
        ("action", request.action),
        ("runtime", runtime),
        ("tethered", int(request.tethered)),
        ("silence", silence),
    ]
    lines += [(name, getattr(request, name)) for name in _NUMBERS]
    lines += [("artifact", label, path) for label, path in request.artifacts.items()]
    if feed:
        lines += [("samples", _samples(feed)), ("inputs", request.inputs), ("outputs", request.outputs)]
        lines += [("input", name, _dtype(name, array), *array.shape[1:]) for name, array in feed.items()]
    return b"".join(_line(line) for line in lines)


def _line(fields: tuple[Any, ...]) -> bytes:
    words = [str(field) for field in fields]
    for word in words:
        if not word or any(letter in word for letter in "\t\n\r\0"):
            raise RunnerError(f"the name {word!r} cannot be told to the runner", "give the model's inputs plain names")
    return "\t".join(words).encode() + b"\n"


def _samples(feed: Arrays) -> int:
    counts = {len(array) for array in feed.values()}
    if len(counts) != 1:
        raise RunnerError(f"inputs hold different numbers of samples: {sorted(counts)}", "give each input as many")
    return counts.pop()


def _dtype(name: str, array: np.ndarray[Any, Any]) -> str:
    if array.dtype.name not in _DTYPES:
        raise RunnerError(f"input '{name}' is {array.dtype}, which the runner does not pass", f"use one of {', '.join(sorted(_DTYPES))}")
    return str(array.dtype.name)


def input_bytes(feed: Arrays) -> bytes:
    """The bytes of all inputs, little-endian, in the order of ``request_lines``."""
    return b"".join(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in feed.values())


def answer_of(said: str) -> Answer:
    """What is told beside the response; RunnerError when it is none."""
    try:
        return msgspec.json.decode(said.strip().splitlines()[-1], type=Answer)
    except (msgspec.MsgspecError, IndexError, RecursionError) as error:
        raise RunnerError(f"the runner's answer cannot be read ({error})", _BROKEN) from error


def output_arrays(answer: Answer, content: bytes) -> Arrays:
    """The arrays that an answer describes, stacked; RunnerError when the bytes are not those."""
    return {array.name: _array(array, answer.count, content) for array in answer.arrays}


def _array(described: _Array, count: int, content: bytes) -> np.ndarray[Any, Any]:
    if described.dtype not in _DTYPES:
        raise RunnerError(f"output '{described.name}' is {described.dtype}, which is not passed here", _BROKEN)
    dtype = np.dtype(described.dtype).newbyteorder("<")
    size = dtype.itemsize * math.prod(described.shape)
    last = described.offset + described.stride * (count - 1) + size
    if count < 1 or described.stride < size or last > len(content):
        raise RunnerError(f"output '{described.name}' is not in the {len(content)} bytes that came", _BROKEN)
    strides = (described.stride, *_strides(described.shape, dtype.itemsize))
    found = np.ndarray((count, *described.shape), dtype, content, described.offset, strides)
    return np.ascontiguousarray(found, found.dtype.newbyteorder("="))


def _strides(shape: list[int], size: int) -> tuple[int, ...]:
    """Bytes between neighbours of each axis, the last one's side by side."""
    return tuple(size * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def paths(artifacts: Mapping[str, str], request: Request, inputs: str, outputs: str) -> Request:
    """The request with what lies where on the device."""
    return msgspec.structs.replace(request, artifacts=dict(artifacts), inputs=inputs, outputs=outputs)
