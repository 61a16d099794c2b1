"""The gate: only a number measured on the target's own device holds a budget of time, and every other outcome says why."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from msgspec.structs import replace

from edgepack.errors import GateError, InputError
from edgepack.latency.gate import Check, Checks, checks, compared, matches
from edgepack.latency.junit import junit
from edgepack.pack.manifest import ArtifactRecord, Comparison, Estimate, Latency, Measurement, Pack
from edgepack.targets import Budgets, Hardware, load_target
from tests.pack.test_report import sample_pack

PI5 = {"board": "Raspberry Pi 5 Model B Rev 1.0", "architecture": "aarch64"}
SUBJECT = ("raspberry-pi-5", "w8a8")


def pack(**budgets: Any) -> Pack:
    """The sample pack, which fails in ios w8a8 alone, with the Pi's budgets."""
    targets = [load_target(name) for name in ("android", "ios", "raspberry-pi-5")]
    own = [replace(target, budgets=Budgets(**budgets)) if target.name == SUBJECT[0] else target for target in targets]
    return replace(sample_pack(), targets=tuple(own))


def artifact(scheme: str = "w8a8") -> ArtifactRecord:
    return next(held for held in sample_pack().artifacts if (held.target, held.scheme) == (SUBJECT[0], scheme))


def latency(high: float = 11.0, **changes: Any) -> Latency:
    p90 = Estimate(10.0, 9.5, high)
    held = Latency("measured", 300, 1, 20, Estimate(9.0, 8.9, 9.1), p90, None, None, dict(PI5), profile="quick")
    return replace(held, **changes)


def measurement(created: str = "2026-11-28T10:00:00+00:00", **changes: Any) -> Measurement:
    of = artifact()
    held = Measurement(
        1, "0.1.0", created, *SUBJECT, of.file.sha256, PI5, "measured", of.parity, latency=latency(), memory_peak_bytes=9_000_000
    )
    return replace(held, **changes)


def check(name: str, held: Pack, *measurements: Measurement, scheme: str = "w8a8", **budgets: float) -> Check:
    found = checks(held, measurements, budgets)
    return next(each for each in found if (each.target, each.scheme, each.name) == (SUBJECT[0], scheme, name))


def latency_status(*measurements: Measurement, budget: float = 12.0) -> tuple[str, str]:
    found = check("latency p90", pack(latency_p90_ms=budget), *measurements)
    return found.status, found.words


def test_a_measured_p90_passes_only_when_the_upper_end_of_its_interval_is_below_the_budget() -> None:
    assert latency_status(measurement(), budget=11.001)[0] == "pass"
    assert latency_status(measurement(), budget=11.0)[0] == "fail"
    status, words = latency_status(measurement(), budget=10.5)
    assert status == "fail" and words == "p90 is 10 ms (95 % interval 9.5 to 11 ms) on 1 thread; the upper end must be below 10.5 ms"


@pytest.mark.parametrize("truth", ["host", "emulated", "simulated", "predicted"])
def test_no_other_kind_of_truth_satisfies_a_budget(truth: Any) -> None:
    status, words = latency_status(measurement(truth=truth, latency=latency(truth=truth)))
    assert status == "not measured" and f"the newest measurement is {truth}" in words
    assert latency_status(measurement(latency=latency(truth=truth)))[0] == "not measured"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        (
            {"device": {**PI5, "board": "Raspberry Pi 4 Model B Rev 1.4"}},
            "not measured",
            "is of 'Raspberry Pi 4 Model B Rev 1.4', no",
        ),
        ({"device": {**PI5, "board": "Raspberry Pi 5 Model B Rev 1.0 (emulated)"}}, "not measured", "(emulated)"),
        ({"device": {}}, "not measured", "a board without a name"),
        ({"latency": None}, "not measured", "timed nothing"),
        ({"failures": ("raspberry-pi-5 w8a8: output 'y' is wrong",)}, "not measured", "wrong on the device"),
        (
            {"latency": latency(p90=None, samples=20, profile="smoke")},
            "not measured",
            "no p90: profile smoke took 20 samples",
        ),
        ({"latency": latency(invalid=("throttled: let it cool",))}, "invalid", "throttled: let it cool"),
        ({"latency": latency(floor_ms=9.2)}, "invalid", "faster than physics: a query took 9 ms and no query takes less than 9.2 ms"),
        ({"latency": latency(floor_ms=8.9)}, "pass", "p90 is 10 ms"),
        ({"latency": latency(floor_ms=8.9, histogram_edges_ms=(8.0, 12.0), histogram_counts=(300,))}, "invalid", "a query took 8 ms"),
        ({"artifact": "of another build"}, "not measured", "nothing was measured"),
        ({"target": "raspberry-pi-4"}, "not measured", "nothing was measured"),
    ],
)
def test_what_spoils_a_measurement_is_said(changes: dict[str, Any], status: str, words: str) -> None:
    found = latency_status(measurement(**changes))
    assert found[0] == status and words in found[1]


def test_the_newest_measurement_with_a_p90_counts() -> None:
    slow, fast, smoke = measurement(latency=latency(20.0)), measurement(), measurement(latency=latency(p90=None, samples=20))
    assert latency_status(slow, fast)[0] == "fail" and latency_status(fast, slow)[0] == "pass"
    assert latency_status(smoke, fast)[0] == "pass"


def test_a_p90_counts_only_on_as_many_threads_as_the_budget_is_of() -> None:
    four = measurement(latency=latency(threads=4))
    status, words = latency_status(four)
    assert status == "not measured" and words == "it was timed on 4 threads, and the budget is of 1 thread"
    assert latency_status(four, measurement())[0] == "pass"
    promised = pack(latency_p90_ms=12.0, latency_threads=4)
    found = check("latency p90", promised, measurement(), four)
    assert found.status == "pass" and "on 4 threads; the upper end" in found.words
    assert check("latency p90", promised, measurement()).status == "not measured"


def test_a_sustained_run_holds_a_budget_only_where_no_other_run_was_made() -> None:
    hot = measurement(latency=latency(20.0, profile="sustained"))
    assert latency_status(hot, measurement())[0] == "pass"
    status, words = latency_status(hot)
    assert status == "fail" and "on 1 thread, in a sustained run; the upper end" in words


def test_without_a_budget_nothing_is_held_and_the_figures_are_shown() -> None:
    held = pack()
    assert (check("latency p90", held, measurement()).status, check("memory", held, measurement()).status) == ("no budget", "no budget")
    assert check("size", held).words == "121,700 bytes" and check("size", held).status == "no budget"


def test_a_target_without_hardware_is_no_device() -> None:
    held = replace(pack(), targets=(replace(load_target("raspberry-pi-5"), hardware=None, budgets=Budgets(latency_p90_ms=12.0)),))
    found = check("latency p90", held, measurement())
    assert found.status == "not measured" and "names no hardware" in found.words


@pytest.mark.parametrize(("bytes_allowed", "status"), [(121_700, "pass"), (121_699, "fail")])
def test_size_and_memory_are_held_to_the_byte(bytes_allowed: int, status: str) -> None:
    assert check("size", pack(size_bytes=bytes_allowed)).status == status
    taken = measurement(memory_peak_bytes=121_700)
    assert check("memory", pack(memory_peak_bytes=bytes_allowed), taken).status == status
    assert check("memory", pack(memory_peak_bytes=bytes_allowed), replace(taken, truth="emulated")).status == "not measured"


def test_accuracy_and_parity_are_the_packs_own_record() -> None:
    found = {(each.target, each.scheme, each.name): each for each in checks(pack(), ())}
    assert found["ios", "w8a8", "accuracy"].status == found["ios", "w8a8", "parity"].status == "fail"
    assert "accuracy is 1.4 points below" in found["ios", "w8a8", "accuracy"].words
    assert "below its floor" in found["ios", "w8a8", "parity"].words and "ios w8a8" not in found["ios", "w8a8", "parity"].words
    assert check("accuracy", pack()).status == check("parity", pack()).status == "pass"


def test_an_allowed_drop_can_be_given_and_does_not_turn_into_a_parity_failure() -> None:
    lossy = replace(artifact(), failures=("raspberry-pi-5 w8a8: layer 'x': lint error",))
    held = replace(pack(accuracy_drop_points=0.1), artifacts=(lossy,))
    assert check("accuracy", held).status == "fail" and check("accuracy", held, accuracy_drop_points=5.0).status == "pass"
    assert check("parity", held).words == "host: layer 'x': lint error"
    real = tuple(line for line in pack().artifacts[3].failures if "points below" in line)
    ios = replace(pack().artifacts[3], parity=pack().artifacts[2].parity, failures=real)
    found = {each.name: each.status for each in checks(replace(pack(), artifacts=(ios,)), (), {"accuracy_drop_points": 5.0})}
    assert real and (found["accuracy"], found["parity"]) == ("pass", "pass")


def test_a_wrong_answer_of_any_device_fails_parity_whatever_ran_since() -> None:
    wrong = measurement(failures=("raspberry-pi-5 w8a8: output 'logits' is 3.0 dB",), latency=None)
    emulated = measurement(truth="emulated", latency=None)
    found = check("parity", pack(), emulated, wrong)
    assert found.status == "fail" and found.words == "measured: output 'logits' is 3.0 dB"
    assert check("parity", pack(), replace(wrong, failures=()), wrong).status == "pass"
    assert check("parity", pack(), measurement()).words == "25.5 dB (host); 25.5 dB (measured, Raspberry Pi 5 Model B Rev 1.0)"
    hidden = next(held.parity for held in sample_pack().artifacts if (held.target, held.scheme) == ("ios", "w8a8"))
    assert check("parity", pack(), measurement(parity=hidden)).status == "fail"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "fail", "regression: 1.062 [1.051, 1.074] times the older pack's p25, p90 1.081 (600 pairs, margin 3 %)"),
        ({"verdict": "no difference"}, "pass", "no difference: "),
        ({"verdict": "inconclusive"}, "not measured", "inconclusive: "),
        ({"verdict": "improvement", "invalid": ("it was throttled",)}, "invalid", "it was throttled; improvement: 1.062"),
    ],
)
def test_an_older_pack_is_a_check(changes: dict[str, Any], status: str, words: str) -> None:
    held = replace(Comparison("0" * 64, 0.25, Estimate(1.062, 1.051, 1.074), 1.081, 0.03, 600, "regression"), **changes)
    found = compared(measurement(comparison=held))
    assert found is not None and (found.name, found.status) == ("older pack", status) and found.words.startswith(words)


def test_a_comparison_that_was_asked_for_and_not_made_is_a_check_that_says_why() -> None:
    assert compared(measurement()) is None
    found = compared(measurement(), "the older pack has no raspberry-pi-5 w8a8")
    assert found is not None and found.status == "not measured" and "not compared: the older pack has no" in found.words


def test_a_budget_for_one_target_wins_over_one_for_all() -> None:
    held = checks(pack(), (), {"size_bytes": 1, "android:size_bytes": 10**9})
    assert {each.target: each.status for each in held if each.name == "size"} == {
        "android": "pass",
        "ios": "fail",
        "raspberry-pi-5": "fail",
    }


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ({"latency_ms": 3.0}, "'latency_ms' is no budget that can be given here -> next: use latency_p90_ms"),
        ({"fp32_below_student_db": 3.0}, "no budget that can be given here"),
        ({"web:size_bytes": 3.0}, "the pack has no target 'web' -> next: it has android, ios, raspberry-pi-5"),
        ({"latency_p90_ms": float("nan")}, "is nan"),
        ({"latency_p90_ms": 1e30}, "latency_p90_ms is 1e\\+30, which nothing can miss"),
        ({"size_bytes": 2.0**63}, "size_bytes is 9.22337e\\+18"),
    ],
)
def test_a_budget_that_is_none_is_refused(budgets: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        checks(pack(), (), budgets)


def test_only_what_fails_ends_a_release_unless_measuring_is_required() -> None:
    open_budget = Checks([Check(*SUBJECT, "latency p90", "not measured", "nothing was measured")])
    open_budget.demand()
    with pytest.raises(GateError, match=r"w8a8: latency p90: not measured: nothing was measured -> next: measure on") as caught:
        open_budget.demand(require_measured=True)
    assert caught.value.exit_code == 1
    both = Checks([*open_budget, Check(*SUBJECT, "size", "fail", "too large"), Check(*SUBJECT, "latency p90", "invalid", "hot")])
    with pytest.raises(GateError, match=r"size: fail: too large \(and 1 more\)"):
        both.demand()


@pytest.mark.parametrize(
    ("board", "machine", "is_pi5"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", True),
        ("Raspberry Pi 5", "aarch64", True),
        ("Raspberry Pi 500 Rev 1.0", "aarch64", False),
        ("Raspberry Pi 5 Model B Rev 1.0", "armv7l", False),
        ("Raspberry Pi 5 Model B Rev 1.0 (emulated)", "aarch64", False),
        ("Raspberry Pi 4 Model B Rev 1.4", "aarch64", False),
        ("", "aarch64", False),
    ],
)
def test_a_device_is_known_by_its_board_and_its_machine(board: str, machine: str, is_pi5: bool) -> None:
    hardware = load_target("raspberry-pi-5").hardware
    assert matches(hardware, {"board": board, "architecture": machine}) == is_pi5


def test_no_device_is_a_target_that_names_none() -> None:
    assert not matches(None, PI5)
    assert matches(Hardware("Radxa ROCK 5B", "aarch64"), {"board": "Radxa ROCK 5B", "architecture": "aarch64"})


def _parsed(found: Checks, **options: Any) -> ElementTree.Element:
    suite = ElementTree.fromstring(junit(found, "a pack", **options)).find("testsuite")
    assert suite is not None
    return suite


def test_junit_has_a_testcase_for_each_check_with_its_outcome() -> None:
    found = checks(pack(latency_p90_ms=12.0, size_bytes=1), [measurement(latency=latency(invalid=("hot",)))])
    suite = _parsed(found)
    cases = {(case.get("classname"), case.get("name")): case for case in suite}
    assert len(cases) == len(found) == int(suite.get("tests", "")) == 30
    pi = "edgepack.raspberry-pi-5 w8a8"
    size, error, memory = (cases[pi, name] for name in ("size", "latency p90", "memory"))
    assert size[0].tag == "failure" and size[0].get("message") == "121,700 bytes, 1 allowed"
    assert error[0].tag == "error" and error[0].get("message") == "hot"
    assert memory[0].tag == "skipped" and "no budget" in memory[0].get("message", "")
    assert int(suite.get("failures", "")) == sum(each.status == "fail" for each in found)
    assert suite.get("errors") == "1"


def test_junit_calls_a_missing_measurement_skipped_or_when_required_a_failure() -> None:
    found = Checks([Check(*SUBJECT, "latency p90", "not measured", "nothing was measured")])
    assert (_parsed(found).get("skipped"), _parsed(found).get("failures")) == ("1", "0")
    assert (_parsed(found, require_measured=True).get("skipped"), _parsed(found, require_measured=True).get("failures")) == ("0", "1")


@pytest.mark.parametrize("words", ["<b> & \"quoted\" 'x' ]]>", "\x00\x1b[31m\ufffe\ud800", "zwei µs −3"])
def test_junit_escapes_whatever_a_check_says(words: str) -> None:
    case = _parsed(Checks([Check("<t>", '"s"', "size", "fail", words)]))[0]
    told = case[0].get("message", "")
    assert case.get("classname") == 'edgepack.<t> "s"' and len(told) == len(words)
    assert all(had == has for had, has in zip(words, told, strict=True) if has != "\ufffd")


def test_checks_survive_json() -> None:
    found = checks(pack(), ())
    assert msgspec.convert(msgspec.to_builtins(list(found)), list[Check]) == list(found)
