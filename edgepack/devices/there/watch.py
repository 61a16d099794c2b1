"""How long a file is, twice a second, until standard input ends: the progress of a copy that is under way."""

import os
import sys
import threading
import time
from typing import Any, Dict  # noqa: UP035 - see the package


def answer(asked: Dict[str, Any]) -> None:  # noqa: UP006
    """Prints sizes in bytes, a line each; never returns."""
    threading.Thread(target=_leave_at_the_end, daemon=True).start()
    while True:
        try:
            print(os.stat(asked["path"]).st_size, flush=True)  # noqa: PTH116 - a path stays text, as it came
        except FileNotFoundError:
            print(0, flush=True)
        time.sleep(0.5)


def _leave_at_the_end() -> None:
    sys.stdin.read()
    os._exit(0)
