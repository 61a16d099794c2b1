"""The report of a pack as it lies on disk: what was built, what was measured of it since, and whether it keeps its budgets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgepack.latency.gate import checks
from edgepack.pack.files import PackError, load_pack, locked
from edgepack.pack.manifest import Measurement, Pack
from edgepack.pack.measurements import carry, held, record
from edgepack.pack.report import render

REPORT = "report.html"


def report(folder: Path, pack: Pack) -> str:
    """The HTML; PackError when a measurement in the pack is damaged, which it names."""
    measured = held(folder, pack)
    return render(pack, measured, checks(pack, measured))


def write_report(folder: Path, pack: Pack, path: Path | None = None) -> Path:
    """Write it into the pack, whole or not at all, or elsewhere; PackError where that cannot be."""
    place = path or folder / REPORT
    text = report(folder, pack)
    try:
        if path is None:
            _replace(place, text)
        else:
            place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PackError(f"{place} cannot be written ({error.strerror})", "choose another place with -o") from error
    return place


def _replace(place: Path, text: str) -> None:
    """In place of what is there: of a link the link itself, as the pack is a stranger's and may lead anywhere."""
    scratch = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with scratch.open("x", encoding="utf-8") as file:
            file.write(text)
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)


def refresh_report(folder: Path) -> None:
    """The report anew from what the pack holds by now: a build or another bench may have changed it meanwhile."""
    place = folder.resolve()
    with locked(place.parent):
        write_report(place, load_pack(place))


def carry_measurements(old: Path, new: Path) -> None:
    """Take along what was measured of artifacts that stay the same, byte for byte, and show it in the new pack's report."""
    carry(old, new)
    pack = load_pack(new)
    if held(new, pack):
        write_report(new, pack)


def keep(folder: Path, found: Iterable[Measurement]) -> None:
    """Put measurements into a pack, and write its report anew.

    Raises:
        PackError: it cannot be written.
    """
    for each in found:
        record(folder, each)
    refresh_report(folder)
