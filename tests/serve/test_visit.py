"""What is posted is judged here: right answers and credible times land in the pack, and nothing else does."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.latency.gate import checks
from edgepack.latency.on_device import OpenPack
from edgepack.latency.protocol import profile
from edgepack.pack.files import load_pack
from edgepack.pack.measurements import held as measurements_of
from edgepack.pack.reported import report
from edgepack.serve.subjects import Served, served
from tests.serve.page import Counter, Page, at_counter, credible_times, right_answers
from tests.system.program import DIGITS, edgepack


def kept(pack: Path) -> list[Any]:
    return measurements_of(pack, load_pack(pack))


def test_what_a_phone_measured_is_in_the_pack_as_target_web(page: Page, held: Served, pack: Path, counter: Counter) -> None:
    page.go_through(held, model="Pixel 8", platform="Android 14")
    found = kept(pack)
    assert {(each.target, each.truth) for each in found} == {("web", "measured")}
    assert {each.artifact for each in found} == {subject.artifact.file.sha256 for subject in held.subjects}
    assert all(each.latency is not None and each.latency.p50 is not None for each in found)
    assert {each.device["board"] for each in found} == {"Browser Chrome 156 on Pixel 8"}
    assert {each.device["timer resolution"] for each in found} == {"5 µs"} and {each.device["threads"] for each in found} == {"1"}
    assert counter.ended == [()]


def test_a_browser_fills_no_row_of_the_phone_or_the_board(page: Page, held: Served, pack: Path) -> None:
    before = {line for line in report(pack, load_pack(pack)).splitlines() if "no sound measurement on a device" in line}
    page.go_through(held)
    after = report(pack, load_pack(pack))
    assert before and before <= set(after.splitlines())
    assert "android’s file" in after and "Browser Chrome 156" in after


def test_a_latency_budget_of_an_artifact_made_for_browsers_is_held_in_a_browser(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    options = ("-t", "web", "-s", "fp32", "--latency", "none", "-o", str(folder))
    built = edgepack("build", f"{DIGITS / 'student.py'}:student", *options, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    manifest = load_pack(folder)
    held = served(OpenPack.at(folder, manifest), (), (), replace(profile("quick"), seconds=0.0), 1, {"litert": "2.0"})
    with at_counter(folder, held) as counter:
        counter.opened().go_through(held)
    found = checks(manifest, kept(folder), {"latency_p90_ms": 1.0})
    assert {check.name: check.status for check in found}["latency p90"] == "pass"
    assert {check.name: check.status for check in checks(manifest, [], {"latency_p90_ms": 1.0})}["latency p90"] == "not measured"


@pytest.mark.parametrize("facts", [{"automated": True}, {"user_agent": "Mozilla/5.0 HeadlessChrome/156.0.0.0"}])
def test_a_browser_without_a_person_is_simulated(page: Page, held: Served, pack: Path, facts: dict[str, Any]) -> None:
    page.go_through(held, **facts)
    assert {each.truth for each in kept(pack)} == {"simulated"}
    text = report(pack, load_pack(pack))
    assert "by a program that drives a browser or in one without a screen" in text


def test_wrong_answers_have_no_latency_whatever_the_page_says(page: Page, held: Served, pack: Path, counter: Counter) -> None:
    due = page.begin()
    message = right_answers(held, held.subjects[0], due)
    data = np.frombuffer(base64.b64decode(message["outputs"][0]["data"]), "<f4") * np.float32(1.1)
    message["outputs"][0]["data"] = base64.b64encode(data.tobytes()).decode()
    reply = page.post("/answers", message).data
    assert "below its floor" in reply["failures"][0]
    while reply["next"]["kind"] != "done":
        subjects = [held.subjects[index] for index in reply["next"]["subjects"]]
        assert reply["next"]["kind"] == "answers" or 0 not in reply["next"]["subjects"]
        maker = right_answers(held, subjects[0], reply["next"]) if reply["next"]["kind"] == "answers" else None
        reply = page.post(f"/{reply['next']['kind']}", maker or credible_times(held, subjects, reply["next"])).data
    assert "All 6 artifacts passed" in report(pack, load_pack(pack)), "a browser fails no file of a phone or a board"
    wrong = [each for each in kept(pack) if each.failures]
    assert [(each.artifact, each.latency) for each in wrong] == [(held.subjects[0].artifact.file.sha256, None)]
    assert counter.ended == [tuple(wrong[0].failures)]


def test_a_forged_nonce_is_rejected_and_changes_nothing(page: Page, held: Served, pack: Path) -> None:
    due = page.begin()
    forged = page.post("/answers", {**right_answers(held, held.subjects[0], due), "nonce": "A" * 22})
    assert forged.status == 409 and "forged" in forged.data["refused"]
    assert page.post("/answers", right_answers(held, held.subjects[0], due)).status == 200


def test_a_post_that_is_sent_twice_is_rejected_the_second_time(page: Page, held: Served, pack: Path) -> None:
    due = page.begin()
    message = right_answers(held, held.subjects[0], due)
    assert page.post("/answers", message).status == 200
    replayed = page.post("/answers", message)
    assert replayed.status == 409 and "sent twice" in replayed.data["refused"]


def test_times_cannot_be_replayed_into_another_visit(page: Page, held: Served, pack: Path, counter: Counter) -> None:
    due = page.begin()
    for subject in held.groups[0]:
        due = page.post("/answers", right_answers(held, subject, due)).data["next"]
    message = credible_times(held, held.groups[0], due)
    assert page.post("/times", message).status == 200
    count = len(kept(pack))
    other = counter.opened()
    other.begin()
    assert (other.post("/times", message).status, page.post("/times", message).status) == (409, 409)
    assert len(kept(pack)) == count


def at_times(page: Page, held: Served) -> dict[str, Any]:
    due = page.begin()
    for subject in held.groups[0]:
        due = page.post("/answers", right_answers(held, subject, due)).data["next"]
    return credible_times(held, held.groups[0], due)


def _numbers(values: Any) -> str:
    return base64.b64encode(np.asarray(values, "<f8").tobytes()).decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taken": _numbers([300.0] * 3)}, "3 rounds"),
        ({"taken": _numbers([-1.0] * 40)}, "no time"),
        ({"taken": _numbers([float("nan")] * 40)}, "no time"),
        ({"taken": _numbers([1e12] * 40)}, "passed"),
        ({"taken": base64.b64encode(b"odd").decode()}, "no row of numbers"),
        ({"starts": _numbers([0.0] * 40)}, "clock went back"),
        ({"starts": _numbers(np.arange(40) * 1e10)}, "passed"),
        ({"starts": _numbers([0.0] * 7)}, "start times"),
        ({"subject": 3}, "not of the artifacts"),
    ],
)
def test_times_that_no_run_gives_are_refused_and_not_kept(page: Page, held: Served, pack: Path, change: dict[str, Any], words: str) -> None:
    message = at_times(page, held)
    message["series"][0] |= change
    answer = page.post("/times", message)
    assert answer.status == 409 and words in answer.data["refused"]
    assert kept(pack) == []
    assert page.post("/times", message).status == 409


def test_a_run_shorter_than_its_profile_is_not_kept_under_its_name(held: Served, pack: Path) -> None:
    with at_counter(pack, replace(held, profile=replace(held.profile, name="mlperf", seconds=60.0))) as counter:
        page = counter.opened()
        answer = page.post("/times", at_times(page, held))
    assert answer.status == 409 and "the rounds went on for 0.0 s, 60 s were asked for" in answer.data["refused"]
    assert kept(pack) == []


def test_a_page_out_of_view_makes_a_measurement_invalid(page: Page, held: Served, pack: Path) -> None:
    page.post("/times", {**at_times(page, held), "hidden": True})
    assert all(each.latency and "not in view" in " ".join(each.latency.invalid) for each in kept(pack)) and kept(pack)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float64"},
        {"shape": [16, 9]},
        {"shape": [2**30, 2**30]},
        {"shape": []},
        {"data": ""},
        {"name": "other"},
        {"shape": [10, 16]},
    ],
)
def test_outputs_that_the_artifact_does_not_give_are_refused(page: Page, held: Served, pack: Path, change: dict[str, Any]) -> None:
    due = page.begin()
    message = right_answers(held, held.subjects[0], due)
    message["outputs"][0] |= change
    assert page.post("/answers", message).status == 409


@pytest.mark.parametrize("message", [{}, [], {"nonce": 1}, {"nonce": "x", "threads": 0, "outputs": []}, {"passed": True}])
def test_posts_of_another_form_are_refused(page: Page, message: Any) -> None:
    page.begin()
    assert page.post("/answers", message).status == 400


def test_an_artifact_that_does_not_run_there_is_told_and_the_others_go_on(page: Page, held: Served, pack: Path, counter: Counter) -> None:
    due = page.begin()
    reply = page.post("/answers", {"nonce": due["nonce"], "threads": 1, "error": "no such operator"}).data
    assert "no such operator" in reply["failures"][0] and reply["next"]["subjects"] == [1]


def test_words_of_a_browser_are_plain_text_in_the_pack(page: Page, held: Served, pack: Path) -> None:
    page.go_through(held, model="\x1b[2J<script>alert(1)</script>")
    assert all("\x1b" not in words for each in kept(pack) for words in each.device.values())
    assert "<script>alert" not in report(pack, load_pack(pack))
