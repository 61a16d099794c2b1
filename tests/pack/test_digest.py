"""Digests: what sha256sum says, whatever the order files were made in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgepack.pack.digest import file_record, intact
from edgepack.pack.files import PackError

CONTENTS = {"Manifest.json": b"{}", "Data/weights/weight.bin": bytes(range(256)), "Data.txt": b"", "a/b": b"c"}


@dataclass(frozen=True)
class Package:
    pack: Path
    path: Path


def package(pack: Path, names: list[str], contents: dict[str, bytes] = CONTENTS) -> Package:
    """A folder whose files were made in this order."""
    path = pack / "ios" / "model.mlpackage"
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(contents[name])
    return Package(pack, path)


def test_a_files_record_is_its_sha256_size_and_path_in_the_pack(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "fp32.onnx").write_bytes(b"abc")
    record = file_record(tmp_path, tmp_path / "hub" / "fp32.onnx")
    assert (record.path, record.bytes, record.sha256) == ("hub/fp32.onnx", 3, hashlib.sha256(b"abc").hexdigest())


def test_a_folders_digest_does_not_depend_on_the_order_its_files_were_made_in(tmp_path: Path) -> None:
    made = [package(tmp_path / str(index), names) for index, names in enumerate((sorted(CONTENTS), sorted(CONTENTS, reverse=True)))]
    first, second = (file_record(each.pack, each.path) for each in made)
    assert first == second and first.bytes == 259


@pytest.mark.parametrize(
    "other",
    [
        {**CONTENTS, "a/b": b"d"},
        {**{name: held for name, held in CONTENTS.items() if name != "a/b"}, "a/c": b"c"},
        {**CONTENTS, "empty": b""},
        {**CONTENTS, "Data.txt": b"{}", "Manifest.json": b""},
    ],
    ids=["content", "name", "one more", "swapped"],
)
def test_any_other_content_or_name_gives_another_digest(other: dict[str, bytes], tmp_path: Path) -> None:
    one, two = package(tmp_path / "one", list(CONTENTS)), package(tmp_path / "two", list(other), other)
    assert file_record(one.pack, one.path).sha256 != file_record(two.pack, two.path).sha256


def test_bytes_that_move_from_one_file_to_the_next_change_the_digest(tmp_path: Path) -> None:
    digests = set()
    for index, (first, second) in enumerate(((b"ab", b"c"), (b"a", b"bc"))):
        made = package(tmp_path / str(index), ["a", "b"], {"a": first, "b": second})
        digests.add(file_record(made.pack, made.path).sha256)
    assert len(digests) == 2


def test_a_recorded_file_is_found_while_it_is_the_one_that_was_recorded(tmp_path: Path) -> None:
    made = package(tmp_path, list(CONTENTS))
    record = file_record(tmp_path, made.path)
    assert intact(tmp_path, record) == made.path.resolve()
    (made.path / "a" / "b").write_bytes(b"d")
    with pytest.raises(PackError, match=r"ios/model.mlpackage is not the file that was verified: its digest differs -> next: build"):
        intact(tmp_path, record)
    with pytest.raises(PackError, match="outside the pack"):
        intact(tmp_path, replace(record, path="../x"))
