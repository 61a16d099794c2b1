"""Named arrays on disk: .npz without pickles, the exchange form between steps and runners."""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.runner.contract import save_arrays as save_arrays

Arrays = dict[str, NDArray[Any]]

# What a small archive may unpack to, and how many times its size a large one: arrays of zeros compress a thousandfold, samples do not.
_MOST_UNPACKED, _LARGEST_RATIO = 2**28, 20


def load_arrays(path: Path) -> Arrays:
    """All arrays of a file, in memory.

    Raises:
        ValueError: an array claims more than the file holds, or the archive unpacks to many times its size; and what numpy raises.
    """
    refuse_claims(path)
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def refuse_claims(path: Path) -> None:
    """ValueError for an .npz or .npy whose headers promise other sizes than are there; numpy would allocate what they say."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            _refuse_claim(file, path.stat().st_size, path.name)
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > max(_MOST_UNPACKED, _LARGEST_RATIO * path.stat().st_size):
            raise ValueError("it unpacks to many times its size")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two of its arrays have one name")
        for member in members:
            with archive.open(member) as file:
                _refuse_claim(file, member.file_size, member.filename)


def _refuse_claim(file: IO[bytes], size: int, name: str) -> None:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} is of .npy version {version}")
    try:
        shape, _, dtype = read(file)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"the header of {name} is none") from error
    if any(length < 0 for length in shape) or dtype.itemsize * math.prod(shape) > size - file.tell():
        raise ValueError(f"{name} claims {dtype}{list(shape)[:8]}, more than it holds")


def stacked(rows: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """One mapping a sample -> one mapping with samples on a new first axis."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
