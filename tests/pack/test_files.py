"""Packs on disk: put in place whole or not at all, and opened with suspicion."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgepack.pack import files
from edgepack.pack.files import PackError, inside, load_pack, replacing
from edgepack.pack.manifest import FileRecord, Pack
from edgepack.student.spec import StudentDescription, TensorSpec

TENSOR = TensorSpec("x", "float32", (1, 2))
EMPTY = FileRecord("golden/inputs.npz", 0, "")
MANIFEST = Pack(
    schema=1,
    edgepack="0.1.0",
    created="2026-11-22T00:00:00+00:00",
    student=StudentDescription("cats", "student.py:student", (TENSOR,), (TENSOR,), None, ("cat",), "MIT", 3),
    hubs=(),
    calibration=None,
    ranges=None,
    constraints=None,
    golden_inputs=EMPTY,
    golden_outputs=EMPTY,
    golden_reference=EMPTY,
    artifacts=(),
    versions={},
)


def put(folder: Path, **changes: object) -> Path:
    """A pack at ``folder`` whose manifest has some fields changed."""
    folder.mkdir(exist_ok=True)
    (folder / "pack.json").write_text(json.dumps(msgspec.to_builtins(MANIFEST) | changes))
    return folder


def write(place: Path, word: str) -> None:
    """Build a pack that holds one word."""
    with replacing(place) as pack:
        put(pack)
        (pack / "word").write_text(word)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_pack_appears_whole_with_the_umasks_permissions(tmp_path: Path) -> None:
    write(tmp_path / "pack", "first")
    assert names(tmp_path) == ["pack"] and names(tmp_path / "pack") == ["pack.json", "word"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "pack").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_older_pack_is_replaced_whole(tmp_path: Path) -> None:
    put(tmp_path / "pack", schema=0)
    (tmp_path / "pack" / "left-over").touch()
    write(tmp_path / "pack", "second")
    assert names(tmp_path) == ["pack"] and names(tmp_path / "pack") == ["pack.json", "word"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_build_that_fails_leaves_the_old_pack_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    write(tmp_path / "pack", "first")
    with pytest.raises(error), replacing(tmp_path / "pack") as scratch:
        (scratch / "half").touch()
        raise error
    assert names(tmp_path) == ["pack"] and (tmp_path / "pack" / "word").read_text() == "first"


def test_an_interrupt_between_the_two_renames_puts_the_old_pack_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pack", "first")
    # As on a system that cannot exchange two folders.
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "pack", "second")
    assert len(calls) == 3 and names(tmp_path) == ["pack"] and (tmp_path / "pack" / "word").read_text() == "first"


def test_what_killed_builds_left_is_removed_and_what_others_work_in_or_own_is_not(tmp_path: Path) -> None:
    (tmp_path / ".pack.new-abcd_012").mkdir()
    (tmp_path / ".pack.new-mine").mkdir()
    (tmp_path / ".pack.new-abcdefgh").write_text("a file of the user's")
    with replacing(tmp_path / "pack") as one, replacing(tmp_path / "pack") as other:
        assert names(tmp_path) == sorted([".pack.new-abcdefgh", ".pack.new-mine", one.name, other.name])


def test_an_older_pack_that_a_killed_build_had_moved_away_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "pack", "first")
    (tmp_path / "pack").rename(tmp_path / ".pack.new-abcdefgh.old")
    with pytest.raises(KeyError), replacing(tmp_path / "pack"):
        raise KeyError
    assert names(tmp_path) == ["pack"] and (tmp_path / "pack" / "word").read_text() == "first"


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no room to write"), (errno.EROFS, "cannot be written")])
def test_a_folder_that_cannot_be_copied_into_a_pack_is_said_in_a_line(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.mlpackage").mkdir()
    (tmp_path / "model.mlpackage" / "weights.bin").touch()

    def fail(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number), source, None, target)

    with pytest.raises(PackError, match=words), replacing(tmp_path / "pack") as pack:
        shutil.copytree(tmp_path / "model.mlpackage", pack / "model.mlpackage", copy_function=fail)
    assert names(tmp_path) == ["model.mlpackage"]


@pytest.mark.parametrize("content", ['{"pack": {"pack_format": 34, "description": "of a game"}}', "[1]", "{", ""])
def test_a_folder_with_a_pack_json_of_another_program_is_not_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.json").write_text(content)
    with pytest.raises(PackError, match="exists and is not a pack"):
        write(tmp_path / "pack", "mine")
    assert (tmp_path / "pack" / "pack.json").read_text() == content and names(tmp_path) == ["pack"]


def test_a_file_and_a_folder_with_other_things_are_not_replaced_but_an_empty_folder_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").touch()
    for place in ("file", "folder"):
        with pytest.raises(PackError, match=f"{place} exists and is not a pack -> next: choose another folder with -o"):
            write(tmp_path / place, "word")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "word")
    assert names(tmp_path) == ["empty", "file", "folder"] and names(tmp_path / "folder") == ["thesis.txt"]


def test_what_appears_at_the_place_while_the_pack_is_built_is_not_deleted(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="exists and is not a pack"), replacing(tmp_path / "pack") as scratch:
        put(scratch)
        (tmp_path / "pack").mkdir()
        (tmp_path / "pack" / "thesis.txt").touch()
    assert names(tmp_path) == ["pack"] and names(tmp_path / "pack") == ["thesis.txt"]


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"folder .*absent does not exist -> next: create it"):
        write(tmp_path / "absent" / "pack", "word")


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PackError):
        write(tmp_path / "file" / "pack", "word")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot hold a pack"):
        write(tmp_path / ("p" * 300), "word")


@pytest.mark.parametrize("place", [".", "..", "../here"])
def test_the_working_folder_and_what_holds_it_are_not_replaced(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "here")
    put(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(PackError, match="cannot be replaced -> next: name a folder inside it"):
        write(Path(place), "word")
    assert names(tmp_path) == ["here", "pack.json"]


def test_a_link_to_a_pack_keeps_pointing_to_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "pack", "first")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "pack")
    write(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link" / "word").read_text() == "second"
    assert names(tmp_path) == ["disk", "link"] and names(tmp_path / "disk") == ["pack"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PackError, match="is not writable"):
        write(tmp_path / "pack", "word")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", place], check=False).returncode == 0
    )
    if not mounted:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_in_one_line_and_cleaned_up(tiny_disk: Path) -> None:
    with pytest.raises(PackError, match=r"no room to write .*No space left on device.* -> next: free some space"):
        write(tiny_disk / "pack", "x" * 2**20)
    assert names(tiny_disk) == []


def test_a_mount_point_is_refused_before_anything_is_built(tiny_disk: Path) -> None:
    with pytest.raises(PackError, match="mount point"):
        write(tiny_disk, "word")


def test_errors_of_the_block_that_are_not_about_room_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), replacing(tmp_path / "pack"):
        raise BrokenPipeError(errno.EPIPE, "the reader left")
    assert names(tmp_path) == []


def test_builds_at_the_same_time_leave_one_whole_pack(tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(8), []

    def build(word: str) -> None:
        try:
            with replacing(tmp_path / "pack") as pack:
                put(pack)
                for part in ("a", "b"):
                    (pack / part).write_text(word)
                barrier.wait()
        except BaseException as error:
            errors.append(error)

    builds = [threading.Thread(target=build, args=(str(index),)) for index in range(8)]
    for thread in builds:
        thread.start()
    for thread in builds:
        thread.join()
    assert errors == [] and names(tmp_path) == ["pack"]
    assert (tmp_path / "pack" / "a").read_text() == (tmp_path / "pack" / "b").read_text()


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert load_pack(put(tmp_path / "pack")) == MANIFEST


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "has schema 2, this edgepack reads 1 -> next: build the pack again"),
        ({"schema": None}, "has schema null, this edgepack reads 1"),
        ({"artifacts": [{"target": 3}]}, "is damaged"),
        ({"student": None}, "is damaged"),
    ],
)
def test_a_newer_or_damaged_manifest_is_refused(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=words):
        load_pack(put(tmp_path / "pack", **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"edgepack": "\xff"}', b"null", b"{}"])
def test_a_file_that_is_no_manifest_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_bytes(content)
    with pytest.raises(PackError):
        load_pack(tmp_path)


def test_a_folder_without_manifest_and_a_file_are_no_packs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(PackError, match=r"is not a pack .* -> next: give the folder that edgepack build wrote"):
            load_pack(place)


def test_paths_inside_a_pack_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pack", "word")
    monkeypatch.chdir(tmp_path)
    assert inside(Path("pack"), "word").read_text() == "word"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "link/../../secret", "nested/../../secret"])
def test_a_path_that_leaves_the_pack_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    pack = put(tmp_path / "pack")
    (pack / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(PackError, match="outside the pack -> next: do not trust this pack"):
        inside(pack, name)


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "loop"])
def test_a_name_that_is_no_path_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PackError):
        inside(put(tmp_path), name)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"the pack lacks android/model.tflite"):
        inside(put(tmp_path), "android/model.tflite")
