"""What a child may do while it opens a mutated file: write below its own folder, start nothing, unpickle nothing."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

# Wall-clock seconds until a child is ended; two to four share the processors, so this is not the bar for hanging, CPU time is.
WALL = 40
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {"os.rename": 2, "os.symlink": 2, "os.link": 2} | dict.fromkeys(
    ("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.chown"), 1
)
_NEVER = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"),
    *("socket.connect", "socket.bind", "os.fork", "os.forkpty"),
)
# Python's own: a class found while unpickling is code that a file names.
_PICKLES = "pickle.find_class"


class Watch:
    """Collects what happened outside; ``install`` cannot be undone, so it is for a child."""

    def __init__(self, allowed: Path) -> None:
        self.allowed = (str(allowed.resolve()), "/dev/null", "/dev/tty")
        self.found: list[str] = []

    def install(self, data_limit: int) -> None:
        """Limits of memory and time, and the audit hook."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WALL)
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES and not isinstance(arguments[0], int):
            self._wrote(event, arguments[0])
        elif event in _PATHS:
            for path in arguments[: _PATHS[event]]:
                if not isinstance(path, int):
                    self._wrote(event, path)
        elif event in _NEVER or (event == _PICKLES and arguments[0] != "numpy.dtypes"):
            self.found.append(f"{event} {arguments[:2]!r}"[:200])

    def _wrote(self, event: str, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path)) if path is not None else ""
        if not place.startswith(self.allowed) and not place.endswith(".pyc") and "__pycache__" not in place:
            self.found.append(f"{event} {place}"[:200])
