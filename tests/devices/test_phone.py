"""What phones say of themselves, read: a Pixel's answers with their oddities, and what is no answer."""

from __future__ import annotations

import subprocess

import msgspec
import pytest

from edgepack.devices.phone import PhoneState, facts_of, line, sections, state_of
from edgepack.devices.probed import Facts

# In the form of a Pixel 8's getprop on Android 15; values shortened.
PROPERTIES = """[ro.build.version.release]: [15]
[ro.build.version.sdk]: [35]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
[persist.sys.text]: [two
lines]
"""
CPUINFO = "\n".join(f"processor\t: {core}\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd46\n" for core in range(9))
THERMAL = """IsStatusOverride: false
Thermal Status: 3
Cached temperatures:
	Temperature{mValue=99.9, mType=0, mName=BIG, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=61.25, mType=0, mName=BIG, mStatus=1}
	Temperature{mValue=-3.5, mType=2, mName=battery, mStatus=0}
	Temperature{mValue=38.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
"""
CLOCKS = '{"wall_s": 1764300000.5, "monotonic_s": 1000.25, "boot_s": 2000.75}'


def test_a_phone_is_named_by_maker_model_chip_and_android() -> None:
    found = facts_of({"properties": PROPERTIES, "machine": "aarch64\n", "cpuinfo": CPUINFO, "meminfo": "MemTotal:   7812345 kB\n"})
    facts = msgspec.convert(found, Facts)
    assert (facts.board, facts.processor, facts.system) == ("Google Pixel 8", "Google Tensor G3", "Android 15 (API 35)")
    assert (facts.cores, facts.memory_kib, facts.pointer_bits, facts.virtual) == (9, 7812345, 64, False)
    assert "asimddp" in facts.features


@pytest.mark.parametrize("property_name", ["ro.boot.qemu", "ro.kernel.qemu"])
def test_androids_emulator_is_no_phone(property_name: str) -> None:
    assert facts_of({"properties": f"[{property_name}]: [1]\n"})["virtual"]


def test_makers_that_repeat_themselves_are_named_once() -> None:
    said = "[ro.product.manufacturer]: [HUAWEI]\n[ro.product.model]: [Huawei P30]\n"
    assert facts_of({"properties": said})["board"] == "Huawei P30"


def test_heat_is_what_the_phone_measures_now_not_what_it_remembers() -> None:
    state = msgspec.convert(state_of({"clocks": CLOCKS, "thermal": THERMAL, "saver": "1\n"}), PhoneState)
    assert (state.temperature_c, state.thermal_status, state.battery_saver) == (61.25, 3, True)


def test_frequencies_and_governors_of_unlike_cores() -> None:
    state = state_of(
        {"clocks": CLOCKS, "governors": "sched_pixel\nsched_pixel\n", "now": "324000\n2914000\n", "highest": "1704000\n2914000\n"}
    )
    assert state["governors"] == ["sched_pixel"] and state["frequencies_khz"] == [324000, 2914000] and state["highest_khz"] == 2914000


def test_a_phone_that_lets_nothing_be_read_has_clocks_alone() -> None:
    state = msgspec.convert(state_of({"clocks": CLOCKS}), PhoneState)
    assert state.monotonic_s == 1000.25 and state.temperature_c is None and state.thermal_status is None and state.swapped_pages is None


@pytest.mark.parametrize("said", ["", "not executable: 64-bit ELF file", "{}", '{"wall_s": "x"}'])
def test_a_runner_that_tells_no_time_is_no_answer(said: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(state_of({"clocks": said}), PhoneState)


def test_one_line_of_shell_asks_everything_and_survives_what_fails() -> None:
    asked = line({"first": "echo 1", "broken": "no-such-program", "last": "printf '2\\n3\\r\\n'"})
    done = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True)
    assert sections(done.stdout) == {"first": "1", "broken": "", "last": "2\n3"} and done.stderr == ""
