"""What a device was like while it was measured: its facts in words, and what of it spoils a latency.

Pure: what ``edgepack.runner.probes`` read on the device goes in, words come out. Names no host, user or address: they travel in the pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, TypeGuard

# What a probe reads: ``probes.facts`` once, ``probes.state`` before, about every second, and after.
Facts = Mapping[str, Any]
State = Mapping[str, Any]

# Features by which runtimes choose their kernels, as the kernel names them: Arm's dot products, fp16, matrix products; x86's vectors.
_CHOOSING = frozenset(
    "asimddp asimdhp i8mm bf16 sve sve2 sme avx avx2 avx512f avx512_vnni avx_vnni avx512_bf16 amx_int8".split()  # noqa: SIM905
)

# Bits of the Raspberry Pi firmware's throttling word that hold now; the same 16 higher since boot (Raspberry Pi documentation,
# "vcgencmd get_throttled").
_THROTTLING = {
    0: ("under-voltage", "use the power supply that came for this board, and a short cable"),
    1: ("the frequency was capped", "cool the board and check its power supply"),
    2: ("it was throttled", "cool the board: a heat sink or a fan"),
    3: ("the soft temperature limit was reached", "cool the board: a heat sink or a fan"),
}
_SINCE_BOOT, _UNDER_VOLTAGE = 16, 0
# Kernels step frequencies; 2 % is below any step of the boards known here (100 MHz of 2400) and above rounding in their files.
_BELOW_FULL = 0.98
# The clocks that differ when a device sleeps, or when somebody sets the time, are read microseconds apart; a tenth of a second is no
# reading error, and NTP slews by at most 0.0005 a second.
_CLOCK_SECONDS = 0.1
_SLEW = 0.0005
# Ticks of /proc/stat a second on every Linux (USER_HZ).
_TICKS = 100
# The host of a virtual machine took this share of one core's time, as much as SLOWER_ABOVE in latency.statistics decides on.
_STOLEN = 0.03
# android.os.PowerManager's THERMAL_STATUS_* by number, and from which on it throttles.
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_MODERATE = 2
# Boards throttle from here on (Raspberry Pi: soft limit 80 °C by default from the 3B+ on; 85 °C hard).
_HOT = 80.0


def words(facts: Facts, state: State) -> dict[str, str]:
    """Fact -> words; what could not be read, or is of no such kind, is left out."""
    throttled = int(_number(state, "throttled", -1.0))
    found = {
        "board": _text(facts, "board"),
        "processor": _text(facts, "processor"),
        "instructions": _list(facts, "features", " ", _CHOOSING),
        "virtual machine": "yes" if facts.get("virtual") is True else "",
        "cores": _cores(facts),
        "governor": _list(state, "governors", ", "),
        "frequency": _frequency(state),
        "temperature": _counted(state, "temperature_c", "{:.0f} °C"),
        "throttling": f"0x{throttled:x}" if throttled >= 0 else "",
        "thermal status": _thermal_status(state),
        "limits": _list(state, "limits", ", "),
        "battery saver": "on" if state.get("battery_saver") is True else "",
        "memory": _counted(facts, "memory_kib", "{:.1f} GiB", 2**20),
        "memory available": _counted(state, "memory_available_kib", "{:.1f} GiB", 2**20),
        "swap": _swap(state),
        "load average": _counted(state, "load", "{:.2f}"),
        "page size": _counted(facts, "page_bytes", "{:g} KiB", 1024),
        "kernel": _text(facts, "kernel"),
        "system": _text(facts, "system"),
        "architecture": _text(facts, "machine"),
        "python": _text(facts, "python"),
    }
    return {name: text for name, text in found.items() if text}


def during(states: Sequence[State], began_s: float | None, ended_s: float | None) -> Sequence[State]:
    """The looks between two moments, with one on each side: importing, loading and warming up are no part of what is timed.

    Args:
        states: in the order taken. began_s, ended_s: of the device's monotonic clock; all looks count where they are not known.
    """
    if began_s is None or ended_s is None:
        return states
    before = sum(_number(state, "monotonic_s", 0.0) <= began_s for state in states)
    until = sum(_number(state, "monotonic_s", 0.0) < ended_s for state in states)
    return states[max(0, before - 1) : until + 1]


def spoiled(facts: Facts, states: Sequence[State], *, sustained: bool = False) -> tuple[str, ...]:
    """What makes the times of a run no measure of the device, each with what to do; empty for a run that nothing disturbed.

    Args:
        states: in the order taken (``during``); the first from before the run, the last from after it.
        sustained: a device that heats up and slows down is then what the run is to show (``remarks`` tells it); a bad supply is not.
    """
    slowed = [line for bit, line in _throttled(states) if bit == _UNDER_VOLTAGE] if sustained else _slowed(facts, states)
    return _said(*slowed, _swapped(states), _slept(states))


def remarks(facts: Facts, states: Sequence[State], *, sustained: bool = False) -> tuple[str, ...]:
    """What a reader should know and what spoils nothing."""
    shown = [line for line in _slowed(facts, states) if line not in spoiled(facts, states, sustained=True)] if sustained else []
    return _said(*shown, _phone_clock(facts, states), _hot(states), _clock_set(states), _stolen(states))


def _said(*found: str) -> tuple[str, ...]:
    return tuple(line for line in found if line)


def _slowed(facts: Facts, states: Sequence[State]) -> list[str]:
    return [
        *(line for _, line in _throttled(states)),
        _thermally_throttled(states),
        _limited(states),
        _slow_clock(facts, states),
        _saving(states),
    ]


def _throttled(states: Sequence[State]) -> list[tuple[int, str]]:
    """(bit, words) of what was seen at any look during the run, or noted by the firmware since the first."""
    held = [int(word) for word in _numbers(states, "throttled") if 0 <= word < 2**32]
    if not held:
        return []
    seen = reduce(or_, held) | (held[-1] & ~held[0]) >> _SINCE_BOOT
    return [(bit, f"{what} during the run -> {hint}") for bit, (what, hint) in _THROTTLING.items() if seen >> bit & 1]


def _thermal_status(state: State) -> str:
    """Of a phone, in Android's words."""
    held = int(_number(state, "thermal_status", -1.0))
    return _THERMAL[held] if 0 <= held < len(_THERMAL) else ""


def _thermally_throttled(states: Sequence[State]) -> str:
    """Android says so itself, of the whole phone: from "moderate" on it slows programs down (PowerManager.THERMAL_STATUS_MODERATE)."""
    worst = int(max(_numbers(states, "thermal_status"), default=0.0))
    words = _THERMAL[min(worst, len(_THERMAL) - 1)]
    return f"the phone was throttled by heat (thermal status {words}) -> let it cool, take it out of its case" if worst >= _MODERATE else ""


def _limited(states: Sequence[State]) -> str:
    """What macOS says of itself (``pmset -g therm``)."""
    found = dict.fromkeys(words for state in states for words in _words_of(state, "limits"))
    return f"the system slowed the processor down ({', '.join(found)}) -> let it cool, and plug it in" if found else ""


def _saving(states: Sequence[State]) -> str:
    saving = any(state.get("battery_saver") is True for state in states)
    return "the battery saver was on, which slows the processor -> switch it off, or charge the device" if saving else ""


def _slow_clock(facts: Facts, states: Sequence[State]) -> str:
    """The fastest core ran below its full frequency at some look during the run. Not on x86, whose highest is a short boost."""
    below = "" if _is_phone(facts) else _below_full(facts, states)
    if not below:
        return ""
    governor = _list(states[0], "governors", ", ") or "unknown"
    hint = "set it for the measurement: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return f"{below} (governor {governor}) -> {hint}"


def _phone_clock(facts: Facts, states: Sequence[State]) -> str:
    """Nobody but the phone sets its clocks, and it lowers them as a matter of course: to be told, and no fault of the run."""
    return f"{_below_full(facts, states)}, as phones do" if _is_phone(facts) and _below_full(facts, states) else ""


def _is_phone(facts: Facts) -> bool:
    return _text(facts, "system").startswith("Android ")


def _below_full(facts: Facts, states: Sequence[State]) -> str:
    """The lowest that the fastest core was seen at during the run, in words; "" where that is full speed."""
    fastest = [max(found) for state in states[1:-1] if (found := _frequencies(state))]
    highest = max(_numbers(states, "highest_khz"), default=0.0)
    if not fastest or not _text(facts, "machine").startswith(("aarch64", "arm")) or min(fastest) >= _BELOW_FULL * highest:
        return ""
    return f"the processor ran at {min(fastest) / 1000:.0f} of {highest / 1000:.0f} MHz"


def _swapped(states: Sequence[State]) -> str:
    pages = _passed(states, "swapped_pages")
    return f"the device swapped {pages:.0f} pages during the run -> close other programs, or use a smaller model" if pages > 0 else ""


def _slept(states: Sequence[State]) -> str:
    """CLOCK_BOOTTIME counts sleep, CLOCK_MONOTONIC does not."""
    both = [state for state in states if _numbers([state], "boot_s") and _numbers([state], "monotonic_s")]
    asleep = _passed(both, "boot_s") - _passed(both, "monotonic_s")
    return f"the device slept for {asleep:.1f} s during the run -> keep it awake" if asleep > _CLOCK_SECONDS else ""


def _hot(states: Sequence[State]) -> str:
    degrees = max(_numbers(states, "temperature_c"), default=0.0)
    return f"the device reached {degrees:.0f} °C: sustained work may be slower" if degrees >= _HOT else ""


def _clock_set(states: Sequence[State]) -> str:
    passed = _passed(states, "monotonic_s")
    moved = _passed(states, "wall_s") - passed
    if abs(moved) <= _CLOCK_SECONDS + _SLEW * passed:
        return ""
    return f"the device's clock was set by {moved:+.1f} s during the run; times come from another clock and hold"


def _stolen(states: Sequence[State]) -> str:
    passed = _passed(states, "monotonic_s")
    share = _passed(states, "stolen_ticks") / _TICKS / passed if passed > 0 else 0.0
    return f"the host of this virtual machine took {100 * share:.0f} % of a core's time for others" if share > _STOLEN else ""


def _passed(states: Sequence[State], clock: str) -> float:
    """How much further a clock or counter is at the last look that holds it than at the first; 0 when none does."""
    held = _numbers(states, clock)
    return held[-1] - held[0] if held else 0.0


def _cores(facts: Facts) -> str:
    """Cores the runner may use, of all, and a container's quota."""
    cores, quota = _number(facts, "cores", 0.0), _number(facts, "core_quota", 0.0)
    words = f"{_number(facts, 'usable_cores', cores):g} of {cores:g}"
    return f"{words}, quota {quota:g}" if cores and quota else words if cores else ""


def _frequency(state: State) -> str:
    kilohertz = _frequencies(state)
    return f"{min(kilohertz) / 1000:.0f} to {max(kilohertz) / 1000:.0f} MHz" if kilohertz else ""


def _frequencies(state: State) -> list[float]:
    held = state.get("frequencies_khz")
    return [float(each) for each in held if _is_number(each)] if isinstance(held, list | tuple) else []


def _swap(state: State) -> str:
    total, free = _number(state, "swap_total_kib", -1.0), _number(state, "swap_free_kib", -1.0)
    if total < 0 or free < 0:
        return ""
    return f"{(total - free) / 2**20:.1f} of {total / 2**20:.1f} GiB used" if total else "none"


def _counted(of: Facts | State, name: str, form: str, unit: float = 1.0) -> str:
    """A number in words, in units of ``unit``; "" when it could not be read."""
    return form.format(held[0] / unit) if (held := _numbers([of], name)) else ""


# What a device says is a stranger's: what is not of the kind it should be counts as what could not be read.


def _is_number(held: object) -> TypeGuard[float]:
    return isinstance(held, int | float) and abs(held) < 2**63


def _numbers(states: Sequence[State], name: str) -> list[float]:
    return [float(held) for held in (state.get(name) for state in states) if _is_number(held)]


def _number(of: Facts | State, name: str, otherwise: float) -> float:
    return next(iter(_numbers([of], name)), otherwise)


def _text(of: Facts | State, name: str) -> str:
    held = of.get(name)
    return held if isinstance(held, str) else ""


def _words_of(of: Facts | State, name: str) -> list[str]:
    held = of.get(name)
    return [each for each in held if isinstance(each, str)] if isinstance(held, list | tuple) else []


def _list(of: Facts | State, name: str, between: str, among: frozenset[str] | None = None) -> str:
    return between.join(each for each in _words_of(of, name) if among is None or each in among)
