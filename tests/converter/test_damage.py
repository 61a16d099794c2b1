"""What the fault harness found in the store and the executor, one claim each."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from edgepack.converter.execute import Manner, Results, execute
from edgepack.converter.store import BuildRecord, Store, StoreError, explained, opened, prune
from tests.faults.driver import Teller
from tests.faults.steps import plan
from tests.faults.world import tagged


@pytest.fixture
def told(tmp_path: Path) -> Path:
    path = tmp_path / "told.txt"
    path.write_text("told once")
    return path


def build(store: Path, told: Path, moods: dict[str, str] | None = None, seconds: dict[str, float] | None = None) -> Results:
    """Run the sample plan on a store."""
    with opened(store) as held:
        return execute(plan(7, told, moods or {}, seconds or {}, {}), held, Teller(), Manner(2))


def entry_folder(results: Results, step: str) -> Path:
    key = results.entries[step].key
    return results.store.root / "entries" / key[:2] / key


def flip(path: Path) -> bytes:
    """Change one bit; the bytes that were there."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    return content


def test_a_flipped_bit_in_what_a_step_that_always_runs_wrote_before_does_not_pass_for_what_it_writes_now(
    tmp_path: Path, told: Path
) -> None:
    first = build(tmp_path / "store", told)
    written = entry_folder(first, "tell") / "files" / "told.txt"
    content = flip(written)
    shutil.rmtree(entry_folder(first, "join"))
    second = build(tmp_path / "store", told)
    assert written.read_bytes() == content
    assert second.entries["join"].outputs == first.entries["join"].outputs


def test_steps_at_work_on_an_entry_that_is_found_damaged_run_again(tmp_path: Path, told: Path) -> None:
    first = build(tmp_path / "store", told)
    flip(entry_folder(first, "draw") / "files" / "small.txt")
    for step in ("stretch", "package", "join"):
        shutil.rmtree(entry_folder(first, step))
    # Stretch reads the sound output of the entry after package found the other one damaged.
    second = build(tmp_path / "store", told, seconds={"stretch": 0.5})
    assert {name: entry.outputs for name, entry in second.entries.items()} == {name: entry.outputs for name, entry in first.entries.items()}


@pytest.mark.parametrize("level", ["entry", "prefix", "link"])
def test_what_is_no_folder_in_the_place_of_an_entry_gives_way(level: str, tmp_path: Path, told: Path) -> None:
    first = build(tmp_path / "store", told)
    place = entry_folder(first, "package")
    place = place.parent if level == "prefix" else place
    shutil.rmtree(place)
    place.symlink_to("/nowhere/at/all") if level == "link" else place.write_text("no folder")
    assert build(tmp_path / "store", told).entries["package"].outputs == first.entries["package"].outputs
    assert entry_folder(first, "package").is_dir()


def test_a_description_of_thousands_of_brackets_is_a_damaged_one(tmp_path: Path, told: Path) -> None:
    first = build(tmp_path / "store", told)
    deep = b'{"sha256":"","entry":' + b"[" * 300_000
    (entry_folder(first, "join") / "entry.json").write_bytes(deep)
    (tmp_path / "store" / "builds").mkdir()
    (tmp_path / "store" / "builds" / "name.json").write_bytes(b'{"steps":{"a":' + b"[" * 300_000)
    assert "join" in build(tmp_path / "store", told).ran
    assert Store(tmp_path / "store", None).last_build("name") == BuildRecord()


def test_a_file_system_without_locks_is_worked_on_without(tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    at_work = tmp_path / "store" / "tmp" / "another build's"
    at_work.mkdir(parents=True)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert len(build(tmp_path / "store", told).entries) == 7
    assert at_work.is_dir()
    with pytest.raises(StoreError, match="cannot be locked"):
        prune(Store(tmp_path / "store", None), None, 0, 0.0)


def test_an_entry_that_may_not_be_looked_at_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with opened(tmp_path / "store") as store:
        monkeypatch.setattr(Path, "is_dir", refuse)
        assert store.find("ab" * 32) is None


def test_no_place_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(StoreError, match="no place for temporary files"), opened(None):
        pass


def test_a_folder_that_found_no_room_is_a_full_disk() -> None:
    with pytest.raises(StoreError) as caught, explained(Path("store")):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])
    assert "free some space" in caught.value.hint


@pytest.mark.parametrize("mood", ["leave child", "leave child apart", "leave daemon"])
def test_what_a_step_leaves_running_is_ended_with_it(mood: str, tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPACK_FAULT", str(tmp_path))
    build(tmp_path / "store", told, {"draw": mood})
    assert not tagged(str(tmp_path))
