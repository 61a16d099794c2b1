"""Steps that behave and steps that do not, importable by a worker process."""

from __future__ import annotations

import locale
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


def work(seconds: float, size: int, apart: bool, out: Path, progress: Progress) -> None:
    """Takes CPU-seconds and bytes, here or in a process of its own."""
    code = f"import time\nheld = b'x' * {size}\nwhile time.process_time() < {seconds} + 0.02:\n    pass\n"
    if apart:
        subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)
    else:
        begun = time.process_time()
        exec(code.replace("process_time()", f"process_time() - {begun}"), {})
    (out / "number.txt").write_text("1")


def say_surroundings(out: Path, progress: Progress) -> None:
    """What a result could depend on without anyone asking for it."""
    (out / "other.txt").touch()
    words = [str(hash("word")), str(set("abcdefgh")), time.strftime("%Z"), locale.setlocale(locale.LC_ALL, ""), locale.getencoding()]
    words += [os.environ["OMP_NUM_THREADS"], oct((out / "other.txt").stat().st_mode & 0o777)]
    (out / "said.txt").write_text("\n".join(words))


def add(number: Path, more: int, log: str, out: Path, progress: Progress) -> None:
    """sum.txt holds a number of a file plus ``more``; a line of ``log`` says that it ran."""
    _note(log, f"add {more}")
    (out / "sum.txt").write_text(str(int(number.read_text()) + more))


def remainder(number: Path, by: int, log: str, out: Path, progress: Progress) -> None:
    """sum.txt holds what is left of a number of a file: often the same for other numbers."""
    _note(log, f"remainder {by}")
    (out / "sum.txt").write_text(str(int(number.read_text()) % by))


def look_around(path: str, log: str, out: Path, progress: Progress) -> None:
    """As a step that runs Python of the user's: sum.txt depends on what nobody declared."""
    _note(log, "look")
    (out / "sum.txt").write_text(Path(path).read_text())


def meet(here: str, there: str, out: Path, progress: Progress) -> None:
    """Ends only when another step is at work at the same time."""
    Path(here).touch()
    end = time.monotonic() + 60
    while not Path(there).exists():
        if time.monotonic() > end:
            raise TimeoutError("nobody came")
        time.sleep(0.02)
    (out / "number.txt").write_text("1")


def take_time(name: str, log: str, out: Path, progress: Progress) -> None:
    """Lines of ``log`` say when it begins and ends."""
    _note(log, f"begin {name}")
    time.sleep(0.2)
    _note(log, f"end {name}")
    (out / "number.txt").write_text(name)


def write_package(out: Path, progress: Progress) -> None:
    """A folder, as a Core ML package is."""
    (out / "model.mlpackage" / "Data").mkdir(parents=True)
    (out / "model.mlpackage" / "Manifest.json").write_text("{}")
    (out / "model.mlpackage" / "Data" / "weight.bin").write_bytes(b"\x01" * 100)


def read_package(package: Path, out: Path, progress: Progress) -> None:
    """sum.txt holds the sum of its weights."""
    (out / "sum.txt").write_text(str(sum((package / "Data" / "weight.bin").read_bytes())))


def _note(log: str, line: str) -> None:
    with Path(log).open("a") as file:
        file.write(f"{line}\n")
