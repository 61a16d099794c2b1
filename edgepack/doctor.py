"""``edgepack doctor``: what of the environment works, what is missing, and what is known to break it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``next_step`` is empty when nothing needs doing."""

    name: str
    level: Level
    found: str
    next_step: str = ""


# Module -> (distribution, who needs it). An error when it does not import, except torch, which only Python and .pt2 students need.
_NEEDED = {
    "onnx": ("onnx", "the hub"),
    "onnxscript": ("onnxscript", "the hub"),
    "onnxruntime": ("onnxruntime", "calibration and raspberry-pi targets"),
    "ai_edge_litert.interpreter": ("ai-edge-litert", "android targets"),
    "coremltools": ("coremltools", "ios targets"),
    "torch": ("torch", "Python and .pt2 students"),
}
_IMPORT_SECONDS = 120


def checks() -> list[Check]:
    """Everything doctor looks at."""
    return [_python(), *(_import(module) for module in _NEEDED), *_conflicts(), _old_runtime(), _telemetry()]


def _python() -> Check:
    version, bits = platform.python_version(), "64-bit" if sys.maxsize > 2**32 else "32-bit"
    found = f"{version}, {bits}, {platform.system()} {platform.machine()}"
    if sys.version_info >= (3, 11) and bits == "64-bit":
        return Check("python", "ok", found)
    return Check("python", "error", found, "use a 64-bit Python 3.11 or newer")


def _import(module: str) -> Check:
    """Import in a process of its own: frameworks clash in one process, and a broken one may abort it."""
    distribution, needed_by = _NEEDED[module]
    missing: Level = "warning" if module == "torch" else "error"
    if find_spec(module.partition(".")[0]) is None:
        return Check(distribution, missing, f"not installed; {needed_by} need it", f"pip install {distribution}")
    complaint = _complaint(module)
    if complaint:
        return Check(distribution, "error", f"does not import: {complaint}", f"reinstall {distribution} as constraints.txt pins it")
    return Check(distribution, "ok", f"{_version(distribution)}, for {needed_by}")


def _version(distribution: str) -> str:
    """Its version, also when a sibling (onnxruntime-gpu) provides the module."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of another distribution"


def _conflicts() -> list[Check]:
    """Packages that break others by merely being installed (FACTS: torchvision against a CPU torch, numpy 1 runtimes)."""
    found = []
    if find_spec("torchvision") is not None and _complaint("torchvision"):
        broken = "installed but does not import; it also breaks transformers"
        found.append(Check("torchvision", "error", broken, "pip uninstall torchvision"))
    if find_spec("tflite_runtime") is not None:
        clash = "needs numpy 1 and clashes with this environment"
        found.append(Check("tflite-runtime", "warning", clash, "keep it in an environment of its own"))
    return found


def _old_runtime() -> Check:
    """tflite-runtime 2.14, which only target android-legacy needs and which is made when it does."""
    from edgepack.devices.tflite_runtime import VERSIONS, environment, is_made
    from edgepack.errors import DeviceError

    name, needed_by = "tflite-runtime", "for target android-legacy"
    try:
        if not is_made():
            return Check(name, "ok", f"not made yet; a build {needed_by} makes its environment, with pip")
        held = environment()
    except DeviceError as error:
        return Check(name, "warning", f"{error.cause}; {needed_by}", error.hint)
    words = _complaint("tflite_runtime.interpreter", held.command("-c"), held.variables())
    if words:
        return Check(name, "error", f"does not import: {words}", f"remove {held.site}: it is made again")
    return Check(name, "ok", f"{VERSIONS[name]} in an environment of its own, {needed_by}")


def _complaint(module: str, python: Sequence[str] = (sys.executable, "-P", "-c"), variables: Mapping[str, str] = os.environ) -> str:
    """Why a module does not import, "" when it does. -P: from its distribution, not from a file here of the same name."""
    command = [*python, f"import {module}"]
    quiet = {**variables, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False, env=quiet, errors="replace")
    except subprocess.TimeoutExpired:
        return f"it hangs for more than {_IMPORT_SECONDS} s"
    if not ended.returncode:
        return ""
    return (ended.stderr.strip().splitlines() or [f"it ends with {ended.returncode} and no message"])[-1][:160]


def _telemetry() -> Check:
    """onnxruntime leaves a device id in the home folder when it was ever imported with telemetry on."""
    left = Path.home() / ".cache" / "Microsoft" / "DeveloperTools" / ".onnxruntime"
    if left.exists():
        found = f"onnxruntime left a device id in {left} in a run outside edgepack"
        return Check("telemetry", "warning", found, "set ORT_DISABLE_TELEMETRY=1 in your shell")
    return Check("telemetry", "ok", "off in everything edgepack starts")
