"""What spoils a measurement is found and named with what to do; what does not is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from edgepack.latency.environment import during, remarks, spoiled, words

PI = {
    "board": "Raspberry Pi 5 Model B Rev 1.0",
    "machine": "aarch64",
    "cores": 4,
    "usable_cores": 4,
    "memory_kib": 8257540,
    "page_bytes": 16384,
    "features": ["aes", "asimddp", "fp"],
}
CALM: dict[str, Any] = {
    "wall_s": 1000.0,
    "monotonic_s": 10.0,
    "boot_s": 10.0,
    "governors": ["ondemand"],
    "frequencies_khz": [2400000, 2400000],
    "highest_khz": 2400000,
    "temperature_c": 52.3,
    "throttled": 0,
    "swapped_pages": 7,
    "swap_total_kib": 204800,
    "swap_free_kib": 102400,
    "load": 0.5,
    "stolen_ticks": 0,
}


def at(second: float, **changed: Any) -> dict[str, Any]:
    """The device ``second`` seconds later."""
    clocks = {name: CALM[name] + second for name in ("wall_s", "monotonic_s", "boot_s")}
    return {**CALM, **clocks, **changed}


def found(*states: dict[str, Any], facts: dict[str, Any] = PI) -> tuple[str, ...]:
    return spoiled(facts, states)


def test_a_run_that_nothing_disturbed_is_spoiled_by_nothing() -> None:
    states = [at(0, frequencies_khz=[1500000]), at(1), at(2), at(3, frequencies_khz=[1500000])]
    assert spoiled(PI, states) == () and remarks(PI, states) == ()


@pytest.mark.parametrize(
    ("bit", "words_of_it"),
    [(0, "under-voltage"), (1, "the frequency was capped"), (2, "it was throttled"), (3, "the soft temperature limit")],
)
def test_throttling_seen_in_one_look_spoils_the_run(bit: int, words_of_it: str) -> None:
    (line,) = found(at(0), at(1, throttled=1 << bit), at(2))
    assert line.startswith(words_of_it) and " -> " in line


def test_throttling_between_two_looks_is_known_from_the_firmwares_memory() -> None:
    (line,) = found(at(0), at(1), at(2, throttled=1 << 18))
    assert line.startswith("it was throttled")


def test_throttling_before_the_run_spoils_nothing() -> None:
    assert found(at(0, throttled=0x50000), at(1, throttled=0x50000), at(2, throttled=0x50000)) == ()


def test_a_processor_below_its_frequency_is_named_with_its_governor_and_the_command() -> None:
    (line,) = found(at(0), at(1, frequencies_khz=[1500000, 1500000], governors=["powersave"]), at(2))
    assert "1500 of 2400 MHz" in line and "echo performance" in line


def test_a_boost_that_x86_does_not_hold_spoils_nothing() -> None:
    assert found(at(0), at(1, frequencies_khz=[1500000]), at(2), facts={**PI, "machine": "x86_64"}) == ()


def test_swapping_and_sleep_spoil_a_run() -> None:
    swapped, slept = found(at(0), at(1), at(2, swapped_pages=9, boot_s=CALM["boot_s"] + 62))
    assert swapped.startswith("the device swapped 2 pages") and slept.startswith("the device slept for 60.0 s")


def test_a_clock_that_is_set_spoils_nothing_and_is_told() -> None:
    states = [at(0), at(1), at(2, wall_s=CALM["wall_s"] - 3600)]
    assert spoiled(PI, states) == ()
    (line,) = remarks(PI, states)
    assert "set by -3602.0 s" in line


def test_heat_and_a_busy_host_of_a_virtual_machine_are_told() -> None:
    hot, stolen = remarks(PI, [at(0), at(1, temperature_c=83.0), at(2, stolen_ticks=20)])
    assert "83 °C" in hot and "10 %" in stolen


def test_facts_that_cannot_be_read_are_left_out_and_spoil_nothing() -> None:
    bare = {"wall_s": 1.0, "monotonic_s": 1.0, "boot_s": None, "throttled": None, "frequencies_khz": []}
    assert words({}, bare) == {} and spoiled({}, [bare, bare]) == () and remarks({}, [bare, bare]) == ()


def test_words_say_what_a_person_reads() -> None:
    said = words(PI, CALM)
    assert said["cores"] == "4 of 4" and said["memory"] == "7.9 GiB" and said["page size"] == "16 KiB"
    assert said["instructions"] == "asimddp"
    assert said["swap"] == "0.1 of 0.2 GiB used" and said["temperature"] == "52 °C" and said["throttling"] == "0x0"


def test_what_happens_before_and_after_the_timed_rounds_spoils_nothing() -> None:
    """A governor that had not stepped up, and pages that an import brought in."""
    slow = {"frequencies_khz": [1500000]}
    states = [
        at(0, **slow),
        at(1, **slow),
        at(2, **slow, swapped_pages=9),
        at(3, swapped_pages=9),
        at(4, swapped_pages=9),
        at(5, swapped_pages=99),
    ]
    began, ended = CALM["monotonic_s"] + 2.5, CALM["monotonic_s"] + 3.5
    assert during(states, began, ended) == states[2:5]
    assert spoiled(PI, during(states, began, ended)) == () and len(spoiled(PI, states)) == 2
    assert during(states, None, None) == states
    # A run between two looks, and moments that no look is near.
    assert during(states, CALM["monotonic_s"] + 2.2, CALM["monotonic_s"] + 2.8) == states[2:4]
    assert during(states, -5.0, 1e9) == states and during(states, 1e9, 2e9) == states[-1:]
    assert during([], 1.0, 2.0) == []


def test_in_a_sustained_run_heat_is_told_and_a_bad_supply_still_spoils() -> None:
    states = [at(0), at(1, throttled=0b111, frequencies_khz=[1500000]), at(2)]
    assert [line.partition(" -> ")[0] for line in spoiled(PI, states, sustained=True)] == ["under-voltage during the run"]
    told = remarks(PI, states, sustained=True)
    assert any(line.startswith("it was throttled") for line in told) and any("1500 of 2400 MHz" in line for line in told)
    assert len(spoiled(PI, states)) == len(told) + 1 and remarks(PI, states) == ()


ODD: tuple[Any, ...] = (None, "x", [], ["x", 1], {}, {"a": 1}, True, -1, 1e300, 10**400, float("nan"), float("inf"), [None], [[1]])


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_whatever_a_device_says_is_words_or_left_out(odd: Any) -> None:
    facts, state = dict.fromkeys(PI, odd), dict.fromkeys([*CALM, "memory_available_kib"], odd)
    for states in ([state], [state, state], [CALM, state], [state, CALM, state], [CALM, state, at(2)]):
        said = words({**facts, "kernel": odd, "core_quota": odd}, states[-1])
        assert all(isinstance(text, str) for text in said.values())
        for sustained in (False, True):
            found = (*spoiled(facts, states, sustained=sustained), *remarks(facts, states, sustained=sustained))
            assert all(isinstance(line, str) for line in found)
        during(states, 0.0, 1.0)
    assert words(PI, {}) and spoiled(PI, []) == remarks(PI, []) == ()
