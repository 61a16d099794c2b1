"""Steps that behave and steps that do not, importable by a worker process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from edgepack.converter.step import Progress
from edgepack.errors import InputError


def write_number(number: int, out: Path, progress: Progress) -> None:
    """number.txt holds ``number``."""
    progress(1, 2)
    (out / "number.txt").write_text(str(number))
    progress(2, 2)


def double(number: Path, out: Path, progress: Progress) -> None:
    """doubled.txt holds twice the number of a file."""
    (out / "doubled.txt").write_text(str(2 * int(number.read_text())))


def refuse(out: Path, progress: Progress) -> None:
    """As a room refuses bad input."""
    raise InputError("layer 'conv_3' is odd", "make it even")


def crash(out: Path, progress: Progress) -> None:
    """As a defect shows."""
    raise KeyError("weights")


def leave(code: int, out: Path, progress: Progress) -> None:
    """As a library that ends the process."""
    sys.exit(code)


def die(by: str, out: Path, progress: Progress) -> None:
    """As a kernel that aborts, with last words."""
    print("kernel: check failed", flush=True)
    os.kill(os.getpid(), signal.Signals[by])
    time.sleep(60)


def write_nothing(out: Path, progress: Progress) -> None:
    """Forgets its output."""


def hang(out: Path, progress: Progress) -> None:
    """Never ends."""
    progress(1, 10)
    time.sleep(600)


def hang_at_exit(out: Path, progress: Progress) -> None:
    """Does its work, but a thread keeps the interpreter alive."""
    (out / "number.txt").write_text("1")
    threading.Thread(target=time.sleep, args=(600,)).start()


def hang_with_family(pids: str, out: Path, progress: Progress) -> None:
    """Starts a child in its group and one in a session of its own, then never ends."""
    children = [subprocess.Popen(["sleep", "600"], start_new_session=apart) for apart in (False, True)]
    Path(pids).write_text(" ".join(str(child.pid) for child in children))
    tempfile.mkdtemp()
    time.sleep(600)


def leave_a_child_that_holds_the_pipe(pids: str, out: Path, progress: Progress) -> None:
    """A forked child outlives the step with every descriptor open."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    Path(pids).write_text(str(child))
    os.kill(os.getpid(), signal.SIGSEGV)


def babble(out: Path, progress: Progress) -> None:
    """As a library that writes to descriptors that are not its own."""
    for descriptor in range(3, 32):
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, b"\xff no message\n")
        except OSError:
            continue


def allocate(size: int, out: Path, progress: Progress) -> None:
    """Takes ``size`` bytes."""
    (out / "number.txt").write_text(str(len(bytearray(size))))


def say_where(out: Path, progress: Progress) -> None:
    """Where temporary files go, and which onnx is imported."""
    import onnx

    (out / "where.txt").write_text(f"{tempfile.gettempdir()}\n{onnx.__file__}\n{os.environ['ORT_DISABLE_TELEMETRY']}")
