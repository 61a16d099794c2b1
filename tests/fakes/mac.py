"""A Mac as edgepack sees one over ssh, for tests only: this machine's Python with a Mac's facts and a stand-in of coremltools' predict.

What it shows is that the path to a Mac is walked as it should be; how Core ML computes, and how fast, it does not show.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from edgepack.mil.operation import State
from edgepack.mil.program import Program
from tests.fakes.sshd import Server

# os.uname is what Python's platform module asks.
_CUSTOMIZE = """
import os
_real = os.uname()
os.uname = lambda: os.uname_result(("Darwin", "mac", "24.1.0", "Darwin Kernel Version 24.1.0", "arm64"))
"""
_COOL = "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded"
THROTTLED = "CPU_Scheduler_Limit = 100\nCPU_Available_CPUs = 8\nCPU_Speed_Limit = 62"


class Interpreter:
    """Runs packages for stand-ins in this process: the runner's "edgepack" holds the runner alone, and loading takes a second."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._programs: dict[bytes, Program] = {}
        self._lock = threading.Lock()
        self._listener = Listener(socket, "AF_UNIX", backlog=16)
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """No further stand-in is served."""
        self._listener.close()
        shutil.rmtree(Path(self.socket).parent, ignore_errors=True)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept(),), daemon=True).start()

    def _serve(self, client: Connection) -> None:
        with contextlib.suppress(EOFError, OSError), client:
            while True:
                package, feed, held = client.recv()
                states = {name: State(array) for name, array in held.items()}
                results = self._program(Path(package)).run(feed, states)
                client.send((results, {name: state.array for name, state in states.items()}))

    def _program(self, package: Path) -> Program:
        key = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(package.rglob("*")) if path.is_file())
        with self._lock:
            if key not in self._programs:
                self._programs[key] = Program.load(package)
            return self._programs[key]


@cache
def interpreter() -> Interpreter:
    """The one of this process."""
    folder = tempfile.mkdtemp(prefix="edgepack-mil-")
    found = Interpreter(f"{folder}/socket")
    atexit.register(found.close)
    return found


@dataclass(frozen=True)
class Mac:
    """The stand-in in one folder.

    Attributes:
        folder: goes first on the path of its Python.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Mac:
        """A Mac with coremltools, cool and awake."""
        folder.mkdir(parents=True)
        shutil.copytree(Path(__file__).with_name("coremltools"), folder / "coremltools", ignore=shutil.ignore_patterns("__pycache__"))
        version = metadata.version("coremltools")
        record = folder / f"coremltools-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: coremltools\nVersion: {version}\n")
        (folder / "sitecustomize.py").write_text(_CUSTOMIZE)
        mac = cls(folder)
        mac.behave()
        return mac

    @property
    def path(self) -> str:
        """The PYTHONPATH of its Python: behind the stand-in, the packages of this one, of which it uses numpy, protobuf and Pillow."""
        libraries = dict.fromkeys(str(Path(spec.origin).parents[1]) for name in ("numpy",) if (spec := _spec(name)).origin)
        return ":".join([str(self.folder), *libraries])

    def behave(self, **how: Any) -> None:
        """From now on as the package ``coremltools`` beside this file says."""
        real = _spec("coremltools").origin
        assert real is not None
        settings = {"real": str(Path(real).parent), "interpreter": interpreter().socket, **how}
        (self.folder / "mac.json").write_text(json.dumps(settings))

    def move_in(self, server: Server, python: str = "python3") -> None:
        """Behind an ssh server, whose Python ``python`` is the Mac's; the programs of macOS that are asked are small scripts."""
        server.program(python, f'PYTHONPATH={self.path} exec {sys.executable} -s "$@"')
        answers = {"hw.model": "Mac15,3", "machdep.cpu.brand_string": "Apple M3", "hw.memsize": str(16 * 2**30), "kern.hv_vmm_present": "0"}
        cases = "\n".join(f'  {name}) echo "{value}";;' for name, value in answers.items())
        server.program("sysctl", f'case "$2" in\n{cases}\n  *) exit 1;;\nesac')
        server.program("sw_vers", "echo 15.1")
        self.feel(server)

    def feel(self, server: Server, therm: str = _COOL, low_power: bool = False) -> None:
        """How warm it is, and whether it saves power, by ``pmset``."""
        general = f"System-wide power settings:\n lowpowermode         {int(low_power)}"
        server.program("pmset", f'case "$2" in therm) echo "{therm}";; *) echo "{general}";; esac')


def _spec(name: str) -> Any:
    found = importlib.util.find_spec(name)
    assert found is not None
    return found
