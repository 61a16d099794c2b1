"""Files of this device: how long they are and, where asked, what they hold."""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, Dict  # noqa: UP035 - see the package

_CHUNK = 2**20


def answer(asked: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    """``make``: a folder to create; ``remove``: files to remove; then, of each of ``paths``, size (-1: none) and, with ``digest``, sha256.

    ``free`` is what the folder of the first path, or ``make``, has left for this user, in bytes.
    """
    if asked.get("make"):
        os.makedirs(asked["make"], mode=0o700, exist_ok=True)  # noqa: PTH103 - mode of every level
    for path in asked.get("remove", ()):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as below
    paths = asked["paths"]
    place = asked.get("make") or os.path.dirname(paths[0])  # noqa: PTH120 - paths stay text, as they came
    return {
        "sizes": [_size(path) for path in paths],
        "digests": [_digest(path) for path in paths] if asked.get("digest") else [],
        "free": shutil.disk_usage(place).free,
    }


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except FileNotFoundError:
        return -1


def _digest(path: str) -> str:
    """Its sha256, "" when there is no such file."""
    found = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                found.update(chunk)
    except FileNotFoundError:
        return ""
    return found.hexdigest()
