"""The process a step runs in: ``python -m edgepack.converter.worker``, one JSON call on standard input.

What it says comes back on a pipe of its own, one JSON object a line: {"progress": [done, total]}, then {"ok": true, "cost"} or
{"error": {"kind", "cause", "hint", "exit_code"}}. Standard output and error are the step's log. The end of standard input means that
nobody waits any more: it leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from edgepack.errors import EdgepackError, is_out_of_memory, is_out_of_space, one_line


def main() -> int:
    """Run one call and report it; the exit code is 0 when the step succeeded."""
    call = json.loads(sys.stdin.buffer.readline())
    _leave_with_parent()
    _adopt()
    os.umask(0o022)
    limit_memory(int(call["bytes"]))
    with os.fdopen(int(call["report"]), "w", encoding="utf-8", buffering=1) as report:
        try:
            try:
                _run(call, report)
            finally:
                _end_children()
        except EdgepackError as error:
            _say(report, error={"kind": "refused", "cause": error.cause, "hint": error.hint, "exit_code": error.exit_code})
            return 1
        except Exception as error:
            traceback.print_exc()
            _say(report, error=_crash(one_line(error)))
            return 1
        _say(report, ok=True, cost=_cost())
    return 0


def _leave_with_parent() -> None:
    """From now on, exit when the build that waits for this step is gone. What a step itself reads from standard input is empty."""
    tether = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)

    def wait() -> None:
        os.read(tether, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _adopt() -> None:
    """Whatever this process starts stays below it, daemons too (Linux: PR_SET_CHILD_SUBREAPER), so that none outlives the step."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# From linux/prctl.h.
_PR_SET_CHILD_SUBREAPER = 36


def _end_children() -> None:
    """End what the step has left running in sessions of its own; its group is ended by who waits for it."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _cost() -> dict[str, float]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    return {"cpu_seconds": round(seconds, 3), "peak_bytes": max(_own_peak() or _peak(used[0]), _peak(used[1]))}


def _own_peak() -> int:
    """Most memory since this program was started, bytes; 0 where only getrusage tells.

    On Linux getrusage(2) also counts what the process was before execve: a copy of whoever started it, at its size.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _peak(used: resource.struct_rusage) -> int:
    # Linux counts the peak in KiB, macOS in bytes.
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _run(call: dict[str, Any], report: IO[str]) -> None:
    from edgepack.converter.plan import resolve

    inputs = {name: Path(path) for name, path in call["inputs"].items()}
    progress = lambda done, total: _say(report, progress=[done, total])  # noqa: E731 - one expression, handed on as a value
    resolve(call["function"])(**inputs, **call["parameters"], out=Path(call["out"]), progress=progress)


def _crash(words: str) -> dict[str, Any]:
    if is_out_of_memory(words):
        cause, hint = f"it ran out of its memory limit ({words})", "raise --memory, or use a smaller model"
    elif is_out_of_space(words):
        cause, hint = f"the disk is full ({words})", "free some space: edgepack cache prune, or another place with --store"
    else:
        cause, hint = words, "keep its log with --work FOLDER; report it with the model if it persists"
    return {"kind": "crashed", "cause": cause, "hint": hint, "exit_code": 3}


def _say(report: IO[str], **message: Any) -> None:
    report.write(json.dumps(message) + "\n")


def limit_memory(limit: int) -> None:
    """Cap the data this process may allocate (RLIMIT_DATA: heap and private mappings)."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # A hard limit that the machine sets already can be lowered, never raised.
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    sys.exit(main())
