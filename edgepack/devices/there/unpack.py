"""Wheels become a folder that Python can import from, without pip, root or a network: a wheel is a zip archive."""

import fcntl
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any, Dict, List  # noqa: UP035 - see the package


def answer(asked: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    """Unpack ``wheels`` into the folder ``site`` and complete it with ``record`` as the file ``name``.

    It is built beside and renamed, so a site that exists is whole; one that a killed run left unfinished is removed.
    """
    site = Path(asked["site"])
    with (site.parent / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in site.parent.glob("new-site-*"):
            shutil.rmtree(str(left))
        new = site.with_name("new-" + site.name)
        try:
            _build(asked, new)
        except BaseException:
            shutil.rmtree(str(new), ignore_errors=True)
            raise
        if site.exists():
            shutil.rmtree(str(site))
        os.rename(str(new), str(site))  # noqa: PTH104 - Path.rename returns nothing before Python 3.8
    return {}


def unpack(wheels: List[str], folder: Path) -> None:  # noqa: UP006
    """Everything of these wheels that Python imports, in a new folder."""
    folder.mkdir()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(str(folder))
    _merge_data(folder)


def _build(asked: Dict[str, Any], new: Path) -> None:  # noqa: UP006
    unpack(asked["wheels"], new)
    (new / asked["name"]).write_text(json.dumps(asked["record"]), encoding="utf-8")


def _merge_data(new: Path) -> None:
    """``x.data/purelib`` and ``x.data/platlib`` belong beside the rest (PEP 427); scripts and headers have no use here."""
    for data in new.glob("*.data"):
        for library in (data / "purelib", data / "platlib"):
            for each in library.iterdir() if library.is_dir() else ():
                shutil.move(str(each), str(new / each.name))
        shutil.rmtree(str(data))
