"""The supervisor: what keeps a device in order while a runner runs there. Standard library only; its source is sent over the connection.

It holds the device for one bench at a time, makes a run folder and removes it, runs a bundled runner in a child process, looks at the
device before, during and after, and ends with all of it when the connection does.

Lines of JSON on standard input: first the settings ``{"folder": where run folders go, "exclusive": bool, "wait": seconds for somebody
else's bench, "silence": seconds}``, then any number of ``{"digests": [files]}`` and jobs ``{"runner": file, "request": {...}, "site":
[folders], "seconds": limit, "memory": bytes or null}``, paths relative to the run folder unless absolute. Lines on standard output:
``{"progress": [seconds, seconds]}`` while it waits, one of ``{"ready": {...}}``, ``{"busy": words}`` and ``{"refused": words}``, then
``{"digests": [sha256]}``, and for each job ``{"progress": [done, total]}`` and one ``{"ended": {...}}``. Empty lines say that the other
side is there. End of input means: go; so does ``silence`` without a line, for a network that is lost tells nobody.

The child is forked and not executed anew: under user-mode emulation the host could not start the device's programs. On macOS it is a
fresh interpreter: Core ML and what it stands on abort in a process that was forked and has not called exec, whatever was loaded before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import resource
import runpy
import select
import selectors
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgepack.runner import probes

# What keeps two benches off one device, whoever runs them and whatever their TMPDIR says; the variable names another file, for tests.
LOCK, LOCK_VARIABLE = "/tmp/edgepack-measuring.lock", "EDGEPACK_LOCK"
# Seconds between looks at the device during a run; a look takes about a millisecond of another core.
INTERVAL = 1.0
# Bytes of a child's last words that are kept, and of its answer: ten seconds of warm-up at 10 us a query are 6 MB.
_WORDS, _ANSWER = 4000, 2**24
# Seconds that the other side may be silent until it says how long.
_SILENCE = 60.0
# What run folders are called. Their place may be a folder of temporary files that others use too.
_PREFIX = "edgepack-run-"
# os.EX_TEMPFAIL: somebody else has the device.
BUSY = 75
# os.EX_CANTCREAT: no run folder can be made.
REFUSED = 73


def main() -> int:
    """Serve one connection."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    inbox = _Inbox()
    settings = inbox.wait()
    if settings is None:
        return 0
    inbox.silence = float(settings["silence"])
    with contextlib.ExitStack() as stack:
        try:
            if settings["exclusive"] and not _hold(stack, float(settings["wait"]), inbox):
                _say({"busy": "another edgepack is measuring on it, or setting it up"})
                return BUSY
            folder = stack.enter_context(_run_folder(Path(settings["folder"]).expanduser()))
        except OSError as error:
            _say({"refused": f"{error.filename or 'its disk'}: {error.strerror}"})
            return REFUSED
        except RuntimeError as error:
            # expanduser, for a user without a home.
            _say({"refused": str(error)})
            return REFUSED
        _say({"ready": {"folder": str(folder), "facts": probes.facts()}})
        while (asked := inbox.wait()) is not None:
            _say(_answer(asked, folder, inbox))
    return 0


def _answer(asked: dict[str, Any], folder: Path, inbox: _Inbox) -> dict[str, Any]:
    if "digests" in asked:
        return {"digests": [_digest(folder / name) for name in asked["digests"]]}
    return {"ended": _run(asked, folder, inbox)}


def _digest(path: Path) -> str:
    """sha256 of a file; "" when it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _leave(*_: object) -> None:
    raise SystemExit(1)


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _hold(stack: contextlib.ExitStack, seconds: float, inbox: _Inbox) -> bool:
    """Takes the device's lock for as long as this process lives; False when somebody has it. How long it has waited is told."""
    file, begun = stack.enter_context(_lock_file()), time.monotonic()
    told = begun
    while not _locks(file):
        now = time.monotonic()
        if now >= begun + seconds or inbox.ends_within(_TRY_AGAIN):
            return False
        if now >= told:
            _say({"progress": [int(now - begun), math.ceil(seconds)]})
            told = now + INTERVAL
    return True


def _lock_file() -> IO[Any]:
    """Opened for reading, which is enough to lock and which a file of another user allows; made when it is not there."""
    path = Path(os.environ.get(LOCK_VARIABLE) or LOCK)
    with contextlib.suppress(OSError):
        # Exclusively: whoever put a link there must not have its target made, or its mode changed.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
    return path.open()


# Seconds between tries for a lock that somebody has.
_TRY_AGAIN = 0.2


def _locks(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _run_folder(place: Path) -> Iterator[Path]:
    """A folder for this connection, gone at its end; those whose owner was killed before it could clean up go first."""
    place.mkdir(parents=True, exist_ok=True)
    _clear_left(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    with (folder / ".lock").open("w") as lock:
        _locks(lock)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


# A folder younger than this may be between its making and its lock.
_FRESH_SECONDS = 2.0


def _clear_left(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Whether nobody holds a run folder of this user's; what others put beside it is none of ours to open."""
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        return False
    lock = folder / ".lock"
    if not lock.exists():
        return abs(time.time() - status.st_mtime) > _FRESH_SECONDS
    with lock.open() as file:
        return _locks(file)


class _Inbox:
    """Lines from the other side, read without Python's own buffering so that waiting for them and for a child is one wait.

    Attributes:
        silence: seconds without a byte after which the other side is gone, though the connection has not ended.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._closed = False
        self._heard = time.monotonic()
        self.silence = _SILENCE

    def fileno(self) -> int:
        return 0

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more; asked after what is there was read."""
        return self._closed or time.monotonic() - self._heard > self.silence

    def read(self) -> None:
        """Take what is there."""
        chunk = os.read(0, 65536)
        self._closed = not chunk
        self._heard = time.monotonic()
        self._pending += chunk

    def ends_within(self, seconds: float) -> bool:
        """Whether the other side goes in that time; what it says meanwhile is kept."""
        if select.select([0], [], [], seconds)[0]:
            self.read()
        return self.is_gone

    def wait(self) -> Any:
        """The next message, None at the end."""
        while True:
            line, found, rest = self._pending.partition(b"\n")
            self._pending = rest if found else line
            if line.strip() and found:
                return json.loads(line)
            if not found and self.ends_within(INTERVAL):
                return None


def _run(job: dict[str, Any], folder: Path, inbox: _Inbox) -> dict[str, Any]:
    """One runner from start to end, with what the device was like meanwhile."""
    request = folder / "request.json"
    request.write_text(json.dumps(job["request"]), encoding="utf-8")
    states = [probes.state()]
    child = _Child.start([str(folder / job["runner"]), str(request)], job, folder)
    try:
        reason = _follow(child, inbox, float(job["seconds"]), states)
    finally:
        child.kill()
    states.append(probes.state())
    return {**child.ending(), "reason": reason, "states": states}


def _follow(child: _Child, inbox: _Inbox, seconds: float, states: list[dict[str, Any]]) -> str:
    """Reads the child until it ends, is too slow or the connection goes: "ended", "hung"; leaves when the connection is gone."""
    deadline, look, seen_working = time.monotonic() + seconds, time.monotonic() + INTERVAL, False
    with selectors.DefaultSelector() as selector:
        selector.register(inbox, selectors.EVENT_READ)
        for stream in child.streams:
            selector.register(stream, selectors.EVENT_READ)
        while child.is_open:
            now = time.monotonic()
            if now >= deadline:
                return "hung"
            # A run shorter than the interval gets a look as well: when its rounds are known to have begun.
            if now >= look or (child.progressed and not seen_working):
                states.append(probes.state())
                look, seen_working = now + INTERVAL, child.progressed
            for key, _ in selector.select(max(0.0, min(look, deadline) - time.monotonic())):
                if key.fileobj is inbox:
                    inbox.read()
                elif not child.read(key.fileobj):
                    selector.unregister(key.fileobj)
            if inbox.is_gone:
                raise SystemExit("the other side is gone, or silent")
    return "ended" if child.wait(max(0.0, deadline - time.monotonic())) else "hung"


class _Child:
    """A runner in a forked process. Its standard input is a pipe that nobody writes to: when this process is killed, it leaves too."""

    def __init__(self, process: int, tether: int, said: IO[bytes], complained: IO[bytes]) -> None:
        self.process, self._tether = process, tether
        self.streams = [said, complained]
        self._open = set(map(id, self.streams))
        self._said, self._complained = bytearray(), bytearray()
        self._status: tuple[int, Any] | None = None
        self.progressed = False

    @classmethod
    def start(cls, arguments: list[str], job: dict[str, Any], folder: Path) -> _Child:
        """Fork; the child never returns."""
        inner = [os.pipe() for _ in range(3)]
        (tether_read, tether_write), (said_read, said_write), (words_read, words_write) = inner
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            _become(arguments, job, folder, (tether_read, said_write, words_write))
        for descriptor in (tether_read, said_write, words_write):
            os.close(descriptor)
        return cls(process, tether_write, open(said_read, "rb", buffering=0), open(words_read, "rb", buffering=0))  # noqa: PTH123

    @property
    def is_open(self) -> bool:
        """Whether any of its streams is; both end with the process."""
        return bool(self._open)

    def read(self, stream: Any) -> bool:
        """Take what a stream holds; False at its end. Progress is passed on as it comes."""
        chunk = stream.read(65536)
        if not chunk:
            self._open.discard(id(stream))
            return False
        if stream is self.streams[0]:
            self._said += chunk
            if len(self._said) > 2 * _ANSWER:
                del self._said[:-_ANSWER]
        else:
            self._hear(chunk)
        return True

    def _hear(self, chunk: bytes) -> None:
        """Whole lines of progress go on; other words are kept, the last of them."""
        *lines, rest = bytes(self._complained + chunk).split(b"\n")
        kept = [line for line in lines if not _passes_on(line)]
        self.progressed = self.progressed or len(kept) < len(lines)
        self._complained = bytearray(b"\n".join([*kept, rest])[-_WORDS:])

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time; its streams close a moment before it does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process, status, usage = os.wait4(self.process, os.WNOHANG)
            if process:
                self._ended(status, usage)
                return True
            time.sleep(0.005)
        return False

    def kill(self) -> None:
        """End it and everything in its group; harmless when it has ended."""
        if self._status is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        _, status, usage = os.wait4(self.process, 0)
        self._ended(status, usage)

    def _ended(self, status: int, usage: Any) -> None:
        self._status = (status, usage)
        os.close(self._tether)
        for stream in self.streams:
            stream.close()

    def ending(self) -> dict[str, Any]:
        """Its exit code (negative: the signal), its last line, its words, its peak memory in bytes and its processor time in seconds."""
        assert self._status is not None
        status, usage = self._status
        lines = bytes(self._said).strip().splitlines()
        return {
            "code": os.waitstatus_to_exitcode(status),
            "said": (lines[-1] if lines else b"").decode(errors="replace"),
            "words": bytes(self._complained).decode(errors="replace"),
            # The kernel counts in KiB on Linux, in bytes on macOS.
            "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }


def _passes_on(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    is_progress = isinstance(message, dict) and message.keys() == {"progress"}
    if is_progress:
        _say(message)
    return is_progress


def _become(arguments: list[str], job: dict[str, Any], folder: Path, pipes: tuple[int, int, int]) -> None:
    """The child: nothing of the connection stays open in it, then the runner runs as a program of its own."""
    code = 70
    try:
        os.setsid()
        for target, descriptor in enumerate(pipes):
            os.dup2(descriptor, target)
        os.closerange(3, 256)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        is_mac = platform.system() == "Darwin"
        # macOS counts what the GPU maps and enforces no such limit anyway.
        if job.get("memory") and not is_mac:
            resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
        if is_mac:
            _execute(arguments, [str(each) for each in job.get("site", ())])
        code = _as_program(arguments, [str(each) for each in job.get("site", ())])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _execute(arguments: list[str], site: list[str]) -> None:
    """Become ``python file arguments``; returns only by an OSError."""
    paths = [*site, *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, **found, "ORT_DISABLE_TELEMETRY": "1"})


def _as_program(arguments: list[str], site: list[str]) -> int:
    """Run a file as ``python file arguments`` would; its exit code. Our own modules make room for those the file brings."""
    for name in [name for name in sys.modules if name == "edgepack" or name.startswith("edgepack.")]:
        del sys.modules[name]
    sys.argv[:], sys.path[:0] = arguments, site
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # Standard streams of the parent hold its buffers; these are of the pipes.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
