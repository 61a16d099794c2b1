"""tflite-runtime 2.14 for tests: one process that stays, as it takes longer to start than a small file to run."""

from __future__ import annotations

import atexit
import json
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepack.arrays import load_arrays, save_arrays
from edgepack.devices.tflite_runtime import RUNNER, Environment, environment
from edgepack.errors import DeviceError
from edgepack.runner.bundle import bundle

RUNTIME = "2.14"

Arrays = dict[str, NDArray[Any]]

# The runner itself, asked again and again: a path of a request a line.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from edgepack.runner import contract, tflite_runtime
for line in sys.stdin:
    contract.main(tflite_runtime.RUNTIME, [line.strip()])
"""


def demanded() -> Environment:
    """The environment; the test is skipped, with the reason, where it cannot be had."""
    try:
        return environment()
    except DeviceError as error:
        pytest.skip(str(error))


class OldSession:
    """One .tflite file, as the runners' sessions are."""

    def __init__(self, artifact: str) -> None:
        self._artifact, self._results = artifact, Arrays()
        self._feed: Mapping[str, NDArray[Any]] = {}

    def set_inputs(self, feed: Mapping[str, NDArray[Any]]) -> None:
        self._feed = feed

    def invoke(self) -> None:
        """RuntimeError when the runtime refuses the file, or its process dies of it."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            save_arrays(folder / "in.npz", {name: np.asarray(array)[None] for name, array in self._feed.items()})
            files = {"inputs": str(folder / "in.npz"), "outputs": str(folder / "out.npz")}
            (folder / "request.json").write_text(json.dumps({"schema": 1, "action": "run", "artifacts": {"a": self._artifact}, **files}))
            _ask(folder / "request.json")
            self._results = {name: array[0] for name, array in load_arrays(folder / "out.npz").items()}

    def outputs(self) -> Arrays:
        return self._results


def _ask(request: Path) -> None:
    process = _process()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{request}\n")
    process.stdin.flush()
    said = process.stdout.readline()
    if not said:
        _process.cache_clear()
        raise RuntimeError(f"the old runtime died with code {process.wait()}")
    response = json.loads(said)
    if not response["ok"]:
        raise RuntimeError(response["error"])


@cache
def _process() -> subprocess.Popen[str]:
    held = environment()
    folder = tempfile.TemporaryDirectory()
    command = held.command("-c", _PROGRAM, str(bundle(RUNNER, Path(folder.name) / "runner.pyz")))
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True, env=held.variables())
    atexit.register(folder.cleanup)
    atexit.register(process.kill)
    return process
