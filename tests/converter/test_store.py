"""The store: what was published is found whole or not at all, whatever happens to the disk and whoever else is at work."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgepack.converter import store as stores
from edgepack.converter.keys import KeyRecord
from edgepack.converter.process import Cancelled, Cost
from edgepack.converter.store import BuildRecord, Entry, Store, StoreError, damaged, default_place, opened, prune, trim

COST = Cost(1.5, 2**20)
FILES: dict[str, object] = {"a.bin": b"\x01" * 1000, "b.json": b"{}"}
PACKAGE: dict[str, object] = {"model.mlpackage": {"Manifest.json": b"{}", "Data/weight.bin": b"\x05" * 300}}


def record(name: str = "one") -> KeyRecord:
    return KeyRecord({"function": "room:step", "parameter name": name})


def lay(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.mkdir()
            lay(path, content)  # type: ignore[arg-type]


def publish(store: Store, name: str = "one", files: dict[str, object] = FILES, by_content: bool = False) -> Entry:
    """What a step does at its end."""
    with store.scratch() as folder:
        lay(folder / "out", files)
        (folder / "log.txt").write_text("said")
        return store.publish(folder, f"step {name}", record(name), tuple(files), COST, by_content)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "store") as held:
        yield held


def fresh(store: Store) -> Store:
    """The same store as another build sees it, which has checked nothing yet."""
    return Store(store.root, None)


def folder_of(store: Store, entry: Entry) -> Path:
    return store.path(entry, next(iter(entry.outputs))).parents[1]


def writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


# ---- publish and find


def test_what_was_published_is_found_by_a_later_build_with_its_parts_cost_and_log(store: Store) -> None:
    published = publish(store)
    found = fresh(store).find(record().key)
    assert found == published and found is not None
    assert (found.step, found.parts, found.cost) == ("step one", record().parts, COST)
    assert {name: fresh(store).path(found, name).read_bytes() for name in found.outputs} == FILES
    assert fresh(store).log(found).read_text() == "said"
    assert found.bytes == 1002 and all(fresh(store).check(found, name) for name in found.outputs)
    assert not list((store.root / "tmp").iterdir())


def test_another_key_is_not_found(store: Store) -> None:
    publish(store)
    assert store.find(record("two").key) is None


def test_what_the_step_left_beside_its_outputs_is_not_kept(store: Store) -> None:
    with store.scratch() as folder:
        lay(folder / "out", {**FILES, "left.tmp": b"x"})
        (folder / "log.txt").touch()
        entry = store.publish(folder, "step", record(), tuple(FILES), COST)
    assert sorted(path.name for path in (folder_of(store, entry) / "files").iterdir()) == sorted(FILES)


def test_outputs_cannot_be_written_to_by_accident(store: Store) -> None:
    entry = publish(store, files={**FILES, **PACKAGE})
    files = [path for path in (folder_of(store, entry) / "files").rglob("*") if path.is_file()]
    assert len(files) == 4 and all(path.stat().st_mode & 0o777 == 0o444 for path in files)


def test_an_output_that_depends_on_what_nobody_declared_is_kept_under_its_content(store: Store) -> None:
    one = publish(store, "look", {"x": b"1"}, by_content=True)
    same = publish(store, "look", {"x": b"1"}, by_content=True)
    other = publish(store, "look", {"x": b"2"}, by_content=True)
    assert one.key == same.key != other.key and record("look").key not in (one.key, other.key)


def test_many_builds_that_publish_one_key_leave_one_whole_entry(tmp_path: Path) -> None:
    root, found, begin = tmp_path / "store", [], threading.Barrier(8)

    def build(number: int) -> None:
        with opened(root) as store:
            begin.wait()
            for turn in range(5):
                found.append(publish(store, f"turn {turn}"))

    threads = [threading.Thread(target=build, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 40 and len({entry.key for entry in found}) == 5
    with opened(root) as store:
        assert len(store.entries()) == 5 and damaged(store, lambda *_: None) == []
        assert not list((root / "tmp").iterdir())


def test_a_build_that_is_overtaken_between_two_looks_takes_what_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, look, overtaken = publish(store), stores._is_folder, []
    there = folder_of(store, first)

    def blind_once(path: Path) -> bool:
        if path == there and not overtaken:
            overtaken.append(path)
            return False
        return look(path)

    monkeypatch.setattr(stores, "_is_folder", blind_once)
    assert publish(Store(store.root, None)) == first and overtaken


# ---- damage


def damages() -> dict[str, Callable[[Path], object]]:
    """What may happen to an entry's description or make an output shorter: noticed without reading every byte."""
    return {
        "no description": lambda folder: (folder / "entry.json").unlink(),
        "an empty description": lambda folder: (folder / "entry.json").write_bytes(b""),
        "half a description": lambda folder: os.truncate(folder / "entry.json", 100),
        "no UTF-8": lambda folder: (folder / "entry.json").write_bytes(b"\xff\xfe"),
        "one letter of it": lambda folder: _replace(folder / "entry.json", b"step one", b"step two"),
        "another digest": lambda folder: _replace(folder / "entry.json", b'"bytes":1000', b'"bytes":1001'),
        "a missing output": lambda folder: (folder / "files" / "a.bin").unlink(),
        "a truncated output": lambda folder: os.truncate(writable(folder / "files" / "a.bin"), 999),
        "a longer output": lambda folder: writable(folder / "files" / "a.bin").write_bytes(b"\x01" * 1001),
        "no files": lambda folder: (folder / "files").rename(folder / "lost"),
    }


def _replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("what", damages())
def test_a_damaged_entry_is_none_and_gone_and_can_be_published_again(what: str, store: Store) -> None:
    entry = publish(store)
    folder = folder_of(store, entry)
    damages()[what](folder)
    other = fresh(store)
    assert other.find(entry.key) is None and not folder.exists()
    again = publish(other)
    assert again == fresh(store).find(entry.key) and fresh(store).check(again, "a.bin")


def test_one_flipped_bit_is_found_by_a_check_and_by_looking_for_damage(store: Store) -> None:
    entry = publish(store)
    path = writable(store.path(entry, "a.bin"))
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[500] ^= 0x10
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    other = fresh(store)
    assert other.find(entry.key) == entry and not other.check(entry, "a.bin") and other.check(entry, "b.json")
    ((step, words, folder),) = damaged(fresh(store), lambda *_: None)
    assert (step, words, folder) == ("step one", "a.bin is not what was written", folder_of(store, entry))


def test_publishing_over_an_entry_with_a_flipped_bit_replaces_it(store: Store) -> None:
    """A step whose key is its content runs each time: what it wrote must not be taken for the damaged bytes that lie there."""
    for by_content in (True, False):
        entry = publish(store, "look", by_content=by_content)
        writable(store.path(entry, "a.bin")).write_bytes(b"\x02" * 1000)
        other = fresh(store)
        again = publish(other, "look", by_content=by_content)
        assert other.check(again, "a.bin") and fresh(store).path(again, "a.bin").read_bytes() == FILES["a.bin"]


def _package(store: Store, entry: Entry) -> Path:
    return store.path(entry, "model.mlpackage")


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "Data/weight.bin").rename(package / "Data/weights.bin"),
        lambda package: (package / "Data/weight.bin").rename(package / "weight.bin"),
        lambda package: (package / "more.bin").write_bytes(b""),
        lambda package: (package / "Data/weight.bin").unlink(),
        lambda package: writable(package / "Data/weight.bin").write_bytes(b"\x05" * 299 + b"\x06"),
        lambda package: writable(package / "Manifest.json").write_bytes(b"[]"),
    ],
    ids=["renamed", "moved", "added", "removed", "last byte", "same size"],
)
def test_a_folder_is_good_only_with_exactly_its_files(change: Callable[[Path], object], store: Store) -> None:
    entry = publish(store, files=PACKAGE)
    assert fresh(store).check(entry, "model.mlpackage")
    change(_package(store, entry))
    assert not fresh(store).check(entry, "model.mlpackage")


def test_the_time_of_a_file_in_a_folder_says_nothing(store: Store) -> None:
    entry = publish(store, files=PACKAGE)
    os.utime(_package(store, entry) / "Manifest.json", (0, 0))
    assert fresh(store).check(entry, "model.mlpackage")


def test_a_folder_that_is_a_file_now_and_a_file_that_is_a_folder_are_damage(store: Store) -> None:
    entry = publish(store, files={**FILES, **PACKAGE})
    store.path(entry, "b.json").unlink()
    store.path(entry, "b.json").mkdir()
    assert not fresh(store).check(entry, "b.json")


def test_an_entry_under_the_wrong_key_is_not_found_and_reported(store: Store) -> None:
    entry = publish(store)
    place = store.root / "entries" / "00" / ("0" * 64)
    place.parent.mkdir()
    folder_of(store, entry).rename(place)
    assert [words for _, words, _ in damaged(fresh(store), lambda *_: None)] == ["its description is damaged"]
    assert fresh(store).find("0" * 64) is None and not place.exists()


def test_looking_for_damage_tells_how_far_it_is_and_finds_nothing_in_a_sound_store(store: Store) -> None:
    for name in "abc":
        publish(store, name)
    seen: list[tuple[int, int]] = []
    assert damaged(fresh(store), lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


# ---- stores that cannot be written


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own in memory; skipped where none may be mounted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


def fill(path: Path) -> None:
    """Take what room there is."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"\0" * 1024):
            pass


def _is_served_and_left_alone(root: Path, kept: Entry, good: bool) -> None:
    """One build on a store that cannot be written."""
    before = sorted(path for path in root.rglob("*"))
    with opened(root) as store:
        assert not store.is_writable
        assert (store.find(kept.key) == kept) and store.check(kept, "a.bin") == good
        if not good:
            store.discard(kept.key)
            assert store.find(kept.key) is None
            assert store.check(publish(store), "a.bin")
        made = publish(store, "two")
        overlay = store.path(made, "a.bin")
        assert store.find(made.key) == made and not overlay.is_relative_to(root)
        with store.claimed(record("three").key, lambda: None):
            pass
        store.record_build("name", BuildRecord({"a": {}}))
        assert store.last_build("name") == BuildRecord()
    assert not overlay.exists()
    trim(root)
    assert sorted(path for path in root.rglob("*")) == before


@needs_root
@pytest.mark.parametrize("good", [True, False], ids=["sound", "damaged"])
def test_a_store_that_cannot_be_written_is_read_and_what_is_made_meanwhile_vanishes(good: bool, tmp_path: Path) -> None:
    root = tmp_path / "store"
    with mounted(root, "size=4m"):
        with opened(root) as store:
            kept = publish(store)
            if not good:
                writable(store.path(kept, "a.bin")).write_bytes(b"\x02" * 1000)
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        _is_served_and_left_alone(root, kept, good)


def test_a_store_whose_folder_cannot_be_made_vanishes_with_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened(tmp_path / "file" / "store") as store:
        assert not store.is_writable and store.find(publish(store).key) is not None
    assert (tmp_path / "file").is_file()


@needs_root
def test_a_full_disk_is_one_line_that_says_what_to_do_and_leaves_no_half_entry(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with mounted(root, "size=256k"), opened(root) as store:
        publish(store)
        # The scratch folder is on the same disk: the step itself would fail first. Its description is what finds no room here.
        with pytest.raises(StoreError) as caught, store.scratch() as folder:
            lay(folder / "out", FILES)
            (folder / "log.txt").touch()
            fill(root / "filler")
            store.publish(folder, "two", record("two"), tuple(FILES), COST)
        assert "No space left" in caught.value.cause and "edgepack cache prune" in caught.value.hint and "\n" not in str(caught.value)
        (root / "filler").unlink()
        assert store.find(record("two").key) is None and damaged(fresh(store), lambda *_: None) == []
        assert not list((root / "tmp").iterdir())


@needs_root
def test_a_store_on_a_full_disk_still_serves_and_says_so_at_the_first_result(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with mounted(root, "size=64k"):
        with opened(root) as store:
            kept = publish(store)
        fill(root / "filler")
        with opened(root) as store:
            assert store.is_writable and store.find(kept.key) == kept
            with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)"), store.scratch() as folder:
                (folder / "log.txt").touch()
                store.publish(folder, "two", record("two"), (), COST)


def test_the_place_is_the_variables_or_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPACK_STORE", str(tmp_path / "a"))
    assert default_place() == tmp_path / "a"
    monkeypatch.delenv("EDGEPACK_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert default_place() == tmp_path / "b" / "edgepack" / "store"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert default_place() == tmp_path / "c" / ".cache" / "edgepack" / "store"


def test_backups_know_the_store_for_a_cache(store: Store) -> None:
    assert (store.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert store.root.stat().st_mode & 0o077 == 0


# ---- prune


def used(store: Store, entry: Entry, at: float) -> None:
    os.utime(folder_of(store, entry) / "entry.json", (at, at))


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, list[Entry]]:
    """Entries of 1002 bytes last used at 1000, 2000 and 3000 seconds."""
    with opened(tmp_path / "store") as store:
        entries = [publish(store, name) for name in "abc"]
        for entry, at in zip(entries, (1000, 2000, 3000), strict=True):
            used(store, entry, at)
    return tmp_path / "store", entries


def left(root: Path) -> set[str]:
    return {path.name for path in root.glob("entries/*/*")}


@pytest.mark.parametrize(
    ("older_than", "keep_bytes", "now", "remaining"),
    [
        (1500.0, None, 4000.0, (False, False, True)),
        (1000.0, None, 4000.0, (False, False, True)),
        (2500.0, None, 4000.0, (False, True, True)),
        (9999.0, None, 4000.0, (True, True, True)),
        (0.0, None, 4000.0, (False, False, False)),
        # The clock went back: what was used in the future is not old.
        (100.0, None, 1500.0, (False, True, True)),
        (0.0, None, 500.0, (True, True, True)),
        (None, 2004, 0.0, (False, True, True)),
        (None, 2003, 0.0, (False, False, True)),
        (None, 0, 0.0, (False, False, False)),
        (None, 10**9, 0.0, (True, True, True)),
        (2500.0, 1002, 4000.0, (False, False, True)),
    ],
)
def test_prune_removes_what_is_old_and_then_what_was_used_longest_ago(
    older_than: float | None, keep_bytes: int | None, now: float, remaining: tuple[bool, ...], three: tuple[Path, list[Entry]]
) -> None:
    root, entries = three
    gone, freed = prune(Store(root, None), older_than, keep_bytes, now)
    expected = {entry.key for entry, stays in zip(entries, remaining, strict=True) if stays}
    assert left(root) == expected and (gone, freed) == (3 - len(expected), 1002 * (3 - len(expected)))


def test_finding_an_entry_counts_as_a_use(three: tuple[Path, list[Entry]]) -> None:
    root, entries = three
    with opened(root) as store:
        assert store.find(entries[0].key) is not None
    prune(Store(root, None), None, 1002, 0.0)
    assert left(root) == {entries[0].key}


def test_prune_removes_what_is_no_entry_any_more(three: tuple[Path, list[Entry]]) -> None:
    root, entries = three
    (root / "entries" / entries[1].key[:2] / entries[1].key / "entry.json").write_text("?")
    assert prune(Store(root, None), None, None, 0.0) == (1, 0)
    assert left(root) == {entries[0].key, entries[2].key}


def test_prune_is_refused_while_a_build_holds_the_store_and_trim_then_does_nothing(three: tuple[Path, list[Entry]]) -> None:
    root, _ = three
    with opened(root):
        with pytest.raises(StoreError, match="is in use by a build"):
            prune(Store(root, None), 0.0, 0, 4000.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGEPACK_STORE_BYTES", "1")
            trim(root)
    assert len(left(root)) == 3


def test_trim_keeps_the_store_below_the_size_the_user_sets(three: tuple[Path, list[Entry]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, entries = three
    trim(root)
    assert len(left(root)) == 3
    monkeypatch.setenv("EDGEPACK_STORE_BYTES", "2004")
    trim(root)
    assert left(root) == {entry.key for entry in entries[1:]}
    trim(root.parent / "absent")
    assert not (root.parent / "absent").exists()


def test_trim_keeps_20_gigabytes_unless_told_otherwise(three: tuple[Path, list[Entry]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(stores, "prune", lambda store, older_than, keep_bytes, now: asked.append((older_than, keep_bytes)))
    trim(three[0])
    monkeypatch.setenv("EDGEPACK_STORE_BYTES", "many")
    trim(three[0])
    assert asked == [(None, 20 * 10**9)] * 2


# ---- who is at work


def test_two_builds_are_at_work_at_once_and_what_killed_ones_left_is_cleared_only_when_nobody_is(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with opened(root) as first:
        (root / "tmp" / "left").mkdir()
        with first.scratch() as folder, opened(root):
            assert folder.is_dir() and (root / "tmp" / "left").is_dir()
    with opened(root):
        assert not list((root / "tmp").iterdir())


def test_a_step_is_claimed_by_one_build_at_a_time_and_the_other_waits_or_gives_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_POLL", 0.01)
    order: list[str] = []

    def second() -> None:
        with fresh(store).claimed("a" * 64, lambda: None):
            order.append("second")

    def give_up() -> None:
        raise Cancelled

    thread = threading.Thread(target=second)
    with store.claimed("a" * 64, lambda: None):
        thread.start()
        with pytest.raises(Cancelled), fresh(store).claimed("a" * 64, give_up):
            pass
        with fresh(store).claimed("b" * 64, give_up):
            order.append("another key")
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["another key", "first", "second"]


def test_a_claim_ends_with_the_process_that_holds_it(store: Store) -> None:
    code = f"""
import sys
from pathlib import Path
from edgepack.converter.store import opened
with opened(Path({str(store.root)!r})) as store, store.claimed("a" * 64, lambda: None):
    print("mine", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"mine\n"
        turns: list[None] = []

        def kill() -> None:
            turns.append(None)
            holder.kill()

        with store.claimed("a" * 64, kill):
            assert turns


def test_a_store_that_vanishes_leaves_nothing() -> None:
    with opened(None) as store:
        entry = publish(store)
        assert store.is_writable and store.find(entry.key) == entry
    assert not store.root.exists()


# ---- the last build


def test_the_record_of_a_build_is_kept_and_a_damaged_one_is_none(store: Store) -> None:
    held = BuildRecord({"hub": {"input captured": "0" * 64}})
    assert store.last_build("mine") == BuildRecord()
    store.record_build("mine", BuildRecord({"old": {}}))
    store.record_build("mine", held)
    assert fresh(store).last_build("mine") == held and store.last_build("other") == BuildRecord()
    assert [path.name for path in (store.root / "builds").iterdir()] == ["mine.json"]
    for content in (b"", b"\xff", b'{"steps": 1}'):
        (store.root / "builds" / "mine.json").write_bytes(content)
        assert store.last_build("mine") == BuildRecord()
