"""What a phone is and how it does, in the terms of ``edgepack.runner.probes``: two lines of its shell, and what their answers mean.

Pure but for ``facts`` and ``state``, which ask. What cannot be read is None or absent: phones differ in what they let ``shell`` read.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from edgepack.devices.adb import Phone
from edgepack.devices.probed import Facts, State
from edgepack.devices.transport import TransportError

_Kind = TypeVar("_Kind")


class PhoneState(State, frozen=True):
    """A look at a phone: also PowerManager's thermal status (0 none to 6 shutdown), and whether the battery saver is on."""

    thermal_status: Annotated[int, Meta(ge=0, le=100)] | None = None
    battery_saver: bool | None = None


_CPU = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_FACTS = {
    "properties": "getprop",
    "machine": "uname -m",
    "kernel": "uname -r",
    "cpuinfo": "cat /proc/cpuinfo",
    "meminfo": "cat /proc/meminfo",
    "page": "getconf PAGESIZE",
    "usable": "nproc",
}
_STATE = {
    "governors": f"cat {_CPU}/scaling_governor",
    "now": f"cat {_CPU}/scaling_cur_freq",
    "highest": f"cat {_CPU}/cpuinfo_max_freq",
    "thermal": "dumpsys thermalservice",
    "saver": "settings get global low_power",
    "meminfo": "cat /proc/meminfo",
    "vmstat": "cat /proc/vmstat",
    "load": "cat /proc/loadavg",
}
_MARK = "@edgepack "
# Temperature types of android.os.Temperature: 0 CPU, 3 SKIN.
_CPU_TYPE, _SKIN_TYPE = 0, 3
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[0-9.]+), mType=(-?\d+),")
_THERMAL_STATUS = re.compile(r"Thermal Status: (\d+)")
_PROPERTY = re.compile(r"^\[(?P<name>[^\]]+)\]: \[(?P<value>.*?)\]$", re.MULTILINE)
# What phones that are none say of themselves: Android's emulator, whose kernel or boot loader names it.
_NOT_REAL = ("ro.boot.qemu", "ro.kernel.qemu")


def line(commands: dict[str, str]) -> str:
    """One line of shell that says every command's answer under its name; what fails says nothing."""
    return "; ".join(f"echo '{_MARK}{name}'; {command} 2>/dev/null" for name, command in commands.items()) + "; true"


def sections(said: str) -> dict[str, str]:
    """Answers by name."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for text in said.replace("\r", "").splitlines():
        if text.startswith(_MARK):
            current = found.setdefault(text[len(_MARK) :].strip(), [])
        else:
            current.append(text)
    return {name: "\n".join(lines) for name, lines in found.items()}


def facts(phone: Phone) -> tuple[Facts, str]:
    """What does not change during a run, and the ABI of its programs ("arm64-v8a").

    Raises:
        TransportError: it cannot be asked, or answers what is no answer.
    """
    said = sections(phone.asked(line(_FACTS), "asking what it is"))
    return _checked(facts_of(said), Facts, phone), _properties(said).get("ro.product.cpu.abi", "")


def state(phone: Phone, runner: str, seconds: float) -> PhoneState:
    """What does. ``runner`` is the path of the C runner there: it reads the clocks. ``seconds``: that it may take to answer."""
    commands = {"clocks": f"{shlex.quote(runner)} clocks", **_STATE}
    return _checked(state_of(sections(phone.asked(line(commands), "asking how it does", seconds))), PhoneState, phone)


def _checked(found: dict[str, Any], kind: type[_Kind], phone: Phone) -> _Kind:
    """What a phone says is a stranger's word until it was converted."""
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise TransportError(f"{phone.address} says of itself what cannot be ({error})", "restart it, and try again") from error


def _properties(said: dict[str, str]) -> dict[str, str]:
    return {match["name"]: match["value"] for match in _PROPERTY.finditer(said.get("properties", ""))}


def facts_of(said: dict[str, str]) -> dict[str, Any]:
    """Facts as ``edgepack.runner.probes.facts`` has them, from the answers to ``_FACTS``."""
    properties = _properties(said)
    cores = len(re.findall(r"^processor\s*:", said.get("cpuinfo", ""), re.MULTILINE)) or 1
    emulated = any(properties.get(name) == "1" for name in _NOT_REAL)
    return {
        "board": _board(properties),
        "processor": _processor(properties),
        "features": sorted(set(_field(said.get("cpuinfo", ""), "Features").split())),
        "virtual": emulated,
        "machine": said.get("machine", "").strip(),
        "cores": cores,
        "usable_cores": _number(said.get("usable", "")) or cores,
        "core_quota": None,
        "memory_kib": _kibibytes(said.get("meminfo", ""), "MemTotal"),
        "page_bytes": _number(said.get("page", "")),
        "kernel": f"Linux {said.get('kernel', '').strip()}",
        "system": _system(properties),
        "python": "",
        "pointer_bits": 64 if "64" in properties.get("ro.product.cpu.abi", "") else 32,
        "libc": "bionic",
    }


def state_of(said: dict[str, str]) -> dict[str, Any]:
    """The state as ``edgepack.runner.probes.state`` has it, from the answers to ``_STATE``; also Android's own word on heat.

    ``thermal_status`` is of PowerManager: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown.
    """
    thermal = said.get("thermal", "")
    status = _THERMAL_STATUS.search(thermal)
    meminfo = said.get("meminfo", "")
    return {
        **_clocks(said.get("clocks", "")),
        "governors": sorted(set(said.get("governors", "").split())),
        "frequencies_khz": _numbers(said.get("now", "")),
        "highest_khz": max(_numbers(said.get("highest", "")), default=None),
        "temperature_c": _temperature(thermal),
        "thermal_status": int(status[1]) if status else None,
        "battery_saver": {"1": True, "0": False}.get(said.get("saver", "").strip()),
        "throttled": None,
        "swapped_pages": _swapped(said.get("vmstat", "")),
        "swap_total_kib": _kibibytes(meminfo, "SwapTotal"),
        "swap_free_kib": _kibibytes(meminfo, "SwapFree"),
        "memory_available_kib": _kibibytes(meminfo, "MemAvailable"),
        "load": _load(said.get("load", "")),
        "stolen_ticks": None,
    }


def _board(properties: dict[str, str]) -> str:
    """Maker and model; makers repeat themselves in some models' names."""
    maker, model = properties.get("ro.product.manufacturer", ""), properties.get("ro.product.model", "")
    return model if model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()


def _processor(properties: dict[str, str]) -> str:
    """The chip as its maker names it (Android 12 and later), or the board's platform."""
    named = (properties.get("ro.soc.manufacturer", ""), properties.get("ro.soc.model", ""))
    return " ".join(filter(None, named)) or properties.get("ro.board.platform", "")


def _system(properties: dict[str, str]) -> str:
    return f"Android {properties.get('ro.build.version.release', '?')} (API {properties.get('ro.build.version.sdk', '?')})"


def _clocks(said: str) -> dict[str, float]:
    try:
        found = json.loads(said)
        return {name: float(found[name]) for name in ("wall_s", "monotonic_s", "boot_s")}
    except (ValueError, KeyError, TypeError):
        return {}


def _temperature(thermal: str) -> float | None:
    """The hottest processor the phone reports now, or its skin; cached values come first in the answer and are older."""
    _, _, now = thermal.partition("Current temperatures from HAL")
    found = [(int(kind), float(value)) for value, kind in _TEMPERATURE.findall(now or thermal)]
    for wanted in (_CPU_TYPE, _SKIN_TYPE):
        degrees = [value for kind, value in found if kind == wanted]
        if degrees:
            return max(degrees)
    return None


def _swapped(vmstat: str) -> int | None:
    counts = re.findall(r"^pswp(?:in|out) (\d+)$", vmstat, re.MULTILINE)
    return sum(map(int, counts)) if counts else None


def _load(text: str) -> float | None:
    match = re.match(r"\s*([0-9.]+) ", text)
    return float(match[1]) if match else None


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else ""


def _kibibytes(meminfo: str, name: str) -> int | None:
    return _number(_field(meminfo, name).removesuffix("kB"))


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split() if word.isdigit()]
