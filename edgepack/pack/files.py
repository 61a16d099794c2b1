"""Packs on disk: opened with every failure explained, and put in place whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgepack.errors import InputError, is_out_of_space
from edgepack.pack.checks import contradictions
from edgepack.pack.manifest import SCHEMA, Pack
from edgepack.text import cleaned

MANIFEST = "pack.json"


class PackError(InputError):
    """A folder that is not a pack, or a place where no pack can be written."""


def load_pack(folder: Path) -> Pack:
    """The manifest of the pack at ``folder``; PackError when it is none, is damaged or is of another schema."""
    path = folder / MANIFEST
    try:
        content = _manifest(path)
        version = msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("schema", msgspec.Raw(b"null"))
        if bytes(version) != str(SCHEMA).encode():
            raise PackError(f"{path} has schema {bytes(version)[:40].decode()}, this edgepack reads {SCHEMA}", "build the pack again")
        pack = cleaned(msgspec.json.decode(content, type=Pack))
    except OSError as error:
        raise PackError(f"{folder} is not a pack ({MANIFEST}: {error.strerror})", "give the folder that edgepack build wrote") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PackError(f"{path} is damaged ({error})", "build the pack again") from error
    contradiction = next(contradictions(pack), None)
    if contradiction:
        raise PackError(f"{path} contradicts itself: {contradiction}", "build the pack again")
    return pack


# The manifest of a pack of a thousand classes and six artifacts has 100 kB.
_LARGEST_MANIFEST = 64 * 2**20


def _manifest(path: Path) -> bytes:
    """Its bytes; OSError when it is not a plain file (a pipe would never end) or too large for a manifest."""
    if path.exists() and not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "it is a link, or no file")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return path.read_bytes()


def inside(folder: Path, name: str) -> Path:
    """A path that a manifest names; PackError when it leaves the pack, is a link or is not there."""
    try:
        path, place = (folder / name).resolve(), folder.resolve()
        if not path.is_relative_to(place) or path == place:
            raise PackError(f"{MANIFEST} names '{name[:200]}', outside the pack", "do not trust this pack")
        if path != place / name:
            raise PackError(f"'{name[:200]}' of the pack is a link, or no plain path", "copy the files themselves into the pack")
        if not path.exists():
            raise PackError(f"the pack lacks {name[:200]}", "build the pack again, or copy it whole")
    except (OSError, ValueError, RuntimeError) as error:
        raise PackError(f"{MANIFEST} names {name[:80]!r}, which is no path ({error})", "do not trust this pack") from error
    return path


@contextmanager
def replacing(folder: Path, carry: Callable[[Path, Path], None] = lambda old, new: None) -> Iterator[Path]:
    """A fresh folder that becomes ``folder`` when the block succeeds, and vanishes when it does not.

    Args:
        carry: called with the older pack, where there is one, and the fresh folder, when nothing can come between the two any more.

    Raises:
        PackError: the place is not writable, holds something that is not a pack, is full, or fails.
    """
    place = _usable(folder)
    with _scratch(place) as scratch:
        try:
            yield scratch
            scratch.chmod(0o777 & ~_umask())
            _swap(scratch, place, carry)
        except OSError as error:
            if error.errno in _FULL or is_out_of_space(str(error)):
                cause = f"no room to write {folder} ({error.strerror or 'No space left on device'})"
                raise PackError(cause, "free some space, or choose another place with -o") from error
            # shutil.copytree collects what failed in its text alone.
            if str(scratch) in f"{error} {error.filename} {error.filename2}":
                raise PackError(f"{folder} cannot be written ({error})", "choose another place with -o") from error
            raise


# No space left, and no quota left.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _usable(folder: Path) -> Path:
    """Where the pack will really be, links followed; PackError when nothing can be put there."""
    try:
        place = folder.resolve()
        _refuse_unusable(folder, place)
    except (OSError, RuntimeError) as error:
        raise PackError(f"{folder} cannot hold a pack ({error})", "choose another place with -o") from error
    return place


def _refuse_unusable(folder: Path, place: Path) -> None:
    if place.exists() and not _is_pack(place) and (not place.is_dir() or any(place.iterdir())):
        raise PackError(f"{folder} exists and is not a pack", "choose another folder with -o")
    if Path.cwd().is_relative_to(place) or place.is_mount():
        raise PackError(f"{folder} is the working folder, holds it, or is a mount point: it cannot be replaced", "name a folder inside it")
    if not place.parent.is_dir():
        raise PackError(f"folder {place.parent} does not exist", "create it, or choose another place with -o")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise PackError(f"{place.parent} is not writable", "choose another place with -o")


def _is_pack(place: Path) -> bool:
    """Whether a folder holds a manifest of ours, of any schema: other programs have a pack.json too."""
    try:
        fields = msgspec.json.decode((place / MANIFEST).read_bytes(), type=dict[str, msgspec.Raw])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return {"schema", "edgepack", "artifacts"} <= fields.keys()


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """A folder beside the pack, locked for as long as somebody works in it: what nobody holds, a killed build has left."""
    try:
        with locked(place.parent):
            _clear_left(place)
            scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.new-", dir=place.parent))
            descriptor = os.open(scratch, os.O_RDONLY)
            _is_free(descriptor)
    except OSError as error:
        raise PackError(f"{place.parent} cannot be written ({error.strerror})", "choose another place with -o") from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _clear_left(place: Path) -> None:
    """Remove what killed builds left beside a pack, after putting an older pack back that one of them had moved away."""
    # The names that mkdtemp makes.
    ours = re.compile(rf"\.{re.escape(place.name)}\.new-[a-z0-9_]{{8}}(\.old)?")
    for left in sorted(path for path in place.parent.iterdir() if ours.fullmatch(path.name)):
        # A file, a link, or one that is just vanishing: not for us to remove.
        with suppress(OSError):
            _clear_one(left, place)


def _clear_one(left: Path, place: Path) -> None:
    descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _is_free(descriptor):
            return
        if left.suffix == ".old" and not place.exists():
            left.rename(place)
        else:
            shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Whether nobody held the lock of an open folder; this process does from now on. False where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _swap(scratch: Path, place: Path, carry: Callable[[Path, Path], None]) -> None:
    """One exchange where the system has it, else two renames; the old pack is deleted only when the new one is in place."""
    old = scratch.with_name(scratch.name + ".old")
    with locked(place.parent):
        # Again: much may have happened while the pack was built.
        _refuse_unusable(place, place)
        if place.exists():
            carry(place, scratch)
        if place.exists() and _exchange(scratch, place):
            return
        try:
            if place.exists():
                place.rename(old)
            scratch.rename(place)
        except BaseException:
            if old.exists() and not place.exists():
                old.rename(place)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


# From linux/fs.h and fcntl.h: swap two names, which are paths.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders at once (Linux: renameat2); False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder against others that swap a pack in it, or write into one; the lock is on the folder itself and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks: two builds into one place at one moment are then not kept apart.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
