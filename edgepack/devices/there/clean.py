"""End a set-up: a link that always leads to the newest site, no wheels as they were sent, one site of earlier versions at most."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any, Dict  # noqa: UP035 - see the package


def answer(asked: Dict[str, Any]) -> Dict[str, int]:  # noqa: UP006
    """In the folder ``base``: let the link ``site`` lead to ``keep``, remove other sites and the folder ``wheels``; how many went.

    The newest of the others stays: two hosts with different versions would each remove what the other one needs.

    The link is for programs of the user's own, which find their packages with ``PYTHONPATH=~/.cache/edgepack/site``.
    """
    base, keep = Path(asked["base"]), Path(asked["keep"])
    with (base / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = base / "link-of-site"
        if new.is_symlink():
            new.unlink()
        new.symlink_to(keep.name)
        os.replace(str(new), str(base / "site"))  # noqa: PTH105 - Path.replace returns nothing before Python 3.8
        others = sorted((path for path in base.glob("site-*") if path != keep), key=lambda each: -each.stat().st_mtime)
        old = others[1:]
        for path in old:
            shutil.rmtree(str(path), ignore_errors=True)
        shutil.rmtree(asked["wheels"], ignore_errors=True)
    return {"removed": len(old)}
