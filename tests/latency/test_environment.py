"""Machine facts: this machine's, a Raspberry Pi's files, and a machine that tells nothing."""

import os
import platform
import socket
from pathlib import Path

import psutil
import pytest

from edgepack.latency.environment import changes, record


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def raspberry_pi(tmp_path: Path) -> Path:
    return _write(
        tmp_path,
        {
            "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nprocessor\t: 1\nCPU part\t: 0xd0b\n",
            "proc/meminfo": "MemTotal:   8257540 kB\nMemAvailable: 4128770 kB\nSwapTotal:   204800 kB\nSwapFree:   102400 kB\n",
            "proc/loadavg": "0.52 0.58 0.59 1/257 12345\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
            "sys/class/thermal/thermal_zone0/temp": "61234\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
        },
    )


def test_a_raspberry_pi_is_described_from_its_files(raspberry_pi: Path) -> None:
    found = record(raspberry_pi)
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["processor"] == "Arm implementer 0x41 part 0xd0b"
    assert found["governor"] == "ondemand, performance"
    assert found["frequency"] == "1500 to 2400 MHz"
    assert found["temperature"] == "61 °C"
    assert found["memory"] == "7.9 GiB"
    assert found["swap"] == "0.1 of 0.2 GiB used"
    assert found["load average"] == "0.52 0.58 0.59"
    assert found["cores"].endswith("quota 1.5")


def test_a_machine_that_tells_nothing_still_has_a_record(tmp_path: Path) -> None:
    found = record(tmp_path)
    assert {"kernel", "python", "cores"} <= set(found)
    assert all(found.values())
    assert "governor" not in found


def test_this_machine_agrees_with_psutil_and_names_no_host() -> None:
    found = record()
    assert found["python"] == platform.python_version()
    if "memory" in found:
        assert float(found["memory"].split()[0]) == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert f"of {os.cpu_count()}" in found["cores"]
    assert socket.gethostname() not in found.values()


def test_changes_say_what_moved_during_a_run() -> None:
    before, after = {"governor": "ondemand", "temperature": "50 °C", "swap": "none"}, {"governor": "ondemand", "temperature": "71 °C"}
    assert changes(before, after) == {"temperature": "50 °C -> 71 °C"}
