"""Probes: this machine's facts against psutil, a Raspberry Pi's files, and a machine that tells nothing."""

from __future__ import annotations

import os
import platform
import socket
import struct
from pathlib import Path

import psutil
import pytest

from edgepack.runner import probes


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.fixture
def raspberry_pi(tmp_path: Path) -> str:
    core = "sys/devices/system/cpu/cpu{}/cpufreq/{}"
    return write(
        tmp_path,
        {
            "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/cpuinfo": "Features\t: fp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nprocessor\t: 1\nCPU part\t: 1\n",
            "proc/meminfo": "MemTotal:   8257540 kB\nMemAvailable: 4128770 kB\nSwapTotal:   204800 kB\nSwapFree:   102400 kB\n",
            "proc/vmstat": "pgfault 12\npswpin 3\npswpout 4\n",
            "proc/loadavg": "0.52 0.58 0.59 1/257 12345\n",
            "proc/stat": "cpu  1 2 3 4 5 6 7 8 9 10\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            core.format(0, "scaling_governor"): "ondemand\n",
            core.format(0, "scaling_cur_freq"): "1500000\n",
            core.format(0, "cpuinfo_max_freq"): "2400000\n",
            core.format(1, "scaling_governor"): "performance\n",
            core.format(1, "scaling_cur_freq"): "2400000\n",
            "sys/class/thermal/thermal_zone0/temp": "61234\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )


def test_a_raspberry_pi_is_described_from_its_files(raspberry_pi: str) -> None:
    found = probes.facts(raspberry_pi)
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["processor"] == "Arm implementer 0x41 part 0xd0b"
    assert found["features"] == ["asimddp", "fp"]
    assert (found["memory_kib"], found["core_quota"], found["virtual"]) == (8257540, 1.5, False)
    assert found["system"] == "Debian GNU/Linux 12 (bookworm)"


def test_its_state_is_read_from_its_files(raspberry_pi: str) -> None:
    found = probes.state(raspberry_pi)
    assert found["governors"] == ["ondemand", "performance"]
    assert found["frequencies_khz"] == [1500000, 2400000] and found["highest_khz"] == 2400000
    assert found["temperature_c"] == 61.234
    # Under-voltage and throttled, now (bits 0 and 2) and since boot (16 and 18).
    assert found["throttled"] == 0x50005
    assert (found["swapped_pages"], found["swap_total_kib"], found["swap_free_kib"]) == (7, 204800, 102400)
    assert (found["load"], found["stolen_ticks"]) == (0.52, 8)


def test_a_throttling_word_that_is_no_number_is_not_taken_for_all_well(raspberry_pi: str) -> None:
    write(Path(raspberry_pi), {"sys/devices/platform/soc/soc:firmware/get_throttled": "unknown\n"})
    assert probes.state(raspberry_pi)["throttled"] is None


def test_a_machine_that_tells_nothing_still_has_facts_and_clocks(tmp_path: Path) -> None:
    facts, state = probes.facts(str(tmp_path)), probes.state(str(tmp_path))
    assert facts["board"] == "" and facts["memory_kib"] is None
    assert state["temperature_c"] is None and state["throttled"] is None and state["swapped_pages"] is None
    assert state["monotonic_s"] > 0


def test_this_machine_agrees_with_psutil_and_names_no_host() -> None:
    facts, state = probes.facts(), probes.state()
    assert facts["python"] == platform.python_version()
    assert facts["pointer_bits"] == 8 * struct.calcsize("P")
    assert facts["cores"] == os.cpu_count()
    if facts["memory_kib"] is not None:
        assert facts["memory_kib"] * 1024 == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert socket.gethostname() not in {*map(str, facts.values()), *map(str, state.values())}
