"""The runner for .tflite artifacts on tflite-runtime, for old devices. Imports what the LiteRT runner does, but for its runtime."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

from edgepack.runner import contract
from edgepack.runner.litert import LiteRTSession


class TFLiteRuntimeSession(LiteRTSession):
    """One .tflite file in the interpreter that LiteRT's descends from: the same calls, older kernels."""

    @staticmethod
    def _open(artifact: str, threads: int) -> Any:
        from tflite_runtime.interpreter import Interpreter  # type: ignore[import-not-found]

        return Interpreter(model_path=artifact, num_threads=threads)


class TFLiteRuntime:
    """tflite-runtime on this machine's processor."""

    name = "tflite-runtime"
    truth = "host"

    def __init__(self) -> None:
        self.version = _installed_version()

    def load(self, artifact: str, threads: int) -> TFLiteRuntimeSession:
        """Open an artifact."""
        return TFLiteRuntimeSession(artifact, threads)


def _installed_version() -> str:
    try:
        return metadata.version("tflite-runtime")
    except metadata.PackageNotFoundError:
        return "unknown"


RUNTIME: contract.Runtime = TFLiteRuntime()


def main() -> int:
    """Answer one request file."""
    return contract.main(RUNTIME)


if __name__ == "__main__":
    sys.exit(main())
