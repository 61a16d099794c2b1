"""Programs that stand where a runner stands, and misbehave."""

from __future__ import annotations

_HEAD = '"runtime": "sample", "version": "1", "truth": "host"'
ANSWER = f"""print('{{"schema": 1, "ok": true, "count": 3, {_HEAD}}}')"""

GOOD = f"print('some library says hello')\n{ANSWER}"
WITH_PROGRESS = f"""
import sys
print('{{"progress": [1, 3]}}', 'a warning', '{{"progress": oh', '{{"progress": [1]}}', sep='\\n', file=sys.stderr)
{ANSWER}
"""
LOUD = f"import sys\nsys.stderr.write(('y' * 79 + '\\n') * 20000)\n{ANSWER}"
SILENT = "pass"
GARBAGE = "import os; os.write(1, b'\\xff\\xfe{{{')"
BINARY_ANSWER = 'import os; os.write(1, b\'{"runtime": "\\xff"}\')'
OTHER_SCHEMA = ANSWER.replace('"schema": 1', '"schema": 2')
NOT_OK = f"""print('{{"schema": 1, "ok": false, "error": "ValueError: no input y", {_HEAD}}}')"""
NO_MEMORY = NOT_OK.replace("ValueError: no input y", "MemoryError: Unable to allocate")
ABORTS = "import os, sys; print('kernel: check failed', file=sys.stderr, flush=True); os.abort()"
HANGS = "import time; time.sleep(600)"
_STARTS_CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
"""
HANGS_WITH_CHILD = f"{_STARTS_CHILD}\ntime.sleep(600)"
LEAVES_CHILD = f"{_STARTS_CHILD}\n{ANSWER}"
ALLOCATES = f"x = bytearray(2**29)\n{ANSWER}"
