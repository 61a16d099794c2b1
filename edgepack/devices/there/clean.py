"""Remove what setting up leaves: the wheels as they were sent, and sites of earlier versions."""

import fcntl
import shutil
from pathlib import Path
from typing import Any, Dict  # noqa: UP035 - see the package


def answer(asked: Dict[str, Any]) -> Dict[str, int]:  # noqa: UP006
    """Of the folder ``base`` every site but ``keep``, and the folder ``wheels``; how many sites went."""
    base, keep = Path(asked["base"]), Path(asked["keep"])
    with (base / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = [path for path in base.glob("site-*") if path != keep]
        for path in old:
            shutil.rmtree(str(path), ignore_errors=True)
        shutil.rmtree(asked["wheels"], ignore_errors=True)
    return {"removed": len(old)}
