"""What Android says of heat and power, in words, and what of it spoils a latency."""

from __future__ import annotations

from typing import Any

import pytest

from edgepack.latency import environment

PHONE: dict[str, Any] = {"board": "Google Pixel 8", "machine": "aarch64", "system": "Android 15 (API 35)"}


def states(**middle: Any) -> list[dict[str, Any]]:
    calm = {"monotonic_s": 0.0, "boot_s": 0.0, "wall_s": 0.0, "thermal_status": 0, "battery_saver": False}
    return [calm, {**calm, **middle}, calm]


def test_a_calm_phone_spoils_nothing() -> None:
    assert environment.spoiled(PHONE, states()) == ()


@pytest.mark.parametrize(("status", "word"), [(2, "moderate"), (3, "severe"), (6, "shutdown"), (99, "shutdown")])
def test_heat_seen_at_any_look_spoils(status: int, word: str) -> None:
    (line,) = environment.spoiled(PHONE, states(thermal_status=status))
    assert f"thermal status {word}" in line and "let it cool" in line


def test_light_heat_slows_nothing_down_yet() -> None:
    assert environment.spoiled(PHONE, states(thermal_status=1)) == ()


def test_the_battery_saver_spoils() -> None:
    (line,) = environment.spoiled(PHONE, states(battery_saver=True))
    assert "battery saver" in line and "switch it off" in line


def test_a_phone_that_lowers_its_clock_is_told_and_not_refused() -> None:
    slow = states(frequencies_khz=[1_400_000, 300_000], highest_khz=2_900_000)
    assert environment.spoiled(PHONE, slow) == ()
    assert environment.remarks(PHONE, slow) == ("the processor ran at 1400 of 2900 MHz, as phones do",)
    assert environment.spoiled({**PHONE, "system": "Debian"}, slow) != ()


def test_in_a_sustained_run_heat_is_the_finding() -> None:
    hot = states(thermal_status=3)
    assert environment.spoiled(PHONE, hot, sustained=True) == ()
    assert any("severe" in line for line in environment.remarks(PHONE, hot, sustained=True))


def test_words_are_androids_own() -> None:
    words = environment.words(PHONE, states(thermal_status=1, battery_saver=True)[1])
    assert (words["thermal status"], words["battery saver"], words["system"]) == ("light", "on", "Android 15 (API 35)")
    assert "thermal status" not in environment.words(PHONE, {"thermal_status": 42})
