"""The ONNX Runtime runner: CPU provider, one file, sent to a device as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime  # noqa: TID253 - this program exists to run it
from numpy.typing import NDArray

from edgepack.runner import contract


class OrtSession:
    """One ONNX model; inputs and outputs are bound once, so that ``invoke`` only computes."""

    def __init__(self, artifact: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        # Without VNNI, x86 kernels saturate in 16 bits and are wrong by up to 61 steps; Arm never does (FACTS.md).
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._binding = self._session.io_binding()

    def set_inputs(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Bind one sample by input name."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for name, array in feed.items():
            # onnxruntime reads the array's own memory; np.ascontiguousarray would give a scalar an axis.
            self._binding.bind_cpu_input(name, np.array(array, order="C"))
        for name in self._names:
            self._binding.bind_output(name)

    def invoke(self) -> None:
        """Compute."""
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> contract.Arrays:
        """Copies of the results by name."""
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))

    def describe(self) -> dict[str, Any]:
        """Providers in use."""
        return {"providers": self._session.get_providers()}


class Ort:
    """The runtime as the contract wants it."""

    name = "onnxruntime"
    version = onnxruntime.__version__
    truth = "host"

    def load(self, artifact: str, threads: int) -> OrtSession:
        """Open an .onnx file."""
        return OrtSession(artifact, threads)


RUNTIME = Ort()


def main() -> int:
    """Answer the request named on the command line."""
    return contract.main(RUNTIME)


if __name__ == "__main__":
    raise SystemExit(main())
