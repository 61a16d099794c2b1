"""Reading flatbuffers of strangers with generated classes, which check no lengths."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A file's own vectors and strings hold no more elements than it has bytes; each is asked for its length a few times.
_READS, _FREE = 16, 2**20


# Where the table Model keeps external_buffer_groups and external_buffers (schema.fbs: its ninth and tenth field; the first is at 4).
_EXTERNAL = (20, 22)


def keeps_weights_elsewhere(content: bytes) -> bool:
    """Whether a .tflite names files that hold its weights; False also for bytes that are none, which a runtime refuses."""
    from flatbuffers.table import Table

    try:
        root = Table(content, int.from_bytes(content[:4], "little"))
        return any(root.Offset(place) for place in _EXTERNAL)
    except (struct.error, TypeError, IndexError, ValueError):
        return False


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Inside the block, vectors and strings of a file of ``size`` bytes may not add up to many times the file.

    Tables may share a vector, so a small file can describe one that takes days to read: 10^5 tensors with one shape of 10^5 axes. For
    the whole process: not for use beside threads that read flatbuffers of their own.

    Raises:
        ValueError: they do.
    """
    from flatbuffers.table import Table

    left = _READS * size + _FREE
    length, text = Table.VectorLen, Table.String

    def spend(count: int) -> None:
        nonlocal left
        left -= count + 1
        if left < 0:
            raise ValueError("its parts add up to many times its size")

    def counted_length(table: Any, offset: Any) -> Any:
        found = length(table, offset)
        spend(int(found))
        return found

    def counted_text(table: Any, offset: Any) -> Any:
        found = text(table, offset)
        spend(len(found))
        return found

    Table.VectorLen, Table.String = counted_length, counted_text
    try:
        yield
    finally:
        Table.VectorLen, Table.String = length, text
