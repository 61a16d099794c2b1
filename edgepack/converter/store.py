"""The store: results of steps under their keys, written once and whole, shared by all builds of a user, checked whenever they are used.

    entries/ab/ab12.../entry.json    what it is, with the digest of every output, behind a digest of its own
                       log.txt       what the step printed
                       files/...     the outputs
    builds/....json                  the keys of the last build of a student, so that the next can say what changed
    tmp/...                          steps at work; a folder becomes an entry by one rename
    locks/..., lock                  who is at work

An entry is never changed: a build only adds, and only ``prune`` and a failed check remove. Time decides nothing but what is pruned first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from edgepack.converter.digest import Held, held_at
from edgepack.converter.keys import KeyRecord
from edgepack.converter.process import Cost
from edgepack.errors import StepError, is_out_of_space

# Set by the user, or by tests, in place of the folder below.
VARIABLE = "EDGEPACK_STORE"
# What other programs (backup, tar --exclude-caches) know a cache by: https://bford.info/cachedir/
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Results of edgepack's steps. Delete it whenever nothing is being built.\n"
# Seconds between two looks at a step that another build is running.
_POLL = 0.1
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What decoding raises for bytes that are not what was encoded; the last for thousands of brackets.
_NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class StoreError(StepError):
    """The store cannot be used as it has to be: full, not writable, in use."""


class Entry(msgspec.Struct, frozen=True):
    """What a step wrote.

    Attributes:
        step, parts: its name, and what its key was made of; outputs: by name. cost: None where it is not known.
    """

    key: str
    step: str
    parts: dict[str, str]
    outputs: dict[str, Held]
    cost: Cost

    @property
    def bytes(self) -> int:
        """Size of the outputs."""
        return sum(held.bytes for held in self.outputs.values())


class _Sealed(msgspec.Struct, frozen=True):
    """An entry's description behind its own digest."""

    sha256: str
    entry: msgspec.Raw


class BuildRecord(msgspec.Struct, frozen=True):
    """The keys of the last build of a student into a pack, by step name, each with its parts."""

    steps: dict[str, dict[str, str]] = {}


def default_place() -> Path:
    """$EDGEPACK_STORE, or the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack" / "store"


class Store:
    """Entries by key, at ``root``; one that cannot be written is read, and what is made meanwhile kept elsewhere until the store closes.

    Use it as opened by ``opened``.
    """

    def __init__(self, root: Path, overlay: Path | None) -> None:
        self.root, self._overlay = root, overlay
        self._checked: set[tuple[str, str]] = set()
        self._bad: set[str] = set()

    @property
    def is_writable(self) -> bool:
        """Whether results are kept."""
        return self._overlay is None

    @property
    def _work(self) -> Path:
        """Where new results go."""
        return self._overlay or self.root

    def _roots(self, key: str) -> list[Path]:
        """Where an entry may lie: what was found damaged in a store that cannot be written still lies there, and does not count."""
        return [self._work] if self.is_writable or key in self._bad else [self._work, self.root]

    def find(self, key: str) -> Entry | None:
        """The entry of a key, None when there is none; one whose description or sizes are wrong is discarded."""
        for root in self._roots(key):
            folder = _entry_folder(root, key)
            if not _is_folder(folder):
                continue
            entry = _described(folder)
            if entry is not None and entry.key == key and self._is_whole(entry, folder):
                with contextlib.suppress(OSError):
                    os.utime(folder / "entry.json")
                return entry
            self.discard(key)
        return None

    @staticmethod
    def _is_whole(entry: Entry, folder: Path) -> bool:
        """Whether all outputs are there, files at their size: cheap, and finds what was cut short. ``check`` finds everything."""
        try:
            held = [(folder / "files" / name).stat() for name in entry.outputs]
        except OSError:
            return False
        sizes = [output.bytes for output in entry.outputs.values()]
        return all(stat.S_ISDIR(at.st_mode) or at.st_size == size for at, size in zip(held, sizes, strict=True))

    def path(self, entry: Entry, name: str) -> Path:
        """Where an output lies."""
        return self._folder(entry) / "files" / name

    def log(self, entry: Entry) -> Path:
        """What the step printed."""
        return self._folder(entry) / "log.txt"

    def _folder(self, entry: Entry) -> Path:
        folders = [_entry_folder(root, entry.key) for root in self._roots(entry.key)]
        return next((folder for folder in folders if _is_folder(folder)), folders[0])

    def check(self, entry: Entry, name: str) -> bool:
        """Whether an output holds the bytes that were written; each is read once in the life of this object."""
        if (entry.key, name) in self._checked:
            return True
        try:
            is_good = held_at(self.path(entry, name)) == entry.outputs[name]
        except OSError:
            is_good = False
        if is_good:
            self._checked.add((entry.key, name))
        return is_good

    def discard(self, key: str) -> None:
        """Remove an entry that is not what it was; a store that cannot be written keeps it, and it is not used again."""
        self._bad.add(key)
        # A copy: other threads check other entries meanwhile.
        self._checked = {held for held in self._checked.copy() if held[0] != key}
        _remove(_entry_folder(self._work, key), self._work / "tmp")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A fresh folder on the store's file system that vanishes."""
        folder = self._work / "tmp" / uuid.uuid4().hex
        with explained(self._work):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, step: str, record: KeyRecord, outputs: Sequence[str], cost: Cost, by_content: bool = False) -> Entry:
        """Make the outputs of a step that ended well an entry, whole or not at all.

        Args:
            folder: its place: ``out`` holds the outputs, ``log.txt`` the log. Both are moved.
            by_content: the key is made of what was written, for steps whose inputs do not say what they give.

        Raises:
            StoreError: there is no room.
        """
        with explained(self._work):
            ready = folder / "entry"
            (ready / "files").mkdir(parents=True)
            for name in outputs:
                _make_read_only(folder / "out" / name)
                (folder / "out" / name).rename(ready / "files" / name)
            (folder / "log.txt").rename(ready / "log.txt")
            written = {name: held_at(ready / "files" / name) for name in outputs}
            made_of = {name: held.sha256 for name, held in written.items()}
            key = KeyRecord({"function": record.parts["function"], **made_of}).key if by_content else record.key
            entry = Entry(key, step, record.parts, written, cost)
            _describe(entry, ready)
            self._put(ready, key)
        self._checked.update((key, name) for name in outputs)
        self._bad.discard(key)
        return self.find(key) or entry

    def _put(self, ready: Path, key: str) -> None:
        """One rename. Another build that was faster has the same right, once its bytes were read; what is damaged gives way."""
        place = _entry_folder(self._work, key)
        # Others may put or take an entry between any two lines: what they leave is looked at again, a few times.
        for is_last in (False, False, False, True):
            _make_way(place)
            try:
                ready.rename(place)
                return
            except OSError as error:
                if is_last or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            there = self.find(key)
            if there is not None and all(self.check(there, name) for name in there.outputs):
                return
            self.discard(key)

    @contextlib.contextmanager
    def claimed(self, key: str, given_up: Callable[[], None]) -> Iterator[None]:
        """Holds a key against other builds of the same step; waits while one has it. ``given_up`` may raise to end the waiting."""
        with explained(self._work):
            locks = self._work / "locks"
            locks.mkdir(parents=True, exist_ok=True)
            lock = (locks / key).open("a")
        with lock:
            # On a file system without locks two builds may do the same work: entries appear whole all the same.
            while _try_lock(lock, fcntl.LOCK_EX) is False:
                given_up()
                time.sleep(_POLL)
            yield

    def last_build(self, name: str) -> BuildRecord:
        """What was recorded of the last build called ``name``; empty when nothing was, or it is damaged."""
        try:
            return msgspec.json.decode((self.root / "builds" / f"{name}.json").read_bytes(), type=BuildRecord)
        except (OSError, *_NO_JSON):
            return BuildRecord()

    def record_build(self, name: str, record: BuildRecord) -> None:
        """Keep the keys of a build, in one rename; a store that cannot be written keeps none."""
        if not self.is_writable:
            return
        with explained(self.root):
            place = self.root / "builds" / f"{name}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            # Where what a killed build leaves is cleared.
            fresh = self.root / "tmp" / uuid.uuid4().hex
            try:
                fresh.write_bytes(msgspec.json.encode(record))
                fresh.rename(place)
            finally:
                fresh.unlink(missing_ok=True)

    def entries(self) -> list[tuple[Entry | None, Path, float]]:
        """(entry, folder, seconds since the epoch of its last use) of everything held; None for what is no entry any more."""
        folders = [folder for folder in self.root.glob("entries/*/*") if folder.is_dir()]
        return [(_described(folder), folder, _last_use(folder)) for folder in folders]

    def remove(self, folders: Sequence[Path]) -> None:
        """Remove entries by folder."""
        for folder in folders:
            _remove(folder, self.root / "tmp")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else uses the store meanwhile; StoreError when somebody does."""
        with _lock_file(self.root) as lock:
            is_ours = None if lock is None else _try_lock(lock, fcntl.LOCK_EX)
            if is_ours is None:
                raise StoreError(f"the store {self.root} cannot be locked", "remove the folder when nothing is being built")
            if not is_ours:
                raise StoreError(f"the store {self.root} is in use by a build", "try again when it has ended")
            yield


@contextlib.contextmanager
def opened(place: Path | None) -> Iterator[Store]:
    """The store at ``place`` for one build; None for one that vanishes.

    What killed builds left is cleared when nobody else is at work. A store that cannot be made or written serves what it holds.
    """
    with contextlib.ExitStack() as held:
        if place is None:
            yield Store(_vanishing(held), None)
            return
        is_writable = _prepared(place)
        lock = held.enter_context(_lock_file(place))
        if lock is not None:
            if is_writable and _try_lock(lock, fcntl.LOCK_EX):
                _clear(place)
            _wait_for_lock(lock, fcntl.LOCK_SH)
        overlay = None if is_writable else _vanishing(held)
        yield Store(place, overlay)


def _vanishing(held: contextlib.ExitStack) -> Path:
    """A folder among the system's temporary files, for as long as ``held``."""
    try:
        return Path(held.enter_context(tempfile.TemporaryDirectory(prefix="edgepack-")))
    except OSError as error:
        cause = f"there is no place for temporary files ({error.strerror or error})"
        raise StoreError(cause, "set TMPDIR to a folder that can be written") from error


@contextlib.contextmanager
def explained(place: Path, what: str = "the store", option: str = "--store") -> Iterator[None]:
    """A full or failing disk as one line, naming the option that puts ``what`` elsewhere."""
    try:
        yield
    except OSError as error:
        # shutil.copytree collects what failed in its text alone.
        is_full = error.errno in _FULL or is_out_of_space(str(error))
        hint = f"free some space: edgepack cache prune, or another place with {option}" if is_full else f"choose another {option}"
        raise StoreError(f"{what} {place} cannot be written ({error.strerror or error})", hint) from error


def _prepared(place: Path) -> bool:
    """Make the store's folder; whether it can be written."""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        (place / "tmp").mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=place / "tmp"):
            pass
        if not (place / "CACHEDIR.TAG").exists():
            (place / "CACHEDIR.TAG").write_text(_TAG)
    except OSError as error:
        # A full disk is not a reason to go on elsewhere: the user must know. The first result that finds no room says so.
        return error.errno in _FULL
    return True


@contextlib.contextmanager
def _lock_file(place: Path) -> Iterator[IO[str] | None]:
    """The file whose lock says who uses the store; None where there is none and none can be made."""
    path = place / "lock"
    try:
        with contextlib.suppress(OSError):
            path.touch()
        file = path.open()
    except OSError:
        yield None
        return
    with file:
        yield file


def _try_lock(file: IO[str], kind: int) -> bool | None:
    """False while another has the lock, None on a file system without locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _wait_for_lock(file: IO[str], kind: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(file, kind)


def _clear(place: Path) -> None:
    for folder in ("tmp", "locks"):
        with contextlib.suppress(OSError):
            for left in (place / folder).iterdir():
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _entry_folder(root: Path, key: str) -> Path:
    return root / "entries" / key[:2] / key


def _is_folder(path: Path) -> bool:
    """``Path.is_dir`` that says no, too, where it may not look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _make_way(place: Path) -> None:
    """The folder an entry goes to; what is none on the way to it is damage, and gives way."""
    for folder in (place.parent, place):
        if not _is_folder(folder):
            try:
                folder.unlink(missing_ok=True)
            except OSError:
                # Another build has put its entry here since.
                if not _is_folder(folder):
                    raise
    place.parent.mkdir(parents=True, exist_ok=True)


def _describe(entry: Entry, folder: Path) -> None:
    body = msgspec.json.encode(entry)
    sealed = _Sealed(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))
    (folder / "entry.json").write_bytes(msgspec.json.encode(sealed))


def _described(folder: Path) -> Entry | None:
    """The description in an entry's folder, None when it is missing or damaged."""
    try:
        sealed = msgspec.json.decode((folder / "entry.json").read_bytes(), type=_Sealed)
        body = bytes(sealed.entry)
        return msgspec.json.decode(body, type=Entry) if hashlib.sha256(body).hexdigest() == sealed.sha256 else None
    except (OSError, *_NO_JSON):
        return None


def _last_use(folder: Path) -> float:
    try:
        return (folder / "entry.json").stat().st_mtime
    except OSError:
        return 0.0


def _make_read_only(path: Path) -> None:
    """A step that reads an entry must not change it by accident."""
    for file in [inner for inner in path.rglob("*") if inner.is_file()] if path.is_dir() else [path]:
        file.chmod(0o444)


def _remove(folder: Path, trash: Path) -> None:
    """Out of the way in one rename, then deleted: nobody sees half an entry."""
    with contextlib.suppress(OSError):
        trash.mkdir(parents=True, exist_ok=True)
        gone = trash / uuid.uuid4().hex
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


# What a store may hold before a build that ends removes what was not used longest. $EDGEPACK_STORE_BYTES changes it.
_MOST_BYTES = 20 * 10**9


def trim(place: Path) -> None:
    """After a build: keep the store below its size, if nobody is at work in it."""
    most = os.environ.get("EDGEPACK_STORE_BYTES", "")
    with contextlib.suppress(StoreError, OSError):
        prune(Store(place, None), None, int(most) if most.isdecimal() else _MOST_BYTES, 0.0)


def prune(store: Store, older_than: float | None, keep_bytes: int | None, now: float) -> tuple[int, int]:
    """Remove what was not used for ``older_than`` seconds, then what was not used longest until ``keep_bytes`` remain.

    Returns:
        (entries removed, their bytes).

    Raises:
        StoreError: a build is using the store.
    """
    with store.alone():
        _clear(store.root)
        held = sorted(((used, entry, folder) for entry, folder, used in store.entries()), key=lambda each: each[0])
        remaining = sum(entry.bytes for _, entry, _ in held if entry is not None)
        gone: list[Path] = []
        freed = 0
        for used, entry, folder in held:
            is_old = older_than is not None and now - used > older_than
            if entry is None or is_old or (keep_bytes is not None and remaining > keep_bytes):
                gone.append(folder)
                freed += entry.bytes if entry else 0
                remaining -= entry.bytes if entry else 0
        store.remove(gone)
    return len(gone), freed


def damaged(store: Store, progress: Callable[[int, int], None]) -> list[tuple[str, str, Path]]:
    """Every entry that does not hold what was written, as (step, what is wrong, folder); all bytes are read."""
    found = []
    held = store.entries()
    for done, (entry, folder, _) in enumerate(held, 1):
        if entry is None or entry.key != folder.name:
            found.append(("?", "its description is damaged", folder))
        else:
            wrong = [name for name in entry.outputs if not store.check(entry, name)]
            found += [(entry.step, f"{wrong[0]} is not what was written", folder)] if wrong else []
        progress(done, len(held))
    return found
