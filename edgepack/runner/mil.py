"""The MIL runner: Core ML packages in our own interpreter, on this machine only. It checks results; it measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.mil.operation import State
from edgepack.mil.program import Program
from edgepack.mil.rounding import to_half
from edgepack.runner import contract


class MilSession:
    """One .mlpackage, read back from disk."""

    def __init__(self, artifact: str) -> None:
        self._program = Program.load(artifact)
        self._states = self._program.new_states()
        self._feed: contract.Arrays = {}
        self._results: contract.Arrays = {}

    def set_inputs(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Take a copy of one sample, by input name; states are written, where the package says what becomes of them."""
        named = self._program.state_outputs
        self._feed = {name: np.array(array) for name, array in feed.items() if name not in named}
        self._states = self._program.new_states() if not named else {name: State(to_half(np.array(feed[name]))) for name in named}

    def invoke(self) -> None:
        """Run every operation."""
        self._results = self._program.run(self._feed, self._states)

    def outputs(self) -> contract.Arrays:
        """Copies of the results, by output name, and of what states hold now, by the names that the package has for it."""
        held = {result: self._states[state].array for state, result in self._program.state_outputs.items()}
        return {name: array.copy() for name, array in {**self._results, **held}.items()}

    def describe(self) -> dict[str, Any]:
        """Opset and operations of the package."""
        counts: dict[str, int] = {}
        for step in self._program.steps:
            counts[step.operation.type] = counts.get(step.operation.type, 0) + 1
        return {"opset": self._program.opset, "operations": counts}


class Mil:
    """The runtime as the contract wants it. ``no_latency`` makes the contract refuse "time"."""

    name = "mil"
    version = f"coremltools {metadata.version('coremltools')}, MIL interpreter"
    truth = "simulated"
    no_latency = "the MIL interpreter checks results; Core ML's speed exists only on Apple systems"

    def load(self, artifact: str, threads: int) -> MilSession:
        """Open an .mlpackage folder. numpy's BLAS has read its thread count by now: OMP_NUM_THREADS decides, ``threads`` does not."""
        return MilSession(artifact)


RUNTIME = Mil()


def main() -> int:
    """Answer the request named on the command line."""
    return contract.main(RUNTIME)


if __name__ == "__main__":
    raise SystemExit(main())
