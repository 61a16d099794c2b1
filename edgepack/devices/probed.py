"""What a device says of itself (``edgepack.runner.probes``), as what it must be: it is a stranger's word until it was converted."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

# Longer than any board, processor or kernel calls itself.
_Words = Annotated[str, Meta(max_length=200)]
# Of cores (the kernel's own limit is 8192, CONFIG_NR_CPUS) and of features (x86 knows about 150).
_Names = Annotated[list[_Words], Meta(max_length=8192)]
# What an integer of 64 bits holds: counters, kHz, KiB, bits.
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Cores = Annotated[int, Meta(ge=1, le=2**16)]
# Seconds: more than the age of the universe, and sums of them stay exact enough to print.
_Seconds = Annotated[float, Meta(ge=-1e18, le=1e18)]
_Degrees = Annotated[float, Meta(ge=-1000, le=1000)]
_Load = Annotated[float, Meta(ge=0, le=1e9)]


class Facts(msgspec.Struct, frozen=True):
    """``edgepack.runner.probes.facts``; what could not be read is None or empty."""

    board: _Words
    processor: _Words
    features: _Names
    virtual: bool
    machine: _Words
    cores: _Cores
    usable_cores: _Cores
    core_quota: _Load | None
    memory_kib: _Count | None
    page_bytes: _Count | None
    kernel: _Words
    system: _Words
    python: _Words
    pointer_bits: _Count
    libc: _Words


class State(msgspec.Struct, frozen=True):
    """``edgepack.runner.probes.state``: one look; what could not be read is None or empty."""

    wall_s: _Seconds
    monotonic_s: _Seconds
    boot_s: _Seconds | None
    governors: _Names
    frequencies_khz: Annotated[list[_Count], Meta(max_length=8192)]
    highest_khz: _Count | None
    temperature_c: _Degrees | None
    throttled: _Count | None
    swapped_pages: _Count | None
    swap_total_kib: _Count | None
    swap_free_kib: _Count | None
    memory_available_kib: _Count | None
    load: _Load | None
    stolen_ticks: _Count | None
    limits: Annotated[list[_Words], Meta(max_length=16)] = []
    battery_saver: bool | None = None


# Before a run and after it at least; between them one about every second.
States = Annotated[list[State], Meta(min_length=2)]
