"""A build in a process of its own, with a fault in it: ``python -m tests.faults.driver spec.json``.

Standard output, a line each: "pid <process> <step>" of a worker that started, "ok <step>", "held <step>", and at the end of a run that is
to be counted "count <point> <calls>". Everything else is what ``edgepack build`` does: standard error, exit codes, what is left on disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgepack.converter import execute as executing
from edgepack.converter import store as storing
from edgepack.converter.execute import Manner, Results, execute
from edgepack.converter.step import Limits, Output, Step
from edgepack.converter.store import BuildRecord, Store, opened, trim
from edgepack.errors import EdgepackError
from edgepack.pack import files
from edgepack.pack.files import replacing
from tests.faults.steps import plan


class Blow(msgspec.Struct, frozen=True):
    """What happens at the n-th call of a point: ``do`` names an entry of ``_BLOWS``."""

    point: str
    call: int
    after: bool
    do: str = "SIGKILL"


class Spec(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        arguments: of ``edgepack``, for a real build; empty for the plan of tests/faults/steps.py.
        store: None for one that vanishes. clock: seconds that the clock is wrong by. locks: whether the file system has any.
    """

    out: str
    store: str | None = None
    arguments: tuple[str, ...] = ()
    number: int = 7
    told: str = ""
    random: bool = False
    moods: dict[str, str] = {}
    seconds: dict[str, float] = {}
    limits: dict[str, tuple[float, int]] = {}
    jobs: int = 2
    blows: tuple[Blow, ...] = ()
    clock: float = 0.0
    locks: bool = True
    counted: bool = False


# Where a build can be struck: every rename, everything that is written to the store or the pack.
POINTS: dict[str, tuple[Any, str]] = {
    "publish": (Store, "publish"),
    "put": (Store, "_put"),
    "rename": (Path, "rename"),
    "describe": (storing, "_describe"),
    "read-only": (storing, "_make_read_only"),
    "record": (Store, "record_build"),
    "copy": (shutil, "copyfile"),
    "swap": (files, "_swap"),
    "mkdir": (Path, "mkdir"),
    "rmtree": (shutil, "rmtree"),
    "write": (Path, "write_bytes"),
}
_calls: Counter[str] = Counter()
_local = threading.local()


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _raise(number: int) -> Callable[..., None]:
    """The system's error, with the paths that a call was given."""

    def act(*arguments: object) -> None:
        paths = [str(given) for given in arguments if isinstance(given, Path)]
        raise OSError(number, os.strerror(number), paths[0] if paths else None, None, paths[1] if len(paths) > 1 else None)

    return act


def _send(number: int) -> Callable[..., None]:
    return lambda *_: os.kill(os.getpid(), number)


_BLOWS: dict[str, Callable[..., None]] = {
    **{name: _send(getattr(signal, name)) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")},
    **{name: _raise(getattr(errno, name)) for name in ("ENOSPC", "EIO", "EROFS", "EDQUOT")},
}


def _arm(name: str, blows: tuple[Blow, ...]) -> None:
    """Count the calls of a point, and strike at the chosen ones."""
    owner, attribute = POINTS[name]
    original = getattr(owner, attribute)
    lock = threading.Lock()

    def struck(*arguments: Any, **named: Any) -> Any:
        with lock:
            _calls[name] += 1
            now = [blow for blow in blows if blow.call == _calls[name]]
        for blow in now:
            if not blow.after:
                _BLOWS[blow.do](*arguments)
        result = original(*arguments, **named)
        for blow in now:
            if blow.after:
                _BLOWS[blow.do]()
        return result

    setattr(owner, attribute, struck)


def _announce_workers() -> None:
    """Say the process of every worker with its step."""
    run_step, popen = executing.run_step, subprocess.Popen

    def run(step: Step, *arguments: Any, **named: Any) -> Any:
        _local.step = step.name
        try:
            return run_step(step, *arguments, **named)
        finally:
            _local.step = ""

    class Announced(popen):  # type: ignore[type-arg, valid-type, misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            if getattr(_local, "step", ""):
                _say("pid", self.pid, _local.step)

    executing.run_step = run  # type: ignore[assignment]
    subprocess.Popen = Announced  # type: ignore[misc]


class Teller:
    """A watcher that prints."""

    def started(self, step: Step, index: int, total: int) -> None:
        """Its process says it."""

    def reused(self, step: Step, index: int, total: int) -> None:
        """Held."""
        _say("held", step.name)

    def advanced(self, step: Step, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, step: Step, seconds: float) -> None:
        """Published."""
        _say("ok", step.name)


def _tell_of_cli() -> None:
    """The same lines from the program's own progress."""
    from edgepack.cli.output import Progress

    reused, finished = Progress.reused, Progress.finished
    teller = Teller()

    def told_reused(self: Progress, step: Step, index: int, total: int) -> None:
        teller.reused(step, index, total)
        reused(self, step, index, total)

    def told_finished(self: Progress, step: Step, seconds: float) -> None:
        teller.finished(step, seconds)
        finished(self, step, seconds)

    Progress.reused, Progress.finished = told_reused, told_finished  # type: ignore[method-assign]


class Interrupted(BaseException):
    """As in edgepack/cli/app.py."""


def _interrupt(number: int, _: object) -> None:
    raise Interrupted(number)


def build_sample(spec: Spec) -> None:
    """What edgepack/converter/build.py does, with the sample plan and a pack of four files."""
    out = Path(spec.out)
    limits = {name: Limits(*held) for name, held in spec.limits.items()}
    asked = plan(spec.number, Path(spec.told), spec.moods, spec.seconds, limits, spec.random)
    wanted = [Output("stretch", "left.bin"), Output("package", "model.pkg"), Output("join", "joined.bin"), Output("judge", "verdict.txt")]
    place = None if spec.store is None else Path(spec.store)
    with replacing(out) as pack, opened(place) as store:
        results = execute(asked, store, Teller(), Manner(spec.jobs), wanted)
        store.record_build("sample", BuildRecord({name: dict(record.parts) for name, record in results.records.items()}))
        records = [_copy(results, output, pack) for output in wanted]
        (pack / "pack.json").write_bytes(msgspec.json.encode({"schema": 0, "edgepack": "", "artifacts": records}))
    if place is not None:
        trim(place)


def _copy(results: Results, output: Output, pack: Path) -> dict[str, object]:
    source, held = results.path(output), results.held(output)
    if source.is_dir():
        shutil.copytree(source, pack / output.file, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, pack / output.file)
    return {"path": output.file, "bytes": held.bytes, "sha256": held.sha256}


def _sample_main(spec: Spec) -> None:
    """What edgepack/cli/app.py does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        build_sample(spec)
    except EdgepackError as error:
        step = getattr(error, "step", "")
        print(f"FAIL {step + ': ' if step else ''}{error.cause} -> next: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted as error:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + error.args[0])


def _real_main(spec: Spec) -> None:
    from edgepack.cli import main

    _tell_of_cli()
    sys.argv = ["edgepack", *spec.arguments]
    main()


def _turn_clock(seconds: float) -> None:
    right = time.time
    time.time = lambda: right() + seconds


def _take_locks() -> None:
    """A file system without flock, as some network mounts are."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = refuse


def main(path: str) -> None:
    """Run one spec."""
    spec = msgspec.json.decode(Path(path).read_bytes(), type=Spec)
    if spec.clock:
        _turn_clock(spec.clock)
    if not spec.locks:
        _take_locks()
    _announce_workers()
    for name in POINTS:
        chosen = tuple(blow for blow in spec.blows if blow.point == name)
        if chosen or spec.counted:
            _arm(name, chosen)
    try:
        _real_main(spec) if spec.arguments else _sample_main(spec)
    finally:
        if spec.counted:
            for name, calls in _calls.items():
                _say("count", calls, name)


if __name__ == "__main__":
    main(sys.argv[1])
