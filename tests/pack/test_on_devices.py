"""What the report says of devices, as a reader meets it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgepack.pack.figures import axis, bars, coarser, segments
from edgepack.pack.manifest import Comparison, CurvePoint, Estimate, Latency, Measurement, Pack, Truth
from edgepack.pack.on_devices import on_devices
from edgepack.pack.report import gaps, render, verdict
from tests.pack.device_samples import (
    DESK,
    EMULATED,
    PI4,
    PI5,
    THROTTLED,
    Found,
    measured,
    sample_checks,
    sample_measurements,
    sustained,
    timed,
)
from tests.pack.test_report import _HOSTILE, Page, poisoned, sample_pack

PI = "raspberry-pi-5"


def section(html: str, heading: str) -> Page:
    """One section of a page."""
    return Page(next(part for part in re.findall(r"<section>.*?</section>", html, re.DOTALL) if f">{heading}</h2>" in part))


def devices_of(*measurements: Measurement, checks: tuple[Found, ...] = ()) -> Page:
    return section(render(sample_pack(), measurements, checks), "On devices")


def one(latency: Latency | None, truth: Truth = "measured", **extra: Any) -> Measurement:
    return measured(sample_pack(), PI, "w8a8", PI5, latency, truth, **extra)


def test_a_page_with_measurements_is_well_formed_and_every_link_lands_in_it() -> None:
    pack = sample_pack()
    page = Page(render(pack, sample_measurements(pack), sample_checks()))
    assert {value.removeprefix("#") for name, value in page.attributes if name == "href"} <= page.ids
    assert {"script", "link", "iframe", "img"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "style")]


def test_no_string_of_a_measurement_or_a_check_can_leave_the_text_it_stands_in() -> None:
    pack = sample_pack()
    held = (pack, sample_measurements(pack), sample_checks())
    wicked = (
        msgspec.convert(poisoned(msgspec.to_builtins(pack)), Pack),
        tuple(msgspec.convert(poisoned(msgspec.to_builtins(each)), Measurement) for each in held[1]),
        tuple(Found(each.target + _HOSTILE, each.scheme, each.name + _HOSTILE, each.status, each.words + _HOSTILE) for each in held[2]),
    )
    clean, page = Page(render(*held)), Page(render(*wicked))
    assert page.tags == clean.tags
    assert {name for name, _ in page.attributes} == {name for name, _ in clean.attributes}
    assert section(render(*wicked), "On devices").text.count(_HOSTILE) > 50


def test_the_same_device_heads_one_table_whatever_its_temperature() -> None:
    warm = {**PI5, "temperature": "71 °C", "load average": "0.40"}
    cool = {**PI5, "temperature": "48 °C", "load average": "0.02"}
    pack = sample_pack()
    found = on_devices(pack, (measured(pack, PI, "fp32", warm, timed(1.3)), measured(pack, PI, "w8a8", cool, timed(0.6))))
    assert [device.title for device in found.devices] == ["Raspberry Pi 5 Model B Rev 1.0"]
    (temperature,) = (fact for fact in found.devices[0].facts if fact.name == "temperature")
    assert temperature.words == (("71 °C", (f"{PI} fp32 quick",)), ("48 °C", (f"{PI} w8a8 quick",)))


def test_devices_that_match_their_target_come_first() -> None:
    pack = sample_pack()
    found = on_devices(pack, sample_measurements(pack))
    assert [device.truth for device in found.devices] == ["measured", "host", "host", "emulated"]


def test_only_the_newest_measurement_of_an_artifact_is_shown_and_none_of_another_build() -> None:
    pack = sample_pack()
    new, old = one(timed(0.6)), one(timed(0.9), created="2026-11-01T00:00:00Z")
    other = replace(new, artifact="0" * 64)
    found = on_devices(pack, (new, old, other))
    assert [run.measurement for run in found.runs] == [new]
    assert (found.superseded, found.of_other_builds) == (1, 1)
    assert "900 ms" not in section(render(pack, (new, old, other)), "On devices").text
    assert "1 measurement of the same artifact that a newer one replaces" in devices_of(new, old, other).text


def test_a_sound_measurement_stays_beside_a_newer_spoiled_one() -> None:
    spoiled, sound = one(timed(0.9, invalid=(THROTTLED,))), one(timed(0.6))
    assert [run.measurement for run in on_devices(sample_pack(), (spoiled, sound)).runs] == [spoiled, sound]
    assert [run.measurement for run in on_devices(sample_pack(), (sound, spoiled)).runs] == [sound]


def test_every_number_of_a_sound_run_is_shown_with_its_interval() -> None:
    latency = timed(0.62, ratio=0.47, floor_ms=0.2)
    cells = dict(devices_of(one(latency, memory_peak_bytes=54_800_000)).cells)
    assert latency.p50 is not None and latency.ratio_to_fp32 is not None
    assert cells["p50"].startswith(f"{latency.p50.value:.3f} ms") and f"{latency.p50.high:.3f} ms" in cells["p50"]
    assert f"{latency.ratio_to_fp32.value:.2f} ×" in cells["Against fp32"]
    assert cells["Above the floor"].startswith(f"{latency.p50.value / 0.2:.2f} ×") and "floor 0.200 ms" in cells["Above the floor"]
    assert (cells["Memory peak"], cells["Size"]) == ("54.8 MB", "122 kB")
    assert cells["Agreement"].startswith("25.5 dB")


def test_quantiles_that_have_too_few_samples_say_so() -> None:
    cells = dict(devices_of(one(timed(0.62, samples=40))).cells)
    assert cells["p90"] == cells["p99"] == "too few samples"


def test_a_spoiled_time_is_struck_out_with_its_reason_and_draws_no_histogram() -> None:
    html = render(sample_pack(), (one(timed(0.62, ratio=0.5, floor_ms=0.2, invalid=(THROTTLED,))),))
    page = section(html, "On devices")
    assert THROTTLED in page.text
    assert page.text.count("ms") - 1 == page.struck.count("ms")
    assert "floor 0.200 ms" in page.text
    assert "rect" not in page.tags


@pytest.mark.parametrize("truth", ["emulated", "simulated"])
def test_times_that_are_no_speed_are_not_shown_and_that_is_said_once(truth: Truth) -> None:
    slow = timed(771.0, ratio=0.8, truth=truth, curve=sustained(771.0, 772.0), warnings=("slow by 771",), floor_ms=77.1)
    against = Comparison("0" * 64, 0.25, Estimate(7.71, 7.7, 7.72), 7.73, 0.03, 77, "regression")
    two = [measured(sample_pack(), PI, scheme, EMULATED, slow, truth, comparison=against) for scheme in ("fp32", "w8a8")]
    page = devices_of(*two)
    assert not re.search(r"77[0-9]|7\.7|regression|MB", page.text)
    assert page.text.count("they are no speed of any device") == 1
    assert [words for label, words in page.cells if label == "Agreement"] == ["127.9 dBfloor 110.0 dB", "25.5 dBfloor 24.0 dB"]


def test_a_measurement_whose_parts_disagree_counts_as_the_weaker_kind() -> None:
    (run,) = on_devices(sample_pack(), (one(timed(0.6, truth="emulated"), "measured"),)).runs
    assert (run.truth, run.latency) == ("emulated", None)


def test_an_artifact_that_answers_wrongly_there_fails_the_page_and_has_no_time() -> None:
    wrong = one(None, failures=("raspberry-pi-5 w8a8: output 'logits' is 3.0 dB from the float64 student",))
    passing = replace(sample_pack(), artifacts=tuple(each for each in sample_pack().artifacts if not each.failures))
    found = verdict(passing, on_devices(passing, (wrong,)))
    assert (found.passed, found.headline) == (False, "1 of 5 artifacts failed")
    assert found.failures == (f"{wrong.failures[0]} (on Raspberry Pi 5 Model B Rev 1.0)",)
    assert "failed, not timed" in devices_of(wrong).text


def test_a_sustained_run_is_a_line_with_both_axes_and_says_how_it_went() -> None:
    page = devices_of(one(timed(0.62, curve=sustained(0.6, 0.9))))
    assert "10 min" in page.text and "0 ms" in page.text
    assert re.search(r"0\.\d+ ms at first, 0\.\d+ ms after 10 min: 1\.[45]\d times", page.text)


def test_a_comparison_shows_verdict_interval_margin_and_pairs() -> None:
    against = Comparison("ab" * 32, 0.25, Estimate(1.062, 1.051, 1.074), 1.081, 0.03, 600, "regression")
    page = devices_of(one(timed(0.62), comparison=against))
    cells = dict(page.cells)
    assert (cells["Verdict"], cells["At p90"], cells["Pairs"]) == ("regression", "1.081 ×", "600")
    assert "1.051 to 1.074" in cells["This over the older"] and "no difference (3 %)" in page.text
    (band,) = on_devices(sample_pack(), (one(timed(0.62), comparison=against),)).devices[0].ratios.tracks  # type: ignore[union-attr]
    assert band.band is not None and band.band[1] < band.span.low


def test_a_comparison_whose_rounds_were_spoiled_says_by_what() -> None:
    against = Comparison("ab" * 32, 0.25, Estimate(0.9, 0.89, 0.91), 0.9, 0.03, 600, "improvement", (THROTTLED,))
    page = devices_of(one(timed(0.62), comparison=against))
    assert dict(page.cells)["Verdict"].startswith(f"invalid{THROTTLED[:20]}") and "improvement" not in page.text
    assert "0.900 ×" in page.struck


def test_a_comparison_of_a_spoiled_run_has_no_verdict() -> None:
    against = Comparison("ab" * 32, 0.25, Estimate(0.9, 0.89, 0.91), 0.9, 0.03, 600, "improvement")
    page = devices_of(one(timed(0.62, invalid=(THROTTLED,)), comparison=against))
    assert dict(page.cells)["Verdict"] == "invalid" and "improvement" not in page.text


def test_a_failed_check_counts_in_the_headline_and_marks_its_artifact() -> None:
    pack = replace(sample_pack(), artifacts=tuple(each for each in sample_pack().artifacts if not each.failures))
    checks = sample_checks()
    found = verdict(pack, checks=checks)
    assert (found.headline, found.undecided) == ("1 of 5 artifacts failed", 2)
    assert found.failures == ("raspberry-pi-5 w8a8, latency p90: 0.66 ms (up to 0.67 ms) is above 0.50 ms",)
    html = render(pack, (), checks)
    assert [words for label, words in section(html, "Artifacts").cells if label == "Result"].count("failed") == 1
    assert [words for label, words in section(html, "Gate").cells if label == "Result"] == [check.status for check in checks]


def test_a_failed_check_of_what_the_pack_does_not_hold_is_no_pass() -> None:
    pack = replace(sample_pack(), artifacts=tuple(each for each in sample_pack().artifacts if not each.failures))
    found = verdict(pack, checks=(Found("web", "w8", "size", "fail", "2 MB is above 1 MB"),))
    assert (found.passed, found.headline) == (False, "1 check failed")


def test_undecided_checks_are_told_where_everything_else_passed() -> None:
    pack = replace(sample_pack(), artifacts=tuple(each for each in sample_pack().artifacts if not each.failures))
    undecided = tuple(check for check in sample_checks() if check.status != "fail")
    assert "2 checks could not be decided" in Page(render(pack, (), undecided)).text


def missing(pack: Pack, what: str, *measurements: Measurement) -> set[str]:
    return {key for gap in gaps(pack, on_devices(pack, measurements)) if gap.what == what for key in gap.artifacts}


def test_speed_on_the_target_is_missing_until_a_sound_measurement_on_a_match() -> None:
    pack, speed = sample_pack(), "Speed on the target device"
    mine = f"{PI} w8a8"
    assert mine in missing(pack, speed)
    assert mine in missing(pack, speed, measured(pack, PI, "w8a8", DESK, timed(0.6, truth="host"), "host"))
    assert mine in missing(pack, speed, one(timed(0.6, invalid=(THROTTLED,))))
    assert mine in missing(pack, speed, replace(one(timed(0.6)), artifact="0" * 64))
    assert mine not in missing(pack, speed, one(timed(0.6)))
    assert "run edgepack bench PACK --device ADDRESS" in Page(render(pack)).text


def test_a_quantile_that_the_target_device_gave_is_not_missing_and_one_it_did_not_give_is() -> None:
    pack, p99 = sample_pack(), "p99 of the latency"
    assert f"{PI} w8a8" in missing(pack, p99)
    assert f"{PI} w8a8" not in missing(pack, p99, one(timed(0.6, samples=1200)))
    assert f"{PI} w8a8" in missing(pack, "p90 of the latency", one(timed(0.6, samples=40)))


def test_a_run_in_the_platforms_own_runtime_closes_the_gap_of_the_interpreter() -> None:
    pack = sample_pack()
    own = measured(pack, "ios", "fp32", {"processor": "Apple M4"}, timed(0.2, truth="host"), "host")
    assert missing(pack, "The platform's own runtime") == {"ios fp32", "ios w8a8"}
    assert missing(pack, "The platform's own runtime", own) == {"ios w8a8"}
    assert "ios fp32" not in missing(pack, "Latency", own)


def test_a_measured_speed_is_in_the_overview() -> None:
    latency = timed(0.62)
    assert latency.p50 is not None
    cells = [words for label, words in section(render(sample_pack(), (one(latency),)), "Artifacts").cells if label == "Time of one query"]
    assert f"{latency.p50.value:.3f} ms measured" in " ".join(cells[-1].split())


_PACK = sample_pack()
_number = st.one_of(st.sampled_from([0.0, -1.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")]), st.floats())
_estimate = st.none() | st.builds(Estimate, _number, _number, _number)
_words = st.sampled_from(["", " ", "\x1b[31m", "x" * 3000, "<b>"]) | st.text(max_size=5)
_latency = st.builds(
    Latency,
    truth=st.sampled_from(["measured", "host", "emulated", "simulated", "predicted"]),
    samples=st.integers(),
    threads=st.integers(),
    warm_up=st.integers(),
    p50=_estimate,
    p90=_estimate,
    p99=_estimate,
    ratio_to_fp32=_estimate,
    environment=st.dictionaries(_words, _words, max_size=2),
    histogram_edges_ms=st.lists(_number, max_size=4).map(tuple),
    histogram_counts=st.lists(st.integers(), max_size=3).map(tuple),
    profile=_words,
    invalid=st.just(()) | st.tuples(_words),
    curve=st.lists(st.builds(CurvePoint, _number, _number), max_size=3).map(tuple),
    floor_ms=st.none() | _number,
)
_comparison = st.none() | st.builds(
    Comparison,
    _words,
    _number,
    st.builds(Estimate, _number, _number, _number),
    st.none() | _number,
    _number,
    st.integers(),
    st.just("regression"),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_latency, _comparison, st.dictionaries(_words, _words, max_size=2), st.none() | st.integers(), _number)
def test_whatever_a_strangers_measurement_holds_the_page_stands(
    latency: Latency, comparison: Comparison | None, facts: dict[str, str], peak: int | None, decibels: float
) -> None:
    base = measured(_PACK, PI, "w8a8", facts, latency, latency.truth, comparison=comparison, memory_peak_bytes=peak)
    outputs = tuple(replace(each, sqnr_db=decibels, floor_db=decibels) for each in base.parity.outputs)
    html = render(_PACK, (replace(base, parity=replace(base.parity, outputs=outputs)),))
    page = Page(html)
    positions = [value for name, value in page.attributes if name in ("x", "x1", "x2", "y1", "y2", "cx", "width", "height")]
    assert not [value for value in positions if "nan" in value or "inf" in value or len(value) > 12]


def test_a_histogram_or_a_run_of_any_length_becomes_a_page_of_ordinary_size() -> None:
    long = 200_000
    huge = replace(
        timed(0.62),
        histogram_edges_ms=tuple(index / long for index in range(long + 1)),
        histogram_counts=(1,) * long,
        curve=tuple(CurvePoint(float(index), 0.6) for index in range(long)),
    )
    assert len(render(sample_pack(), (one(huge),))) < 2 * len(render(sample_pack(), (one(timed(0.62)),)))


def test_a_coarser_histogram_keeps_every_query_and_its_ends() -> None:
    edges, counts = coarser(tuple(range(1002)), (1,) * 1000 + (7,))
    assert (edges[0], edges[-2], edges[-1]) == (0, 1000, 1001)
    assert (sum(counts), counts[-1]) == (1007, 7) and len(counts) == len(edges) - 1 <= 241
    assert coarser((0, 1, 2), (3, 4)) == ((0, 1, 2), (3, 4))
    scale = axis([0.0, 1001.0], str, from_zero=True)
    assert len(bars(edges, counts, scale)) == len(counts)


def test_a_line_joins_its_points_from_the_first_to_the_last() -> None:
    scale = axis([0.0, 4.0], str, from_zero=True)
    line = segments([(0, 0), (2, 4), (4, 2)], scale, scale)
    assert [(part.x1, part.y1, part.x2, part.y2) for part in line] == [(0, 0, 50, 100), (50, 100, 100, 50)]
    thinned = segments([(index / 250, 1) for index in range(1001)], scale, scale)
    assert len(thinned) <= 240 and (thinned[0].x1, thinned[-1].x2) == (0, 100)


def test_a_pack_that_was_never_benched_says_how_to() -> None:
    assert "Nothing was measured on a device yet: run edgepack bench PACK --device ADDRESS" in devices_of().text


def test_other_boards_are_other_devices() -> None:
    pack = sample_pack()
    found = on_devices(pack, (one(timed(0.6)), measured(pack, PI, "w8a8", PI4, timed(0.9, truth="host"), "host")))
    assert [device.title for device in found.devices] == ["Raspberry Pi 5 Model B Rev 1.0", "Raspberry Pi 4 Model B Rev 1.5"]
