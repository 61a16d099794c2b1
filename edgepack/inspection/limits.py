"""How much memory opening a file may take when nobody said: a file of a stranger must not take the machine with it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgepack.hub.external import content_of, external_tensors

# Every worker and runner opens the digits artifacts within 256 MiB; numpy and its like reserve buffers for each processor.
_BASE, _PER_PROCESSOR = 640 * 2**20, 64 * 2**20
# A model is held as bytes, as messages and as arrays, inferred, converted and written again: about 20 of its size at most were seen.
_PER_BYTE = 64
# Activations: a network of 64 channels at the size of its input, twice.
_PER_BYTE_OF_A_SAMPLE = 128


def default_bytes(path: Path, sample: int = 0) -> int:
    """What a step over ``path`` (a file or a folder) may allocate; ``sample`` is the size of an input that is run."""
    return _BASE + _PER_PROCESSOR * (os.cpu_count() or 1) + _PER_BYTE * _size(path) + _PER_BYTE_OF_A_SAMPLE * sample


def _size(path: Path) -> int:
    """Bytes of a file, with those a model keeps beside it, or of a folder; links are not followed."""
    if path.suffix == ".onnx" and path.is_file():
        return path.stat().st_size + sum(_plain_size(path.parent / name) for name in _beside(path))
    return sum(map(_plain_size, path.rglob("*") if path.is_dir() else [path]))


def _beside(model: Path) -> set[str]:
    try:
        return {held.location for held in external_tensors(content_of(model))}
    except (OSError, ValueError):  # whoever opens the model says what is wrong with it
        return set()


def _plain_size(path: Path) -> int:
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
