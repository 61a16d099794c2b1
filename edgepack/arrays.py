"""Named arrays on disk: .npz without pickles, the exchange form between steps and runners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.runner.contract import save_arrays as save_arrays

Arrays = dict[str, NDArray[Any]]


def load_arrays(path: Path) -> Arrays:
    """All arrays of a file, in memory."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def stacked(rows: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """One mapping a sample -> one mapping with samples on a new first axis."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
