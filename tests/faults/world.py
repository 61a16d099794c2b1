"""What a fault happens in: undisturbed results to compare with, stores filled as far as wanted, builds that are watched, and the judge."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgepack.converter.digest import held_at
from edgepack.converter.store import Entry, Store
from tests.faults.driver import Spec

ROOT = Path(__file__).resolve().parents[2]
# What every process of a fault has in its environment, so that none can hide.
_TAG = "EDGEPACK_FAULT"
# Seconds that no run takes on a machine shared with three others, and that a killed build's processes have to notice it.
LONGEST, GRACE = 240.0, 8.0
SAMPLE, REAL, WIDE = "sample", "real", "wide"
# Steps whose result no key knows: they run each time.
_ALWAYS = {"tell", "student"}
# The student and what it is built for.
_TARGETS = {REAL: ("raspberry-pi-5", "android", "ios"), WIDE: ("raspberry-pi-5", "ios")}


@dataclass
class Ended:
    """A build that ended: its exit code, the steps that ran to their end and those that were held, and what it complained of."""

    code: int
    ok: list[str]
    held: list[str]
    counts: dict[str, int]
    complaint: str
    hung: list[str]

    def fail_lines(self) -> list[str]:
        """The lines that report a failure."""
        return [line for line in self.complaint.splitlines() if line.startswith("FAIL ")]

    @property
    def is_refused_option(self) -> bool:
        """Whether the command line itself refused an option, in its own form: usage, then one line."""
        return self.code == 2 and self.complaint.startswith("Usage: ") and self.complaint.count("\nError: Invalid value for") == 1


@dataclass
class Reference:
    """The undisturbed result of a level: a store, a pack, and how often each point was passed; ``steps`` by key."""

    folder: Path
    spec: Spec
    counts: dict[str, int]
    entries: dict[str, Entry]
    unstable: frozenset[tuple[str, str]]

    @property
    def names(self) -> list[str]:
        """Every step that the store can hold."""
        return sorted(entry.step for entry in self.entries.values() if entry.step not in _ALWAYS)

    def seconds(self, step: str) -> float:
        """CPU-seconds of a step."""
        return next(entry.cost.cpu_seconds for entry in self.entries.values() if entry.step == step)


class Running:
    """A build under watch; ``heed`` is called with it for each line it says, from a thread."""

    def __init__(self, spec: Spec, folder: Path, heed: Callable[[Running, str], None], prefix: Sequence[str], environment: dict[str, str]):
        self.tag = uuid.uuid4().hex
        self._heed, self.lines = heed, list[str]()
        self.workers: dict[str, int] = {}
        path = folder / f"{self.tag}.json"
        path.write_bytes(msgspec.json.encode(spec))
        held = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment, _TAG: self.tag}
        self._complaints = (folder / f"{self.tag}.err").open("w+b")
        command = [*prefix, sys.executable, "-m", "tests.faults.driver", str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._complaints, cwd=ROOT, env=held, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self.lines.append(line)
            if line.startswith("pid "):
                _, number, step = line.split(" ", 2)
                self.workers[step] = int(number)
            self._heed(self, line)

    def send(self, number: int) -> None:
        """A signal to the build itself."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def ended(self, longest: float = LONGEST) -> Ended:
        """Wait for its end, and for that of everything it started."""
        hung = []
        try:
            self.process.wait(longest)
        except subprocess.TimeoutExpired:
            hung.append(f"the build ran longer than {longest:g} s")
            self.process.kill()
            self.process.wait()
        left = _survivors(self.tag)
        if left:
            hung.append(f"processes outlived the build: {left}")
            for number in left:
                with contextlib.suppress(OSError):
                    os.kill(number, 9)
        self._reader.join(5)
        self._complaints.seek(0)
        complaint = self._complaints.read().decode(errors="replace")
        self._complaints.close()
        said = [line.split(" ", 1) for line in self.lines if " " in line]
        counts = {name: int(number) for what, rest in said if what == "count" for number, name in [rest.split(" ", 1)]}
        ok, held = ([step for what, step in said if what == kind] for kind in ("ok", "held"))
        return Ended(self.process.returncode, ok, held, counts, complaint, hung)


def _survivors(tag: str) -> list[int]:
    """Processes with a tag that are still there when the grace is over."""
    end = time.monotonic() + GRACE
    while (found := tagged(tag)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def tagged(tag: str) -> list[int]:
    """Living processes with a tag in their environment."""
    found, word = [], f"{_TAG}={tag}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if word in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


class World:
    """The references, each made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Reference] = {}
        self._lock = threading.Lock()
        (folder / "told.txt").write_text("told once")

    def reference(self, level: str) -> Reference:
        """The undisturbed result of a level."""
        with self._lock:
            if level not in self._made:
                self._made[level] = self._make(level)
            return self._made[level]

    def spec(self, level: str, store: Path | None, out: Path, number: int = 7, options: Sequence[str] = ()) -> Spec:
        """A build of a level."""
        kept = None if store is None else str(store)
        if level == SAMPLE:
            return Spec(str(out), kept, number=number, told=str(self.folder / "told.txt"))
        targets = [word for target in _TARGETS[level] for word in ("-t", target)]
        place = ["--fresh"] if store is None else ["--store", str(store)]
        arguments = ["build", str(self._student(level)), *targets, "--latency", "none", *place, "-o", str(out), *options]
        return Spec(str(out), kept, tuple(arguments))

    def _student(self, level: str) -> Path:
        path = self.folder / f"{level}.onnx"
        if not path.exists():
            _save_student(path, 4 if level == REAL else 96)
        return path

    def _make(self, level: str) -> Reference:
        folder = self.folder / level
        folder.mkdir()
        first = self._undisturbed(level, folder)
        entries = _entries(folder / "store")
        unstable = frozenset[tuple[str, str]]()
        if level == REAL:
            again = self.folder / f"{level} again"
            again.mkdir()
            self._undisturbed(level, again)
            other = _entries(again / "store")
            unstable = frozenset((entry.step, name) for entry in entries.values() for name in entry.outputs if _differs(entry, name, other))
            shutil.rmtree(again)
        return Reference(folder, self.spec(level, folder / "store", folder / "pack"), first.counts, entries, unstable)

    def _undisturbed(self, level: str, folder: Path) -> Ended:
        spec = msgspec.structs.replace(self.spec(level, folder / "store", folder / "pack"), counted=True)
        ended = Running(spec, folder, lambda *_: None, (), {}).ended()
        if ended.code != 0 or ended.hung:
            raise RuntimeError(f"an undisturbed build of {level} failed: {ended.complaint or ended.hung}")
        return ended


def _differs(entry: Entry, name: str, other: dict[str, Entry]) -> bool:
    return entry.key not in other or other[entry.key].outputs[name] != entry.outputs[name]


def _save_student(path: Path, channels: int) -> None:
    """Two convolutions; with many channels, weights that fill a small disk."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(3)
    shapes = {"w": (channels, 3, 3, 3), "b": (channels,), "v": (4, channels, 3, 3)}
    held = [numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
    first = helper.make_node("Conv", ["x", "w", "b"], ["h"], name="first", pads=[1, 1, 1, 1])
    second = helper.make_node("Conv", ["h", "v"], ["y"], name="second", pads=[1, 1, 1, 1])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, 8, 8]) for name, count in (("x", 3), ("y", 4)))
    graph = helper.make_graph([first, second], "images", [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def _entries(store: Path) -> dict[str, Entry]:
    """What a store holds, by key."""
    return {folder.name: entry for entry, folder, _ in Store(store, None).entries() if entry is not None}


@dataclass
class Verdict:
    """What was found wrong with one fault; whether the build ended well in spite of it, or before it; its FAIL line."""

    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    badly_reported: list[str] = field(default_factory=list)
    skipped: str = ""
    withstood: bool = False
    reported: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not (self.wrong or self.lost or self.hung or self.badly_reported)


class SkipError(Exception):
    """A fault that cannot be injected here, with the reason."""


class Scene:
    """One fault: a store, a pack's place, the runs on them, and what was found of them."""

    def __init__(self, world: World, level: str, folder: Path, draw: random.Random, index: int) -> None:
        self.world, self.level, self.folder, self.draw, self.index = world, level, folder, draw, index
        self.reference = world.reference(level)
        self.store, self.out = folder / "store", folder / "place" / "pack"
        self.out.parent.mkdir(parents=True)
        self.verdict = Verdict()
        self._mounts: list[Path] = []
        self._tolerated: set[str] = set()
        self._has_old = False

    # --- before the fault

    def hold(self, missing: Collection[str] = ()) -> None:
        """Fill the store with everything but some steps."""
        shutil.copytree(self.reference.folder / "store", self.store, symlinks=True)
        shutil.rmtree(self.store / "tmp", ignore_errors=True)
        for key, entry in self.reference.entries.items():
            if entry.step in missing:
                shutil.rmtree(self.store / "entries" / key[:2] / key)

    def some_missing(self, count: int) -> list[str]:
        """Hold all but a few steps, chosen by the fault's own dice; their names."""
        missing = self.draw.sample(self.reference.names, min(count, len(self.reference.names)))
        self.hold(missing)
        return missing

    def put_old_pack(self) -> None:
        """An older pack where the new one goes: the same with a mark."""
        shutil.copytree(self.reference.folder / "pack", self.out)
        (self.out / "old.txt").write_text("old")
        self._has_old = True

    def spec(self, *options: str, fresh: bool = False, **changes: object) -> Spec:
        """The build of this scene."""
        spec = self.world.spec(self.level, None if fresh else self.store, self.out, options=options)
        return msgspec.structs.replace(spec, **changes)

    def entry_folder(self, step: str) -> Path:
        """Where a step's entry lies."""
        key = next(key for key, entry in self.reference.entries.items() if entry.step == step)
        return self.store / "entries" / key[:2] / key

    def tolerate(self, step: str) -> None:
        """The fault damages this entry: that it must be made again is no loss, and nobody need notice before it is used."""
        self._tolerated.add(step)

    # --- the fault

    def start(
        self, spec: Spec, heed: Callable[[Running, str], None] = lambda *_: None, prefix: Sequence[str] = (), **environment: str
    ) -> Running:
        """Start a build."""
        return Running(spec, self.folder, heed, prefix, environment)

    def strike(
        self,
        spec: Spec,
        codes: Collection[int],
        heed: Callable[[Running, str], None] = lambda *_: None,
        keeps: bool = True,
        prefix: Sequence[str] = (),
        says: str = "",
        **environment: str,
    ) -> Ended:
        """Run a build with its fault and judge what it leaves.

        Args:
            codes: exit codes that the fault may have. keeps: whether results go to the scene's store. says: words of its FAIL line.
        """
        before = self.sound()
        ended = self.start(spec, heed, prefix, **environment).ended()
        self.judge_run(ended, codes, says)
        self.verdict.withstood = ended.code == 0
        self.verdict.reported = " ".join(ended.fail_lines())[:200]
        if keeps:
            self.judge_work(ended, before)
        self.judge_pack("after the fault", must_be=ended.code == 0)
        return ended

    def recover(self, spec: Spec | None = None) -> Ended:
        """Run the build again, undisturbed, and judge it and everything that is left."""
        before = self.sound()
        ended = self.start(spec or self.spec()).ended()
        self.judge_run(ended, {0}, "")
        self.judge_work(ended, before)
        if ended.code == 0:
            self._has_old = False
        self.judge_pack("after the next build", must_be=True)
        self.judge_store()
        beside = [path.name for path in self.out.parent.iterdir() if path != self.out]
        if beside:
            self.verdict.wrong.append(f"left beside the pack: {beside}")
        return ended

    # --- the judge

    def sound(self) -> set[str]:
        """The steps whose entries hold what the undisturbed build wrote."""
        with contextlib.suppress(OSError):
            return {entry.step for key, entry in _entries(self.store).items() if key in self.reference.entries and self._is_sound(entry)}
        return set()

    def _is_sound(self, entry: Entry) -> bool:
        store, truth = Store(self.store, None), self.reference.entries[entry.key]
        stable = [name for name in entry.outputs if (entry.step, name) not in self.reference.unstable]
        same = all(entry.outputs[name] == truth.outputs[name] for name in stable)
        return same and all(store.check(entry, name) for name in entry.outputs)

    def judge_run(self, ended: Ended, codes: Collection[int], says: str) -> None:
        """Its end, and what it said of it."""
        self.verdict.hung += ended.hung
        lines, complaint = ended.fail_lines(), ended.complaint[-1500:]
        if ended.hung:
            return
        if ended.code not in codes:
            self.verdict.badly_reported.append(f"exit code {ended.code}, not one of {sorted(codes)}: {complaint}")
        if "Traceback" in ended.complaint:
            self.verdict.badly_reported.append(f"a traceback: {complaint}")
        fails = ended.code in (2, 3, 4)
        if ended.is_refused_option and not lines:
            return
        if len(lines) != int(fails) or (fails and " -> next: " not in lines[0]):
            self.verdict.badly_reported.append(f"exit code {ended.code} with {len(lines)} FAIL lines: {complaint}")
        elif fails and says not in lines[0]:
            self.verdict.badly_reported.append(f"{says!r} is not in {lines[0]}")

    def judge_work(self, ended: Ended, before: set[str]) -> None:
        """Nothing that was sound has run again; what ended well is held now."""
        again = sorted((set(ended.ok) & before) - _ALWAYS - self._tolerated)
        if again:
            self.verdict.lost.append(f"ran again though held: {again}")
        gone = sorted(set(ended.ok) - self.sound() - _ALWAYS - self._tolerated)
        if gone:
            self.verdict.lost.append(f"ended well and is not held: {gone}")
        twice = sorted(step for step, count in Counter(ended.ok).items() if count > 1 and step not in _ALWAYS | self._tolerated)
        if twice:
            self.verdict.lost.append(f"ran twice: {twice}")

    def judge_pack(self, when: str, must_be: bool, out: Path | None = None) -> None:
        """What lies at the pack's place is the pack, whole; the older one while there is no new one; or nothing."""
        place = out or self.out
        if not place.exists():
            if must_be or (self._has_old and out is None):
                self.verdict.wrong.append(f"{when} there is no pack")
            return
        truth = self.reference.folder / "pack"
        expected, found = _files_of(truth), _files_of(place)
        if found - {"old.txt"} != expected:
            self.verdict.wrong.append(f"{when} the pack's files are others: {sorted(found ^ expected)}")
            return
        if must_be and "old.txt" in found:
            self.verdict.wrong.append(f"{when} the pack is still the older one")
        differing = [name for name in sorted(expected - {"pack.json", "report.html"}) if _bytes(place / name) != _bytes(truth / name)]
        if differing:
            self.verdict.wrong.append(f"{when} the pack differs in {differing}")
        torn = [path for path, digest in _recorded(place) if held_at(place / path).sha256 != digest]
        if torn:
            self.verdict.wrong.append(f"{when} the pack's records do not hold: {torn}")

    def judge_store(self) -> None:
        """After an undisturbed build nothing is left at work, and every entry holds what it should."""
        work = self.store / "tmp"
        left = [path.name for path in work.iterdir()] if work.is_dir() else []
        left += [path.name for path in (self.store / "builds").glob(".*")]
        if left:
            self.verdict.wrong.append(f"left in the store: {left}")
        store = Store(self.store, None)
        for entry, folder, _ in store.entries():
            key = folder.name
            step = self.reference.entries[key].step if key in self.reference.entries else (entry.step if entry else "?")
            if step in self._tolerated:
                continue
            if entry is None or entry.key != key or not all(store.check(entry, name) for name in entry.outputs):
                self.verdict.wrong.append(f"the entry of {step} is damaged")
            elif key in self.reference.entries and not self._is_sound(entry):
                self.verdict.wrong.append(f"the entry of {step} is not what an undisturbed build writes")

    # --- disks

    def mounted(self, folder: Path, *options: str) -> None:
        """A mount that ends with the scene; SkipError where it cannot be."""
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SkipError(f"mount: {done.stderr.strip()}")
        self._mounts.append(folder)

    def disk(self, folder: Path, kilobytes: int) -> None:
        """A small disk at a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Take the mounts away at the end."""
        try:
            yield
        finally:
            for folder in reversed(self._mounts):
                subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def _files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b"cannot be read"


def _recorded(pack: Path) -> Iterator[tuple[str, str]]:
    """(path, sha256) of everything a pack's manifest records."""
    waiting = [msgspec.json.decode((pack / "pack.json").read_bytes())]
    while waiting:
        held = waiting.pop()
        if isinstance(held, dict) and {"path", "sha256"} <= held.keys():
            yield held["path"], held["sha256"]
        waiting += held.values() if isinstance(held, dict) else held if isinstance(held, list) else []
