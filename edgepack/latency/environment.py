"""What a device was like while it was measured: its facts in words, and what of it spoils a latency.

Pure: what ``edgepack.runner.probes`` read on the device goes in, words come out. Names no host, user or address: they travel in the pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
_SINCE_BOOT = 16
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
# Boards throttle from here on (Raspberry Pi: soft limit 80 °C by default from the 3B+ on; 85 °C hard).
_HOT = 80.0


def words(facts: Facts, state: State) -> dict[str, str]:
    """Fact -> words; what could not be read is left out."""
    found = {
        "board": facts.get("board") or "",
        "processor": facts.get("processor") or "",
        "instructions": " ".join(name for name in facts.get("features") or () if name in _CHOOSING),
        "virtual machine": "yes" if facts.get("virtual") else "",
        "cores": _cores(facts),
        "governor": ", ".join(state.get("governors") or ()),
        "frequency": _frequency(state),
        "temperature": _degrees(state),
        "throttling": _throttling_word(state),
        "memory": _gigabytes(facts.get("memory_kib")),
        "memory available": _gigabytes(state.get("memory_available_kib")),
        "swap": _swap(state),
        "load average": "" if state.get("load") is None else f"{state['load']:.2f}",
        "page size": f"{facts['page_bytes'] / 1024:g} KiB" if facts.get("page_bytes") else "",
        "kernel": facts.get("kernel") or "",
        "system": facts.get("system") or "",
        "architecture": facts.get("machine") or "",
        "python": facts.get("python") or "",
    }
    return {name: text for name, text in found.items() if text}


def changes(facts: Facts, states: Sequence[State]) -> dict[str, str]:
    """What was different at the end of a run, "before -> after"; facts only one record has are left out."""
    before, after = words(facts, states[0]), words(facts, states[-1])
    return {name: f"{before[name]} -> {after[name]}" for name in before if name in after and before[name] != after[name]}


def spoiled(facts: Facts, states: Sequence[State]) -> tuple[str, ...]:
    """What makes the times of a run no measure of the device, each with what to do; empty for a run that nothing disturbed.

    Args:
        states: at least two, in the order taken; the first from before the run, the last from after it.
    """
    found = (*_throttled(states), _slow_clock(facts, states), _swapped(states), _slept(states))
    return tuple(line for line in found if line)


def remarks(facts: Facts, states: Sequence[State]) -> tuple[str, ...]:
    """What a reader should know and what spoils nothing."""
    found = (_hot(states), _clock_set(states), _stolen(states))
    return tuple(line for line in found if line)


def _throttled(states: Sequence[State]) -> list[str]:
    """Seen at any look during the run, or noted by the firmware since the first."""
    held = [state["throttled"] for state in states if state.get("throttled") is not None]
    if not held:
        return []
    now = 0
    for word in held:
        now |= word
    newly = (held[-1] & ~held[0]) >> _SINCE_BOOT
    return [f"{what} during the run -> {hint}" for bit, (what, hint) in _THROTTLING.items() if (now | newly) >> bit & 1]


def _slow_clock(facts: Facts, states: Sequence[State]) -> str:
    """The fastest core ran below its full frequency at some look during the run. Not on x86, whose highest is a short boost."""
    during = [max(state["frequencies_khz"]) for state in states[1:-1] if state.get("frequencies_khz")]
    highest = states[0].get("highest_khz")
    if not during or not highest or not str(facts.get("machine")).startswith(("aarch64", "arm")) or min(during) >= _BELOW_FULL * highest:
        return ""
    governor = ", ".join(states[0].get("governors") or ()) or "unknown"
    return (
        f"the processor ran at {min(during) / 1000:.0f} of {highest / 1000:.0f} MHz (governor {governor}) -> set it for the measurement: "
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    )


def _swapped(states: Sequence[State]) -> str:
    before, after = states[0].get("swapped_pages"), states[-1].get("swapped_pages")
    if before is None or after is None or after <= before:
        return ""
    return f"the device swapped {after - before} pages during the run -> close other programs, or use a smaller model"


def _slept(states: Sequence[State]) -> str:
    """CLOCK_BOOTTIME counts sleep, CLOCK_MONOTONIC does not."""
    if states[0].get("boot_s") is None or states[-1].get("boot_s") is None:
        return ""
    asleep = _passed(states, "boot_s") - _passed(states, "monotonic_s")
    return f"the device slept for {asleep:.1f} s during the run -> keep it awake" if asleep > _CLOCK_SECONDS else ""


def _hot(states: Sequence[State]) -> str:
    degrees = max((state["temperature_c"] for state in states if state.get("temperature_c") is not None), default=0.0)
    return f"the device reached {degrees:.0f} °C: sustained work may be slower" if degrees >= _HOT else ""


def _clock_set(states: Sequence[State]) -> str:
    passed = _passed(states, "monotonic_s")
    moved = _passed(states, "wall_s") - passed
    if abs(moved) <= _CLOCK_SECONDS + _SLEW * passed:
        return ""
    return f"the device's clock was set by {moved:+.1f} s during the run; times come from another clock and hold"


def _stolen(states: Sequence[State]) -> str:
    before, after, passed = states[0].get("stolen_ticks"), states[-1].get("stolen_ticks"), _passed(states, "monotonic_s")
    if before is None or after is None or passed <= 0:
        return ""
    share = (after - before) / _TICKS / passed
    return f"the host of this virtual machine took {100 * share:.0f} % of a core's time for others" if share > _STOLEN else ""


def _passed(states: Sequence[State], clock: str) -> float:
    return float(states[-1].get(clock) or 0.0) - float(states[0].get(clock) or 0.0)


def _cores(facts: Facts) -> str:
    """Cores the runner may use, of all, and a container's quota."""
    if not facts.get("cores"):
        return ""
    quota = f", quota {facts['core_quota']:g}" if facts.get("core_quota") else ""
    return f"{facts.get('usable_cores', facts['cores'])} of {facts['cores']}{quota}"


def _frequency(state: State) -> str:
    kilohertz = sorted(state.get("frequencies_khz") or ())
    return f"{kilohertz[0] / 1000:.0f} to {kilohertz[-1] / 1000:.0f} MHz" if kilohertz else ""


def _degrees(state: State) -> str:
    return "" if state.get("temperature_c") is None else f"{state['temperature_c']:.0f} °C"


def _throttling_word(state: State) -> str:
    return "" if state.get("throttled") is None else f"0x{state['throttled']:x}"


def _swap(state: State) -> str:
    total, free = state.get("swap_total_kib"), state.get("swap_free_kib")
    if total is None or free is None:
        return ""
    return f"{(total - free) / 2**20:.1f} of {total / 2**20:.1f} GiB used" if total else "none"


def _gigabytes(kibibytes: int | None) -> str:
    return "" if kibibytes is None else f"{kibibytes / 2**20:.1f} GiB"
