"""The kinds of faults. Each is a function over a scene, registered with how many of a full run it is at which level."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from edgepack.converter.store import Store, StoreError, damaged, prune
from tests.faults.driver import POINTS, Blow
from tests.faults.world import REAL, SAMPLE, WIDE, Running, Scene, SkipError

FAMILIES: dict[str, Family] = {}
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Family:
    """A kind of fault: ``counts`` says how many of a full run, by level."""

    name: str
    act: Callable[[Scene], None]
    counts: dict[str, int]


def family(name: str, **counts: int) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register a kind of fault."""

    def register(act: Callable[[Scene], None]) -> Callable[[Scene], None]:
        FAMILIES[name] = Family(name, act, counts)
        return act

    return register


def _code(number: int) -> int:
    """How a build ends that gets a signal."""
    return -9 if number == signal.SIGKILL else 128 + number


def _cold_or_partly(scene: Scene) -> int:
    """Nothing held at the sample level, all but three steps at the others; the number of steps to run."""
    if scene.level == SAMPLE:
        return len(scene.reference.names)
    return len(scene.some_missing(3))


@family("signal at a boundary", sample=16, real=8)
def signal_at_boundary(scene: Scene) -> None:
    """The build gets a signal when its n-th step has ended."""
    number, count = _SIGNALS[scene.index % 4], _cold_or_partly(scene)
    scene.put_old_pack()
    chosen = 1 + (scene.index // 4) % count if scene.level == SAMPLE else 1 + scene.draw.randrange(count)

    def heed(running: Running, _: str) -> None:
        if sum(line.startswith("ok ") and line != "ok tell" for line in running.lines) == chosen:
            running.send(number)

    # The last boundary may come too late.
    scene.strike(scene.spec(), {_code(number), 0}, heed)
    scene.recover()


@family("kill at a call", sample=34, real=16)
def kill_at_call(scene: Scene) -> None:
    """SIGKILL before or after the n-th rename, publication, description, copy, swap, ..."""
    points = sorted(POINTS)
    point, after = points[scene.index % len(points)], (scene.index // len(points)) % 2 == 1
    if scene.level != SAMPLE:
        point = ("swap", "rename", "put", "record", "rmtree", "copy", "publish", "write")[scene.index % 8]
        after = scene.index // 8 % 2 == 1
    scene.put_old_pack()
    count = _cold_or_partly(scene)
    calls = scene.reference.counts[point]
    if scene.level != SAMPLE:
        calls = min(calls, {"swap": 1, "record": 1, "publish": count, "put": count}.get(point, calls // 3))
    blow = Blow(point, 1 + scene.draw.randrange(calls), after)
    # What was not passed as often this time does not strike.
    scene.strike(scene.spec(blows=(blow,)), {-9, 0})
    scene.recover()


@family("kill around the swap", sample=8)
def kill_around_swap(scene: Scene) -> None:
    """SIGKILL or a signal at each of the last renames, with an older pack in place."""
    scene.hold()
    scene.put_old_pack()
    do = ("SIGKILL", "SIGINT")[scene.index % 2]
    point = ("rename", "swap", "rmtree", "copy")[scene.index // 2 % 4]
    blow = Blow(point, {"rename": 6, "swap": 1, "rmtree": 2, "copy": 3}[point], scene.draw.random() < 0.5, do)
    scene.strike(scene.spec(blows=(blow,)), {-9, 0, 130})
    scene.recover()


@family("failing call", sample=16, real=4)
def failing_call(scene: Scene) -> None:
    """The n-th call of a point fails as a full, failing or read-only disk makes it fail."""
    points = ("put", "describe", "rename", "copy", "swap", "write", "mkdir", "read-only")
    point, error = points[scene.index % len(points)], ("ENOSPC", "EIO", "EROFS", "EDQUOT")[scene.index % 4]
    scene.put_old_pack()
    _cold_or_partly(scene)
    calls = scene.reference.counts[point]
    blow = Blow(point, 1 + scene.draw.randrange(calls if scene.level == SAMPLE else max(1, calls // 3)), False, error)
    scene.strike(scene.spec(blows=(blow,)), {0, 2, 3})
    scene.recover()


def _slow(scene: Scene) -> tuple[str, dict[str, float]]:
    """A step to be struck inside of, cold at the sample level, and how much longer it takes for that."""
    names = scene.reference.names
    step = names[scene.index % len(names)]
    if scene.level == SAMPLE:
        return step, {step: 1.5}
    scene.hold([step])
    return step, {}


def _when_inside(scene: Scene, step: str, act: Callable[[Running], None]) -> Callable[[Running, str], None]:
    """Acts some time after a step's process started."""
    longest = 1.5 if scene.level == SAMPLE else max(0.3, scene.reference.seconds(step))
    delay = scene.draw.uniform(0.1, 0.8) * longest

    def heed(running: Running, line: str) -> None:
        if line.startswith("pid ") and line.endswith(f" {step}"):
            threading.Timer(delay, act, [running]).start()

    return heed


@family("signal inside a step", sample=10, real=8)
def signal_inside_step(scene: Scene) -> None:
    """The build gets a signal while a step works."""
    number = _SIGNALS[scene.index % 4]
    step, seconds = _slow(scene)
    scene.put_old_pack()
    scene.strike(scene.spec(seconds=seconds), {_code(number), 0}, _when_inside(scene, step, lambda running: running.send(number)))
    scene.recover()


@family("worker killed", sample=8, real=13)
def worker_killed(scene: Scene) -> None:
    """A step's process gets a signal."""
    number = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGBUS)[scene.index % 4]
    step, seconds = _slow(scene)

    def act(running: Running) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.workers[step], number)

    # A step that was faster has ended well.
    scene.strike(scene.spec(seconds=seconds), {3, 0}, _when_inside(scene, step, act))
    scene.recover()


@family("runner killed", sample=4, real=3)
def runner_killed(scene: Scene) -> None:
    """The process that a step started gets SIGKILL."""
    runs = [name for name in scene.reference.names if name.endswith("run")]
    step = runs[scene.index % len(runs)]
    scene.hold([step])

    def heed(running: Running, line: str) -> None:
        if line.startswith("pid ") and line.endswith(f" {step}"):
            threading.Thread(target=_kill_first_child, args=(running.workers[step], scene.draw.uniform(0, 0.3))).start()

    scene.strike(scene.spec(seconds={step: 2.0}), {3, 0}, heed)
    scene.recover()


def _kill_first_child(number: int, delay: float) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(number)
        while worker.is_running() and not (children := worker.children(recursive=True)):
            time.sleep(0.01)
        time.sleep(delay)
        for child in children:
            child.kill()


@family("store stopped and orphaned", sample=2)
def orphaned(scene: Scene) -> None:
    """The build is killed while stopped, with a deaf step; the next one starts at once."""
    running = scene.start(scene.spec(moods={"stretch": "deaf"}))
    while "stretch" not in running.workers and running.process.poll() is None:
        time.sleep(0.01)
    running.send(signal.SIGSTOP)
    running.send(signal.SIGKILL)
    running.process.wait()
    scene.recover()
    scene.verdict.hung += running.ended().hung


@family("full disk", sample=12, wide=12)
def full_disk(scene: Scene) -> None:
    """The store lies on a small disk that is full sooner or later."""
    if os.geteuid() != 0:
        raise SkipError("only root mounts a small disk")
    scene.disk(scene.store, 4096)
    if scene.level == WIDE:
        branch = ("ios fp32: write", "ios fp32: run", "raspberry-pi-5 fp32: write", "hub", "capture", "ios fp32: write")[scene.index % 6]
        shutil.copytree(scene.reference.folder / "store", scene.store, dirs_exist_ok=True)
        shutil.rmtree(scene.entry_folder(branch))
        free = 12 + scene.index * 24
    else:
        free = 4 + scene.index * 40
    ballast = scene.store / "ballast"
    _fill(ballast, scene.store, free)
    scene.strike(scene.spec(jobs=1), {0, 3})
    ballast.unlink()
    scene.recover()


@family("full disk at each page", wide=14)
def full_at_every_page(scene: Scene) -> None:
    """Room for one page more each time while coremltools writes a package: its libraries do not all tell when there is none."""
    if os.geteuid() != 0:
        raise SkipError("only root mounts a small disk")
    scene.disk(scene.store, 4096)
    shutil.copytree(scene.reference.folder / "store", scene.store, dirs_exist_ok=True)
    shutil.rmtree(scene.entry_folder("ios fp32: write"))
    ballast = scene.store / "ballast"
    _fill(ballast, scene.store, 32 + 4 * scene.index)
    scene.strike(scene.spec(jobs=1), {0, 3})
    ballast.unlink()
    scene.recover()


def _fill(ballast: Path, place: Path, kilobytes: int) -> None:
    """Leave so much room on a disk."""
    held = os.statvfs(place)
    ballast.write_bytes(b"x" * max(0, held.f_bavail * held.f_frsize - kilobytes * 1024))


@family("full disk under the pack", sample=4, real=3)
def full_out(scene: Scene) -> None:
    """The pack's place is on a full disk."""
    if os.geteuid() != 0:
        raise SkipError("only root mounts a small disk")
    scene.hold()
    scene.disk(scene.out.parent, 1024)
    if scene.index % 2:
        scene.put_old_pack()
    ballast = scene.folder / "place" / "ballast"
    _fill(ballast, scene.out.parent, (0, 20, 60, 100)[scene.index % 4])
    scene.strike(scene.spec(), {0, 2})
    ballast.unlink()
    scene.recover()


@family("full disk under temporary files", sample=4, real=1)
def full_temporary(scene: Scene) -> None:
    """$TMPDIR is full, where a build with --fresh works."""
    if os.geteuid() != 0:
        raise SkipError("only root mounts a small disk")
    scene.hold()
    place = scene.folder / "tmp"
    scene.disk(place, 512)
    ballast = place / "ballast"
    _fill(ballast, place, (0, 8, 80, 160)[scene.index % 4])
    scene.strike(scene.spec(fresh=True), {0, 3}, keeps=False, TMPDIR=str(place))
    if sorted(path.name for path in place.iterdir()) != ["ballast"]:
        scene.verdict.wrong.append("a build with --fresh left something in $TMPDIR")
    scene.recover()


@family("read-only store", sample=4, real=2)
def read_only_store(scene: Scene) -> None:
    """The store is mounted read-only: whole, in parts, damaged, or from the middle of a build on."""
    if os.geteuid() != 0:
        raise SkipError("only root mounts")
    step = scene.some_missing(scene.index % 3)
    if scene.index % 4 == 3 and scene.level == SAMPLE:
        _damage_output(scene, "join", "flip")
    scene.mounted(scene.store, "--bind", str(scene.store))
    middle = scene.index % 2 == 1 and bool(step)

    def remount() -> None:
        """Refused while a file is open for writing: at the first moment when none is."""
        command = ["mount", "-o", "remount,ro,bind", str(scene.store)]
        end = time.monotonic() + 20
        while subprocess.run(command, check=False, capture_output=True).returncode and time.monotonic() < end:
            time.sleep(0.002)

    if not middle:
        remount()
        scene.strike(scene.spec(), {0}, keeps=False)
    else:
        begun = threading.Event()

        def heed(_: Running, line: str) -> None:
            if line.startswith("pid ") and not begun.is_set():
                begun.set()
                remount()

        scene.strike(scene.spec(jobs=1), {0, 3}, heed, keeps=False)
    subprocess.run(["mount", "-o", "remount,rw,bind", str(scene.store)], check=True, capture_output=True)
    scene.recover()


@family("something else in the store's place", sample=8, real=1)
def something_else(scene: Scene) -> None:
    """The store, or a folder of it, is a file; its lock is a folder."""
    which = ("", "tmp", "locks", "entries", "builds", "lock", "link", "CACHEDIR.TAG")[scene.index % 8]
    place = scene.store / which
    if which in ("", "link"):
        place = scene.store
        place.symlink_to(scene.folder / "nowhere" / "deep") if which else place.write_text("no folder")
    else:
        scene.some_missing(2)
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.mkdir() if which in ("lock", "CACHEDIR.TAG") else place.write_text("no folder")
    scene.strike(scene.spec(), {0, 3}, keeps=False)
    place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    scene.recover()


# Root reads everything; without these it is treated as anybody.
_AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@family("no permission", sample=8, real=1)
def no_permission(scene: Scene) -> None:
    """A part of the store cannot be read or written."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        raise SkipError("needs root and setpriv")
    scene.some_missing(2)
    (scene.store / "tmp").mkdir(exist_ok=True)
    step = scene.reference.names[scene.index % len(scene.reference.names)]
    entry = scene.entry_folder(step)
    places = [scene.store, scene.store / "entries", entry, entry / "entry.json", entry / "files", scene.store / "tmp"]
    places += [scene.store / "builds", scene.store / "lock"]
    place = places[scene.index % len(places)]
    if not place.exists():
        place.mkdir(parents=True)
        scene.tolerate(step)
    before = place.stat().st_mode
    place.chmod((0o000, 0o555)[scene.index // len(places) % 2])
    scene.tolerate(step)
    # A store that cannot be read at all is refused as an option.
    scene.strike(scene.spec(), {0, 3} if scene.level == SAMPLE else {0, 2, 3}, keeps=False, prefix=_AS_ANYBODY)
    if place.exists():
        place.chmod(before)
    scene.recover()


_DAMAGE = (
    "flip",
    "truncate",
    "empty",
    "grow",
    "delete",
    "swap",
    "folder",
    "link",
    "garbage description",
    "deep description",
    "foreign description",
    "edited description",
    "description is a folder",
    "no description",
    "entry is a file",
    "entry is a link to nowhere",
    "no files",
    "no log",
    "prefix is a file",
    "a stranger among the files",
)


@family("damaged entry", sample=26, real=10)
def damaged_entry(scene: Scene) -> None:
    """An entry is no more what was written."""
    kind = _DAMAGE[scene.index % len(_DAMAGE)]
    if scene.level != SAMPLE:
        kind = ("flip", "truncate", "swap", "edited description", "a stranger among the files")[scene.index % 5]
    # Half the time something must be made from what is damaged.
    scene.some_missing(2) if scene.draw.random() < 0.5 else scene.hold()
    there = [name for name in (*scene.reference.names, *(["tell"] if scene.level == SAMPLE else [])) if scene.entry_folder(name).exists()]
    _damage(scene, scene.draw.choice(there), kind)
    if scene.draw.random() < 0.3:
        _damage(scene, scene.draw.choice(there), "flip")
    scene.strike(scene.spec(), {0})
    scene.recover()


def _damage(scene: Scene, step: str, kind: str) -> None:
    entry = scene.entry_folder(step)
    scene.tolerate(step)
    if kind in _OF_ENTRY:
        _OF_ENTRY[kind](entry, scene)
    else:
        _damage_output(scene, step, kind)


def _damage_output(scene: Scene, step: str, kind: str) -> None:
    scene.tolerate(step)
    files = sorted(path for path in (scene.entry_folder(step) / "files").rglob("*") if path.is_file())
    if not files:
        return
    victim = scene.draw.choice(files)
    victim.chmod(0o644)
    content = victim.read_bytes()
    at = scene.draw.randrange(len(content))
    if kind == "flip":
        victim.write_bytes(content[:at] + bytes([content[at] ^ 1 << scene.draw.randrange(8)]) + content[at + 1 :])
    elif kind == "truncate":
        victim.write_bytes(content[:at])
    elif kind == "empty":
        victim.write_bytes(b"")
    elif kind == "grow":
        victim.write_bytes(content + b"\0")
    elif kind == "a stranger among the files":
        (victim.parent / "stranger.bin").write_bytes(b"x")
    elif kind == "swap":
        others = [path for path in scene.store.glob("entries/*/*/files/*") if path.is_file()]
        victim.write_bytes(scene.draw.choice(others).read_bytes())
    else:
        victim.unlink()
        if kind == "folder":
            victim.mkdir()
        if kind == "link":
            victim.symlink_to(scene.reference.folder / "pack" / "pack.json")


def _description(change: Callable[[bytes, Scene], bytes]) -> Callable[[Path, Scene], None]:
    def apply(entry: Path, scene: Scene) -> None:
        (entry / "entry.json").write_bytes(change((entry / "entry.json").read_bytes(), scene))

    return apply


def _foreign(_: bytes, scene: Scene) -> bytes:
    return scene.draw.choice([path for path in scene.store.glob("entries/*/*/entry.json") if path.is_file()]).read_bytes()


def _replaced(make: Callable[[Path], object]) -> Callable[[Path, Scene], None]:
    def apply(entry: Path, _: Scene) -> None:
        shutil.rmtree(entry)
        make(entry)

    return apply


def _blocked(entry: Path, scene: Scene) -> None:
    """The folder that all entries of a prefix lie in is a file."""
    for other in entry.parent.iterdir():
        scene.tolerate(scene.reference.entries[other.name].step)
    shutil.rmtree(entry.parent)
    entry.parent.write_text("no folder")


def _to_folder(entry: Path, _: Scene) -> None:
    (entry / "entry.json").unlink()
    (entry / "entry.json").mkdir()


_OF_ENTRY: dict[str, Callable[[Path, Scene], None]] = {
    "garbage description": _description(lambda content, scene: scene.draw.randbytes(len(content))),
    "deep description": _description(lambda *_: b'{"sha256":"","entry":' + b"[" * 300_000),
    "foreign description": _description(_foreign),
    "edited description": _description(lambda content, _: content.replace(b'"bytes":', b'"bytes":1', 1)),
    "description is a folder": _to_folder,
    "no description": lambda entry, _: (entry / "entry.json").unlink(),
    "entry is a file": _replaced(lambda entry: entry.write_text("no folder")),
    "entry is a link to nowhere": _replaced(lambda entry: entry.symlink_to("/nowhere/at/all")),
    "no files": lambda entry, _: shutil.rmtree(entry / "files"),
    "no log": lambda entry, _: (entry / "log.txt").unlink(),
    "prefix is a file": _blocked,
}


@family("damaged while read", sample=4)
def damaged_while_read(scene: Scene) -> None:
    """One output of an entry is damaged, and steps are at work on its other output when that is found."""
    scene.hold(["stretch", "package", "join"])
    victim = scene.entry_folder("draw") / "files" / ("blob.bin", "small.txt")[scene.index % 2]
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[::-1])
    scene.tolerate("draw")
    scene.strike(scene.spec(seconds={"package": 0.5, "stretch": 0.5}), {0})
    scene.recover()


@family("damaged record of a build", sample=4)
def damaged_record(scene: Scene) -> None:
    """builds/*.json is not what was written."""
    scene.hold()
    record = next((scene.store / "builds").glob("*.json"))
    content = record.read_bytes()
    contents = (content[: len(content) // 2], scene.draw.randbytes(100), b'{"steps":' + b"[" * 300_000, None)
    held = contents[scene.index % 4]
    record.unlink()
    record.mkdir() if held is None else record.write_bytes(held)
    scene.strike(scene.spec(), {0, 3})
    if record.is_dir():
        record.rmdir()
    scene.recover()


@family("wrong clock", sample=6, real=1)
def wrong_clock(scene: Scene) -> None:
    """The clock goes back, or files come from the future or the epoch."""
    scene.some_missing(3)
    stamps = (None, 4e9, 0.0)[scene.index % 3]
    if stamps is not None:
        for path in [scene.store, *scene.store.rglob("*")]:
            os.utime(path, (stamps, stamps))
    scene.strike(scene.spec(clock=(-1e9, 1e9)[scene.index % 2]), {0})
    scene.recover()


_SECOND, _ROOM = 2.5, 400 * 2**20
# (mood, exit codes, words of its FAIL line)
_MOODS = (
    ("hang", {3}, "hung"),
    ("hang with family", {3}, "hung"),
    ("deaf", {3}, "hung"),
    ("leak", {3}, "memory"),
    ("never leave", {3}, "hung"),
    ("leave child", {0}, ""),
    ("leave child apart", {0}, ""),
    ("leave daemon", {0}, ""),
    ("crash with child", {3}, "SIGSEGV"),
    ("abort", {3}, "SIGABRT"),
    ("tear", {3}, "crashed"),
    ("raise", {3}, "KeyError"),
    ("babble", {0}, ""),
)


@family("misbehaving step", sample=14)
def misbehaving_step(scene: Scene) -> None:
    """A step hangs, leaks, forks, tears its output, dies."""
    mood, codes, says = _MOODS[scene.index % len(_MOODS)]
    step = scene.draw.choice(("draw", "stretch", "package", "join", "judge"))
    scene.some_missing(1)
    shutil.rmtree(scene.entry_folder(step), ignore_errors=True)
    scene.put_old_pack()
    scene.strike(scene.spec(moods={step: mood}, limits={step: (_SECOND, _ROOM)}), codes, says=says)
    scene.recover()


@family("limits", real=3)
def limits(scene: Scene) -> None:
    """A real step that gets too little time or memory."""
    scene.hold(["ios fp32: write", "ios fp32: run"] if scene.index % 2 else ["capture", "hub"])
    options = (("--timeout", "1"), ("--memory", "0.25"), ("--memory", "0.25"))[scene.index % 3]
    scene.strike(scene.spec(*options), {0, 3})
    scene.recover()


@family("other bytes each time", sample=4)
def other_bytes(scene: Scene) -> None:
    """A step gives other bytes each time: what two builds make of it must fit together, and what was made first stays."""
    first = scene.spec(random=True)
    second = msgspec.structs.replace(first, out=str(scene.out.with_name("other")))
    if scene.index % 2:
        running = [scene.start(spec) for spec in (first, second)]
        ended = [each.ended() for each in running]
    else:
        ended = [scene.start(spec).ended() for spec in (first, second)]
    for each in ended:
        scene.judge_run(each, {0}, "")
    ran = [step for each in ended for step in each.ok if step != "tell"]
    if len(ran) != len(set(ran)):
        scene.verdict.lost.append(f"a step ran in both builds: {ran}")
    contents = [(Path(spec.out) / "joined.bin").read_bytes() for spec in (first, second)]
    if contents[0] != contents[1]:
        scene.verdict.wrong.append("two builds on one store made packs of different draws")
    shutil.rmtree(second.out)
    scene.recover()


@family("builds beside each other", sample=10, real=5)
def concurrent(scene: Scene) -> None:
    """Two or three builds on one store: of one student, of several, one killed midway, one fresh, all into one place."""
    kind = ("same", "three", "killed", "fresh", "one place", "other student", "tiny store")[scene.index % 7]
    if scene.level != SAMPLE:
        kind = ("same", "killed", "one place", "fresh", "killed")[scene.index % 5]
    count = _cold_or_partly(scene)
    specs = [scene.spec() for _ in range(3 if kind == "three" else 2)]
    for number in range(1, len(specs)):
        if kind != "one place":
            place = scene.folder / f"place {number}" / "pack"
            place.parent.mkdir()
            number_of_student = 8 if kind == "other student" else 7
            store = None if kind == "fresh" else scene.store
            specs[number] = scene.world.spec(scene.level, store, place, number_of_student)
    chosen = 1 + scene.draw.randrange(count)

    def heed(running: Running, _: str) -> None:
        if sum(line.startswith("ok ") and line != "ok tell" for line in running.lines) == chosen:
            running.send(signal.SIGKILL)

    small = {"EDGEPACK_STORE_BYTES": "1000"} if kind == "tiny store" else {}
    running = []
    for number, spec in enumerate(specs):
        running.append(scene.start(spec, heed if kind == "killed" and number == 0 else lambda *_: None, **small))
        time.sleep(scene.draw.uniform(0, 0.6))
    ended = [each.ended() for each in running]
    for number, (each, spec) in enumerate(zip(ended, specs, strict=True)):
        scene.judge_run(each, {-9, 0} if kind == "killed" and number == 0 else {0}, "")
        if not (kind == "other student" and number):
            scene.judge_pack(f"build {number}", must_be=each.code == 0, out=Path(spec.out))
    shared = [each for each, spec in zip(ended, specs, strict=True) if spec.store is not None]
    ran = [step for each in shared for step in each.ok if step != "tell"]
    if len(ran) != len(set(ran)) and kind not in ("other student", "tiny store"):
        scene.verdict.lost.append(f"a step ran in two builds: {sorted(ran)}")
    scene.recover()


@family("pruned or checked meanwhile", sample=6, real=2)
def pruned_meanwhile(scene: Scene) -> None:
    """``cache prune`` and ``cache verify`` go on all the time beside a build."""
    scene.some_missing(3)
    over = threading.Event()
    store = Store(scene.store, None)

    def keep_at_it() -> None:
        while not over.is_set():
            with contextlib.suppress(StoreError):
                prune(store, None, 0, time.time()) if scene.index % 2 == 0 else damaged(Store(scene.store, None), lambda *_: None)
            time.sleep(0.01)

    other = threading.Thread(target=keep_at_it)
    running = scene.start(scene.spec())
    other.start()
    try:
        ended = running.ended()
    finally:
        over.set()
        other.join()
    scene.judge_run(ended, {0}, "")
    scene.judge_pack("beside others", must_be=True)
    scene.recover()


@family("no locks", sample=2)
def no_locks(scene: Scene) -> None:
    """A file system that knows no locks."""
    scene.some_missing(3)
    scene.put_old_pack()
    scene.strike(scene.spec(locks=False), {0, 2, 3})
    scene.recover()


LEVELS = (SAMPLE, REAL, WIDE)
