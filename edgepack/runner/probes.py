"""What a device is and how it does, read from /proc and /sys, or asked of macOS' own programs.

Standard library only: it is sent to the device with the supervisor.
A fact that cannot be read is None, or absent; nothing here raises. Numbers are in the units of their names.
"""

from __future__ import annotations

import os
import platform
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Where boards say what they are; the string ends with a NUL.
_BOARD = ("sys/firmware/devicetree/base/model", "proc/device-tree/model")
# Kernel counters of pages moved to and from swap since boot.
_SWAP_COUNTERS = ("pswpin", "pswpout")


def facts(root: str = "/") -> dict[str, Any]:
    """What does not change during a run: board, processor, its features, cores, memory, kernel, Python."""
    return {**_facts(Path(root)), **(_mac_facts() if _is_mac() else {})}


def _facts(base: Path) -> dict[str, Any]:
    cpu, memory = _fields(base / "proc/cpuinfo"), _fields(base / "proc/meminfo")
    release = dict(line.split("=", 1) for line in _text(base / "etc/os-release").splitlines() if "=" in line)
    return {
        "board": next(filter(None, (_text(base / path) for path in _BOARD)), ""),
        "processor": _processor(cpu),
        "features": sorted((cpu.get("Features") or cpu.get("flags") or "").split()),
        "virtual": "hypervisor" in cpu.get("flags", "").split(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "core_quota": _quota(base),
        "memory_kib": _number(memory.get("MemTotal", "")),
        "page_bytes": os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None,
        "kernel": f"{platform.system()} {platform.release()}",
        "system": release.get("PRETTY_NAME", "").strip('"'),
        "python": platform.python_version(),
        "pointer_bits": 8 * struct.calcsize("P"),
        "libc": "-".join(platform.libc_ver()),
    }


def state(root: str = "/") -> dict[str, Any]:
    """What does: frequencies, heat, throttling, swap, load, and three clocks whose steps tell whether one was set or the device slept."""
    return {**_state(Path(root)), **(_mac_state() if _is_mac() else {})}


def _state(base: Path) -> dict[str, Any]:
    memory = _fields(base / "proc/meminfo")
    return {
        "wall_s": time.time(),
        "monotonic_s": time.monotonic(),
        "boot_s": time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None,
        "governors": sorted(set(_per_core(base, "scaling_governor"))),
        "frequencies_khz": [int(text) for text in _per_core(base, "scaling_cur_freq") if text.isdigit()],
        "highest_khz": max((int(text) for text in _per_core(base, "cpuinfo_max_freq") if text.isdigit()), default=None),
        "temperature_c": _temperature(base),
        "throttled": _throttled(base),
        "swapped_pages": _swapped(base),
        "swap_total_kib": _number(memory.get("SwapTotal", "")),
        "swap_free_kib": _number(memory.get("SwapFree", "")),
        "memory_available_kib": _number(memory.get("MemAvailable", "")),
        "load": _load(base),
        "stolen_ticks": _stolen(base),
        "limits": [],
        "battery_saver": None,
    }


def _is_mac() -> bool:
    return platform.system() == "Darwin"


def _mac_facts() -> dict[str, Any]:
    """A Mac's model ("Mac15,3"), chip ("Apple M3"), memory, and system (man sysctl, sw_vers)."""
    version, memory = _asked("sw_vers", "-productVersion"), _asked("sysctl", "-n", "hw.memsize")
    return {
        "board": _asked("sysctl", "-n", "hw.model"),
        "processor": _asked("sysctl", "-n", "machdep.cpu.brand_string"),
        "memory_kib": int(memory) // 1024 if memory.isdigit() else None,
        "system": f"macOS {version}" if version else "macOS",
        "virtual": _asked("sysctl", "-n", "kern.hv_vmm_present") == "1",
    }


def _mac_state() -> dict[str, Any]:
    """What macOS says that it limits, whether Low Power Mode is on (man pmset), and a clock that counts sleep (man clock_gettime)."""
    power = dict(line.split()[:2] for line in _asked("pmset", "-g").splitlines() if len(line.split()) >= 2)
    return {
        "limits": _mac_limits(_asked("pmset", "-g", "therm")),
        "battery_saver": power.get("lowpowermode") == "1" if "lowpowermode" in power else None,
        "boot_s": time.clock_gettime(time.CLOCK_MONOTONIC),
        "load": os.getloadavg()[0],
    }


def _mac_limits(said: str) -> list[str]:
    """Of ``pmset -g therm``: limits of the processor below 100 (per cent), and thermal or performance warnings above 0."""
    speeds = re.findall(r"(CPU_(?:Speed|Scheduler)_Limit)\s*=\s*(\d{1,9})", said)
    warnings = re.findall(r"((?:Thermal|Performance) Warning Level)\s*=\s*(\d{1,9})", said, re.IGNORECASE)
    below = [f"{name} = {value}" for name, value in speeds if int(value) < 100]
    return below + [f"{name} = {value}" for name, value in warnings if int(value) > 0]


def _asked(*command: str) -> str:
    """What a program of the system says; "" when it cannot be asked."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""


def _processor(cpu: dict[str, str]) -> str:
    """x86 gives a model name; Arm kernels give implementer and part codes."""
    named = cpu.get("model name") or cpu.get("Hardware")
    if named or "CPU part" not in cpu:
        return named or platform.processor()
    return f"Arm implementer {cpu.get('CPU implementer', '?')} part {cpu['CPU part']}"


def _quota(base: Path) -> float | None:
    """Processors a container may use at once."""
    quota, _, period = _text(base / "sys/fs/cgroup/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _per_core(base: Path, name: str) -> list[str]:
    found = (_text(path) for path in sorted((base / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}")))
    return [text for text in found if text]


def _temperature(base: Path) -> float | None:
    """The hottest zone; thousandths of a degree in the kernel's files."""
    zones = (_text(path) for path in (base / "sys/class/thermal").glob("thermal_zone*/temp"))
    return max((int(text) / 1000 for text in zones if text.lstrip("-").isdigit()), default=None)


def _throttled(base: Path) -> int | None:
    """The firmware's word: bits 0-3 under-voltage, frequency capped, throttled, soft temperature limit now; 16-19 the same since boot."""
    for path in _throttle_files(base):
        text = _text(path).removeprefix("0x")
        if text:
            return int(text, 16) if re.fullmatch("[0-9a-fA-F]+", text) else None
    return _asked_throttled() if _is_raspberry(base) else None


def _throttle_files(base: Path) -> list[Path]:
    """Found once: walking the tree of devices takes longer than reading the file."""
    if base not in _found_throttle_files:
        folder = base / "sys/devices/platform"
        _found_throttle_files[base] = sorted([*folder.glob("*/get_throttled"), *folder.glob("*/*/get_throttled")])
    return _found_throttle_files[base]


_found_throttle_files: dict[Path, list[Path]] = {}


def _is_raspberry(base: Path) -> bool:
    return any(_text(base / path).startswith("Raspberry Pi") for path in _BOARD)


def _asked_throttled() -> int | None:
    try:
        said = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=2, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)\s*", said)
    return int(match[1], 16) if match else None


def _swapped(base: Path) -> int | None:
    counters = dict(line.split() for line in _text(base / "proc/vmstat").splitlines() if line.count(" ") == 1)
    counts = [int(counters[name]) for name in _SWAP_COUNTERS if counters.get(name, "").isdigit()]
    return sum(counts) if counts else None


def _load(base: Path) -> float | None:
    try:
        return float(_text(base / "proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return None


def _stolen(base: Path) -> int | None:
    """Ticks that the host of a virtual machine gave to others: the eighth number of the first line of /proc/stat."""
    words = _text(base / "proc/stat").partition("\n")[0].split()
    return int(words[8]) if len(words) > 8 and words[8].isdigit() else None


def _number(text: str) -> int | None:
    word = text.split(" ")[0]
    return int(word) if word.isdigit() else None


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


if __name__ == "__main__":
    import json

    json.dump({"facts": facts(), "state": state()}, sys.stdout, indent=1)
