"""Folders of the user's cache that take long to make: each appears whole or not at all, and is made once."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def made(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, made now where it is not there; one that another process is making is waited for.

    Args:
        fill: makes the folder it is given, which lies beside and is renamed.

    Raises:
        OSError: the place cannot be written; and what ``fill`` raises, after which nothing is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        with _alone(folder.parent):
            if not folder.is_dir():
                _make_beside(folder, fill)
    return folder


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    with (place / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_beside(folder: Path, fill: Callable[[Path], None]) -> None:
    """Under the lock, so whatever lies beside is of a process that was killed."""
    beside = folder.with_name(f"{folder.name}.partial")
    for leftover in folder.parent.glob("*.partial"):
        shutil.rmtree(leftover)
    try:
        fill(beside)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
