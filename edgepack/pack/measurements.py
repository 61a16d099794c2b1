"""Measurements in a pack: ``measurements/<target>-<scheme>-<truth>-<created>.json``, a file each.

They are no part of what a build makes, so the manifest does not name them; each names the artifact it is of by its digest.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from edgepack.pack.checks import contradictions_of_measurement
from edgepack.pack.files import PackError, load_pack, locked
from edgepack.pack.manifest import SCHEMA, Measurement, Pack
from edgepack.text import cleaned

FOLDER = "measurements"
# A curve of three hours in stretches of a second is 0.5 MB.
_LARGEST = 2**20
# One a day for three years.
_MOST = 1000
# What names of files are made of here.
_UNUSUAL = re.compile(r"[^a-z0-9._-]+")
_AGAIN = "measure again with edgepack bench, or remove it"


def record(folder: Path, measurement: Measurement, at: Path | None = None) -> Path:
    """Put a measurement into the pack at ``folder``, whole or not at all; where it lies.

    A pack that is rebuilt at the same moment gets it too, or not: never half.

    Args:
        at: where it was put before more was found out; None for one that is new.

    Raises:
        PackError: the pack cannot be written, or its ``measurements`` is no folder.
    """
    try:
        place = folder.resolve()
        with locked(place.parent):
            return _put(place, measurement, at)
    except OSError as error:
        raise PackError(f"{folder} cannot take a measurement ({error.strerror})", "see that it is there and can be written") from error


def refuse_unwritable(folder: Path) -> None:
    """PackError where ``record`` could not put anything into a pack: to be known before an hour of measuring."""
    place = folder.resolve()
    try:
        with locked(place.parent):
            for each in (place, place / FOLDER):
                if each == place or os.path.lexists(each):
                    tempfile.TemporaryFile(dir=each).close()
    except OSError as error:
        raise PackError(
            f"{folder} cannot take a measurement ({error.strerror})", "see that it can be written, or give --no-save"
        ) from error


def held(folder: Path, pack: Pack) -> list[Measurement]:
    """The measurements of the pack's own artifacts, newest first; those of other builds are ignored.

    Raises:
        PackError: one is damaged, of another schema, a link or no plain file, which it names.
    """
    ours = {artifact.file.sha256 for artifact in pack.artifacts}
    found = [measurement for measurement in map(_read, _files(folder)) if measurement.artifact in ours]
    return sorted(found, key=_when, reverse=True)


def carry(old: Path, new: Path) -> None:
    """Copy what the pack at ``old`` holds of artifacts that the one at ``new`` has byte for byte; what cannot be read stays behind."""
    ours = {artifact.file.sha256 for artifact in load_pack(new).artifacts}
    with suppress(PackError):
        for path in _files(old):
            with suppress(PackError):
                measurement = _read(path)
                if measurement.artifact in ours:
                    _put(new, measurement)


def _put(folder: Path, measurement: Measurement, at: Path | None = None) -> Path:
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    if place.is_symlink():
        raise OSError(errno.ELOOP, f"{FOLDER} is a link")
    content = _written(measurement)
    if at is None:
        _make_room(place)
    path = at or _free(place, _name(measurement))
    scratch = place / f".{path.name}.{os.getpid()}"
    try:
        with scratch.open("xb") as file:
            file.write(content)
        scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _written(measurement: Measurement) -> bytes:
    """As JSON; PackError for one that nobody could read again, so that it never makes a pack unreadable."""
    content = msgspec.json.format(msgspec.json.encode(measurement), indent=1)
    wrong = next(contradictions_of_measurement(measurement), "it is too large" if len(content) > _LARGEST else "")
    if wrong:
        raise PackError(f"the measurement of {measurement.target} {measurement.scheme} cannot be kept: {wrong}", "report this")
    return content


def _make_room(place: Path) -> None:
    """Of as many as may be read, the one that was measured longest ago goes: their names end in the time."""
    found = [path for path in place.iterdir() if path.suffix == ".json" and not path.name.startswith(".")]
    for path in sorted(found, key=_time_in_name)[: max(0, len(found) - _MOST + 1)]:
        path.unlink()


def _time_in_name(path: Path) -> str:
    found = re.search(r"\d{8}T\d{6}Z", path.name)
    return found.group() if found else ""


def _name(measurement: Measurement) -> str:
    """Of letters that every file system takes, in view, sorted by artifact and time."""
    words = "-".join(part.lower()[:60] for part in (measurement.target, measurement.scheme, measurement.truth))
    return f"{_UNUSUAL.sub('_', words).lstrip('.')}-{_when(measurement):%Y%m%dT%H%M%SZ}"


def _free(place: Path, name: str) -> Path:
    """Two devices may measure one artifact within a second."""
    path, count = place / f"{name}.json", 1
    while path.exists() or path.is_symlink():
        count += 1
        path = place / f"{name}-{count}.json"
    return path


def _files(folder: Path) -> list[Path]:
    """Sorted; none when nothing was measured."""
    place = folder / FOLDER
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise PackError(f"{place} is a link, or no folder", "copy the measurements themselves into the pack")
    try:
        found = sorted(path for path in place.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PackError(f"{place} cannot be read ({error.strerror})", "copy the pack whole") from error
    if len(found) > _MOST:
        raise PackError(f"{place} holds {len(found)} files, more than anybody measures", "remove those that are none of yours")
    return found


def _read(path: Path) -> Measurement:
    try:
        content = _content(path)
        version = bytes(msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("schema", msgspec.Raw(b"null")))
        if version != str(SCHEMA).encode():
            raise PackError(f"{path} has schema {version[:40].decode()}, this edgepack reads {SCHEMA}", _AGAIN)
        measurement = cleaned(msgspec.json.decode(content, type=Measurement))
        _when(measurement)
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error.strerror})", _AGAIN) from error
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise PackError(f"{path} is damaged ({error})", _AGAIN) from error
    contradiction = next(contradictions_of_measurement(measurement), None)
    if contradiction:
        raise PackError(f"{path} contradicts itself: {contradiction}", _AGAIN)
    return measurement


def _content(path: Path) -> bytes:
    """OSError when it is no plain file (a pipe would never end) or too large for a measurement."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return file.read(_LARGEST)


def _when(measurement: Measurement) -> datetime.datetime:
    """ValueError (or OverflowError) where ``created`` is no time; one without a zone is UTC, as all are."""
    when = datetime.datetime.fromisoformat(measurement.created)
    return when.replace(tzinfo=datetime.UTC) if when.tzinfo is None else when.astimezone(datetime.UTC)
