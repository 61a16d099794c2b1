"""Keys: a step's name in the store, made from everything its result depends on, with the parts kept so that a change can be explained."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from edgepack.converter.code import code_of
from edgepack.converter.digest import digest_of
from edgepack.converter.step import Step

# Raised when the layout of entries or the meaning of keys changes.
_SCHEMA = "1"
# Environment variables that choose numeric kernels, and with them the last bits of a result.
_KERNEL_CHOICES = ("OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


class KeyRecord(msgspec.Struct, frozen=True):
    """The parts of a key, by what they are: "input ranges", "parameter scheme", "code edgepack/hub/canonical.py", "tool onnx", "host"."""

    parts: dict[str, str]

    @property
    def key(self) -> str:
        """64 hexadecimal digits."""
        return digest_of(*(word for part in sorted(self.parts.items()) for word in part))

    def changes_since(self, before: Mapping[str, str]) -> list[str]:
        """What differs from another record of the same step, as phrases, sorted by what weighs most."""
        named = sorted({*self.parts, *before}, key=lambda name: (_WEIGHT.get(name.partition(" ")[0], 0), name))
        return [_change(name, before.get(name), self.parts.get(name)) for name in named if before.get(name) != self.parts.get(name)]


# Data first, then what the user chose, then the tools.
_WEIGHT = {"input": 1, "parameter": 2, "function": 3, "outputs": 3, "code": 4, "tool": 5, "host": 6, "schema": 7}
_LONGEST_VALUE = 40


def _change(name: str, before: str | None, now: str | None) -> str:
    if before is None:
        return f"{name} is new"
    if now is None:
        return f"{name} is gone"
    is_short = max(len(before), len(now)) <= _LONGEST_VALUE
    return f"{name} changed from {before} to {now}" if is_short else f"{name} changed"


def key_of(step: Step, inputs: Mapping[str, str], reads: Mapping[str, str]) -> KeyRecord:
    """The key of a step.

    Args:
        inputs: argument name -> sha256 of the file or folder that it is; reads: the same of ``step.reads``, of those that are there.
    """
    code = code_of(step.function)
    parts = {"schema": _SCHEMA, "function": step.function, "outputs": " ".join(step.outputs), "host": _host()}
    parts |= {f"code {path}": digest for path, digest in code.sources}
    parts |= {f"tool {name}": version for name, version in code.distributions}
    parts |= {f"input {name}": digest for name, digest in inputs.items()}
    for name, value in step.parameters.items():
        if name not in step.unkeyed:
            parts |= _parameter(name, value)
    return KeyRecord({**parts, **reads})


def _parameter(name: str, value: Any) -> dict[str, str]:
    """A parameter as text; a mapping a part an item, so that a change of one can be named."""
    if isinstance(value, Mapping):
        return {f"parameter {name}.{inner}": _text(held) for inner, held in value.items()} or {f"parameter {name}": "{}"}
    return {f"parameter {name}": _text(value)}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@cache
def _host() -> str:
    """The Python and the processor a step runs on: numeric kernels are chosen by its features."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    choices = "".join(f" {name}={os.environ[name]}" for name in _KERNEL_CHOICES if name in os.environ)
    return f"{python} {sys.platform} {platform.machine()} {digest_of(_cpu_features())[:12]}{choices}"


def _cpu_features() -> str:
    """The processor's features as Linux names them, its name elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), platform.processor())
