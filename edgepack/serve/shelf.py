"""What of a pack is given out to a visitor: its plan, artifacts that are still those that were verified, and golden inputs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgepack.pack.digest import intact
from edgepack.pack.files import PackError
from edgepack.pack.manifest import FileRecord
from edgepack.serve import subjects
from edgepack.serve.messages import PlannedFile
from edgepack.serve.subjects import Served


class Shelf:
    """One kind of visitor's part of a pack."""

    def __init__(self, held: Served) -> None:
        self.held = held
        plan = subjects.plan(held)
        self.plan = msgspec.json.encode(plan)
        self._records = {subject.artifact.file.sha256: subject.artifact.file for subject in held.subjects}
        self._files = {f"{each.sha256}/{file.path}": (each.sha256, file) for each in plan.subjects for file in each.files}
        self._inputs = {f"{each.id}/{index}": (each, index) for each in held.subjects for index in range(len(each.artifact.inputs))}

    def artifact(self, name: str) -> bytes:
        """A file by its digest, or one of a folder by the folder's digest and its path in there.

        Raises:
            KeyError: there is none. PackError: it is not the one that was verified.
        """
        folder = self.held.pack.folder
        if name in self._files:
            digest, file = self._files[name]
            return _part_as_verified(folder, self._records[digest], file)
        record = self._records[name]
        if any(held.startswith(f"{name}/") for held in self._files):
            raise KeyError(name)
        return _as_verified(folder, record)

    def inputs(self, name: str) -> bytes:
        """One input's golden samples, by subject and number; KeyError where there is none."""
        return subjects.input_bytes(*self._inputs[name])


def _as_verified(folder: Path, record: FileRecord) -> bytes:
    """A file's bytes, which are those of the digest: what is read is what is looked at."""
    content = intact(folder, record).read_bytes()
    return _held_to(record.sha256, content, record.path)


def _part_as_verified(folder: Path, record: FileRecord, file: PlannedFile) -> bytes:
    """The same of one file of a folder, whose own digest was taken when the whole was verified."""
    content = (intact(folder, record) / file.path).read_bytes()
    return _held_to(file.sha256, content, f"{record.path}/{file.path}")


def _held_to(digest: str, content: bytes, name: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise PackError(f"{name} is not the file that was verified: its digest differs", "build the pack again, or copy it whole")
    return content
