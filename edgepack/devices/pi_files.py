"""The files by which a Raspberry Pi makes itself known: /proc/cpuinfo, cpufreq, heat, throttling, made up for an emulated one.

Without them pytorch/cpuinfo, inside ONNX Runtime and LiteRT, reads the host's processor through qemu and crashes. The values are those
of an idle board with enough power; models end in "(emulated)", so that nobody takes them for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CORES = 4
_CPU = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Cache:
    """One cache of a core: ``kind`` "Data", "Instruction" or "Unified"; ``size`` in KiB; ``shared`` by all cores or not."""

    level: int
    kind: str
    size: int
    ways: int
    shared: bool = False

    @property
    def sets(self) -> int:
        """How many sets of 64-byte lines."""
        return self.size * 1024 // 64 // self.ways


@dataclass(frozen=True)
class Profile:
    """One model of Raspberry Pi.

    Attributes:
        cpu: the processor as qemu calls it; it raises SIGILL on an instruction that this processor lacks.
        features: as its kernel lists them; all are instructions that ``cpu`` executes, but evtstrm (a timer).
        variant, part, revision: of the processor's MIDR_EL1 register (implementer 0x41 is Arm).
        frequencies: least and most, kHz.
        throttled: where the firmware driver puts its bits: named after the device tree's nodes, which are not those of the other model.
        memory: KiB, as a board of 4 GB shows it.
    """

    name: str
    model: str
    compatible: tuple[str, ...]
    cpu: str
    features: str
    variant: int
    part: int
    revision: int
    board: str
    frequencies: tuple[int, int]
    caches: tuple[Cache, ...]
    throttled: str
    kernel: str
    memory: int

    @property
    def midr(self) -> int:
        """MIDR_EL1 (Arm Architecture Reference Manual, D19.2): implementer, variant, architecture 0xf, part, revision."""
        return 0x41 << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision


# Arm Cortex-A72: no dot product, no fp16 arithmetic, no LSE atomics. The BCM2711 also leaves out AES, which qemu's cortex-a72 executes; no
# kernel of the runtimes uses it.
PI4 = Profile(
    name="pi4",
    model="Raspberry Pi 4 Model B Rev 1.4 (emulated)",
    compatible=("raspberrypi,4-model-b", "brcm,bcm2711"),
    cpu="cortex-a72",
    features="fp asimd evtstrm crc32 cpuid",
    variant=0,
    part=0xD08,
    revision=3,
    board="c03114",
    frequencies=(600_000, 1_800_000),
    caches=(Cache(1, "Data", 32, 2), Cache(1, "Instruction", 48, 3), Cache(2, "Unified", 1024, 16, shared=True)),
    throttled="sys/devices/platform/soc/soc:firmware/get_throttled",
    kernel="6.12.25+rpt-rpi-v8",
    memory=3_880_000,
)
PI5 = Profile(
    name="pi5",
    model="Raspberry Pi 5 Model B Rev 1.0 (emulated)",
    compatible=("raspberrypi,5-model-b", "brcm,bcm2712"),
    cpu="cortex-a76",
    features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    variant=4,
    part=0xD0B,
    revision=1,
    board="c04170",
    frequencies=(1_500_000, 2_400_000),
    caches=(
        Cache(1, "Data", 64, 4),
        Cache(1, "Instruction", 64, 4),
        Cache(2, "Unified", 512, 8),
        Cache(3, "Unified", 2048, 16, shared=True),
    ),
    throttled="sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
    kernel="6.12.25+rpt-rpi-2712",
    memory=4_140_000,
)
PROFILES = {profile.name: profile for profile in (PI4, PI5)}


def write(profile: Profile, root: Path) -> None:
    """Put a profile's files below ``root``."""
    for name, text in files(profile).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


def files(profile: Profile) -> dict[str, str]:
    """Path without its first slash -> content."""
    tree = "".join(f"{each}\0" for each in profile.compatible)
    return {
        "proc/cpuinfo": _cpuinfo(profile),
        "proc/meminfo": _meminfo(profile.memory),
        "proc/vmstat": "pswpin 0\npswpout 0\n",
        "proc/loadavg": "0.00 0.01 0.00 1/180 1000\n",
        "proc/uptime": "3600.00 14300.00\n",
        "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        "proc/device-tree/model": f"{profile.model}\0",
        "sys/firmware/devicetree/base/model": f"{profile.model}\0",
        "sys/firmware/devicetree/base/compatible": tree,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "52300\n",
        # In hexadecimal, without 0x: bits 0-3 now, 16-19 since boot (drivers/firmware/raspberrypi.c of the Pi's kernel).
        profile.throttled: "0\n",
        f"{_CPU}/kernel_max": "255\n",
        f"{_CPU}/isolated": "\n",
        **{f"{_CPU}/{name}": f"0-{_CORES - 1}\n" for name in ("possible", "present", "online")},
        **{f"{_CPU}/cpu{core}/{name}": f"{value}\n" for core in range(_CORES) for name, value in _core(profile, core)},
    }


def _cpuinfo(profile: Profile) -> str:
    core = (
        f"BogoMIPS\t: 108.00\nFeatures\t: {profile.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {profile.variant:#x}\nCPU part\t: {profile.part:#x}\nCPU revision\t: {profile.revision}\n"
    )
    cores = "".join(f"processor\t: {index}\n{core}\n" for index in range(_CORES))
    return f"{cores}Revision\t: {profile.board}\nSerial\t\t: 0000000000000000\nModel\t\t: {profile.model}\n"


def _meminfo(total: int) -> str:
    free = total * 9 // 10
    sizes = {"MemTotal": total, "MemFree": free, "MemAvailable": free, "Buffers": 0, "Cached": 0, "SwapTotal": 0, "SwapFree": 0}
    return "".join(f"{name}:{size:>15} kB\n" for name, size in sizes.items())


def _core(profile: Profile, core: int) -> Iterator[tuple[str, object]]:
    everyone = f"0-{_CORES - 1}"
    yield "regs/identification/midr_el1", f"{profile.midr:#018x}"
    yield "topology/physical_package_id", 0
    yield "topology/core_id", core
    yield "topology/cluster_id", core
    for name in ("core_siblings_list", "package_cpus_list"):
        yield f"topology/{name}", everyone
    for name in ("thread_siblings_list", "core_cpus_list", "cluster_cpus_list"):
        yield f"topology/{name}", core
    yield "topology/core_siblings", f"{2**_CORES - 1:x}"
    yield "topology/thread_siblings", f"{1 << core:x}"
    yield from _frequency(*profile.frequencies)
    for index, cache in enumerate(profile.caches):
        yield from _cache(f"cache/index{index}", cache, everyone if cache.shared else str(core))


def _frequency(least: int, most: int) -> Iterator[tuple[str, object]]:
    yield "cpufreq/cpuinfo_min_freq", least
    yield "cpufreq/cpuinfo_max_freq", most
    for name, value in (("min", least), ("max", most), ("cur", most)):
        yield f"cpufreq/scaling_{name}_freq", value
    yield "cpufreq/scaling_governor", "ondemand"
    yield "cpufreq/scaling_available_governors", "ondemand performance powersave"


def _cache(folder: str, cache: Cache, cores: str) -> Iterator[tuple[str, object]]:
    yield f"{folder}/level", cache.level
    yield f"{folder}/type", cache.kind
    yield f"{folder}/size", f"{cache.size}K"
    yield f"{folder}/shared_cpu_list", cores
    yield f"{folder}/coherency_line_size", 64
    yield f"{folder}/ways_of_associativity", cache.ways
    yield f"{folder}/number_of_sets", cache.sets
