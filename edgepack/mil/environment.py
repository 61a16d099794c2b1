"""Importing coremltools quietly, and without the frameworks it probes for."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# coremltools imports each of these if it can, only for its own converters: 6 CPU seconds instead of 1.
_PROBED = ("torch", "sklearn", "xgboost", "tensorflow", "transformers")


@cache
def coremltools() -> Any:
    """The coremltools package, imported once in about a second.

    It must be the first import of coremltools in the process. Its loader warns seven times that Core ML itself is missing, and its
    pass manager draws progress bars: both are switched off, since neither tells a person anything to act on.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    os.environ.setdefault("TQDM_DISABLE", "1")
    with _hidden(_PROBED):
        return importlib.import_module("coremltools")


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Let ``tempfile`` put what coremltools makes for a moment into ``folder``, so that it goes with it however the process ends.

    For the whole process: not for use beside threads that make temporary files of their own.
    """
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Make ``import name`` fail for packages that are not imported yet."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
