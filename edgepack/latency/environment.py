"""What machine a latency was taken on, as readable facts. Names no host, user or address: the record travels in the pack.

Everything is read from /proc and /sys, which other systems and locked-down containers lack: a fact that cannot be read is left out.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

# Where boards say what they are; the string ends with a NUL.
_BOARD = ("sys/firmware/devicetree/base/model", "proc/device-tree/model")


def record(root: Path = Path("/")) -> dict[str, str]:
    """Facts about this machine now: board, processor, cores, governor, frequency, heat, memory, swap, load, kernel, Python.

    Args:
        root: where proc and sys are found.

    Returns:
        Fact -> words; absent where unreadable.
    """
    cpuinfo, meminfo = _fields(root / "proc/cpuinfo"), _fields(root / "proc/meminfo")
    facts = {
        "board": next(filter(None, (_text(root / path) for path in _BOARD)), ""),
        "processor": _processor(cpuinfo),
        "virtual machine": "yes" if "hypervisor" in cpuinfo.get("flags", "").split() else "",
        "cores": _cores(root),
        "governor": _per_core(root, "scaling_governor"),
        "frequency": _frequency(root),
        "temperature": _temperature(root),
        "memory": _gigabytes(meminfo, "MemTotal"),
        "memory available": _gigabytes(meminfo, "MemAvailable"),
        "swap": _swap(meminfo),
        "load average": " ".join(_text(root / "proc/loadavg").split()[:3]),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
    return {name: words for name, words in facts.items() if words}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """What was different at the end of a run, "before -> after"; facts only one record has are left out."""
    return {name: f"{before[name]} -> {after[name]}" for name in before if name in after and before[name] != after[name]}


def _processor(cpuinfo: Mapping[str, str]) -> str:
    """x86 gives a model name; Arm kernels give implementer and part codes."""
    named = cpuinfo.get("model name") or cpuinfo.get("Model") or cpuinfo.get("Hardware")
    if named or "CPU part" not in cpuinfo:
        return named or platform.processor()
    return f"Arm implementer {cpuinfo.get('CPU implementer', '?')} part {cpuinfo['CPU part']}"


def _cores(root: Path) -> str:
    """Cores this process may use, of all, and a container's quota."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    limit = f", quota {int(quota) / int(period):g}" if quota.isdigit() and period.isdigit() else ""
    return f"{usable} of {total}{limit}"


def _per_core(root: Path, name: str) -> str:
    """The distinct values of a cpufreq file over all cores."""
    found = (_text(path) for path in sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}")))
    return ", ".join(sorted({text for text in found if text}))


def _frequency(root: Path) -> str:
    """Current frequencies, kHz in the kernel's files."""
    kilohertz = sorted(int(text) for text in _per_core(root, "scaling_cur_freq").split(", ") if text.isdigit())
    return f"{kilohertz[0] / 1000:.0f} to {kilohertz[-1] / 1000:.0f} MHz" if kilohertz else ""


def _temperature(root: Path) -> str:
    """The hottest thermal zone, thousandths of a degree in the kernel's files."""
    zones = (_text(path) for path in (root / "sys/class/thermal").glob("thermal_zone*/temp"))
    degrees = [int(text) / 1000 for text in zones if text.lstrip("-").isdigit()]
    return f"{max(degrees):.0f} °C" if degrees else ""


def _swap(meminfo: Mapping[str, str]) -> str:
    total, free = _kibibytes(meminfo, "SwapTotal"), _kibibytes(meminfo, "SwapFree")
    if total is None or free is None:
        return ""
    return f"{(total - free) / 2**20:.1f} of {total / 2**20:.1f} GiB used" if total else "none"


def _gigabytes(meminfo: Mapping[str, str], field: str) -> str:
    kibibytes = _kibibytes(meminfo, field)
    return "" if kibibytes is None else f"{kibibytes / 2**20:.1f} GiB"


def _kibibytes(meminfo: Mapping[str, str], field: str) -> int | None:
    number = meminfo.get(field, "").split(" ")[0]
    return int(number) if number.isdigit() else None


def _fields(path: Path) -> dict[str, str]:
    """``name : value`` lines; of repeated names (a block a core) the first."""
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _text(path: Path) -> str:
    """A small file without its trailing NUL and newline, "" when it cannot be read."""
    try:
        return path.read_text(errors="replace").rstrip("\0\n ")
    except OSError:
        return ""
