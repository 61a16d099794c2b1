"""The ONNX Runtime runner: CPU provider, one file, sent to a device as it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime  # noqa: TID253 - this program exists to run it
from numpy.typing import NDArray

from edgepack.runner import contract

_X86 = ("x86_64", "amd64", "i386", "i686")
# vpdpbusd, in its 512-bit and its 256-bit encoding.
_VNNI = {"avx512_vnni", "avx_vnni"}
# Threads of the process's pool, once there is one: its size is fixed.
_pool: list[int] = []


class OrtSession:
    """One ONNX model; inputs and outputs are bound once, so that ``invoke`` only computes."""

    def __init__(self, artifact: str, threads: int, shared: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if shared:
            _share_threads(threads)
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.x64quantprecision", "0" if sums_exactly() else "1")
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
        """Providers in use, and whether int8 products are summed exactly without the slower kernels asked for above."""
        return {"providers": self._session.get_providers(), "exact_int8": sums_exactly()}


def _share_threads(threads: int) -> None:
    """Make the pool that all further sessions of this process compute on; ValueError when there is one of another size."""
    if not _pool:
        onnxruntime.set_global_thread_pool_sizes(threads, 1)
        _pool.append(threads)
    if _pool != [threads]:
        raise ValueError(f"this process computes on {_pool[0]} threads, not on {threads}")


@cache
def sums_exactly() -> bool:
    """Whether this processor's own int8 dot product keeps 32 bits: Arm's does, x86's with VNNI.

    Older x86 adds two uint8 x int8 products in 16 bits and saturates, up to 61 steps off; onnxruntime then has to be told to take kernels
    that do not, which on EfficientNet-Lite0 take twice the time. Where the processor cannot be asked they are taken too.
    """
    if platform.machine().lower() not in _X86:
        return True
    return not _VNNI.isdisjoint(_cpu_flags())


def _cpu_flags() -> set[str]:
    """The processor's features as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


class Ort:
    """The runtime as the contract wants it.

    Attributes:
        owns_process: whether nothing else uses onnxruntime in this process. Then sessions of several threads share one pool. With a pool
            each, the idle session's threads spin after its query and take the other's core, for one of the two and for as long as the
            sessions live: a model timed against itself on two threads came out at 0.59 to 1.68 times its own speed, on one pool at 0.98
            to 1.02 (25 and 75 comparisons of benchmarks/latency_trials.py). onnxruntime then refuses sessions with a pool of their own.
    """

    name = "onnxruntime"
    version = onnxruntime.__version__
    truth = "host"
    owns_process = False

    def load(self, artifact: str, threads: int) -> OrtSession:
        """Open an .onnx file."""
        shared = self.owns_process and threads > 1 and hasattr(onnxruntime, "set_global_thread_pool_sizes")
        return OrtSession(artifact, threads, shared)


RUNTIME = Ort()


def main() -> int:
    """Answer the request named on the command line."""
    RUNTIME.owns_process = True
    return contract.main(RUNTIME)


if __name__ == "__main__":
    raise SystemExit(main())
