"""The process a step runs in: ``python -m edgepack.converter.worker``, one JSON call on standard input.

What it says comes back on a pipe of its own, one JSON object a line: {"progress": [done, total]}, then {"ok": true} or
{"error": {"kind", "cause", "hint", "exit_code"}}. Standard output and error are the step's log.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from edgepack.errors import EdgepackError, is_out_of_memory, one_line


def main() -> int:
    """Run one call and report it; the exit code is 0 when the step succeeded."""
    call = json.load(sys.stdin)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    limit_memory(int(call["bytes"]))
    with os.fdopen(int(call["report"]), "w", encoding="utf-8", buffering=1) as report:
        try:
            _run(call, report)
        except EdgepackError as error:
            _say(report, error={"kind": "refused", "cause": error.cause, "hint": error.hint, "exit_code": error.exit_code})
            return 1
        except Exception as error:
            traceback.print_exc()
            _say(report, error=_crash(one_line(error)))
            return 1
        _say(report, ok=True)
    return 0


def _run(call: dict[str, Any], report: IO[str]) -> None:
    from edgepack.converter.plan import resolve

    inputs = {name: Path(path) for name, path in call["inputs"].items()}
    progress = lambda done, total: _say(report, progress=[done, total])  # noqa: E731 - one expression, handed on as a value
    resolve(call["function"])(**inputs, **call["parameters"], out=Path(call["out"]), progress=progress)


def _crash(words: str) -> dict[str, Any]:
    if is_out_of_memory(words):
        cause, hint = f"it ran out of its memory limit ({words})", "raise --memory, or use a smaller model"
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
