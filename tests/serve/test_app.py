"""An app's report: judged like a page's, of the target that its artifact was made for, a row for each compute unit."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgepack.converter.digest import held_at
from edgepack.latency.gate import checks
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Measurement
from edgepack.pack.measurements import held as measurements_of
from edgepack.pack.reported import report
from edgepack.serve.messages import Answers, App, Times, Visit
from edgepack.serve.subjects import Served, served_to
from tests.serve.page import Answer, Counter, Page, credible_times, right_answers

# What the Swift package's own tests hold its messages to.
FIXTURES = Path(__file__).parents[2] / "demo_app" / "ios" / "EdgepackKit" / "Tests" / "EdgepackKitTests" / "Fixtures"
IPHONE = json.loads((FIXTURES / "visit.json").read_text())
PIXEL = {"app": {**IPHONE["app"], "platform": "android", "runtime": "litert", "version": "2.1", "units": ["cpu"], "model": "Pixel 8"}}


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def saying(**facts: Any) -> dict[str, Any]:
    return {**IPHONE, "app": {**IPHONE["app"], **facts}}


def kept(pack: Path) -> list[Measurement]:
    return measurements_of(pack, load_pack(pack))


def as_app(held: Served, visit: dict[str, Any]) -> Served:
    return served_to(msgspec.convert(visit["app"], App), held)


def go_through(page: Page, held: Served, visit: dict[str, Any], **conditions: Any) -> list[Answer]:
    """Everything the server asks of an app, answered as a perfect phone would; ``conditions`` of its times."""
    own = as_app(held, visit)
    begun = page.post("/visits", visit)
    assert begun.status == 200, begun
    due, answers = begun.data["reply"]["next"], []
    while due["kind"] != "done":
        subjects = [own.subjects[index] for index in due["subjects"]]
        message = right_answers(own, subjects[0], due) if due["kind"] == "answers" else credible_times(own, subjects, due) | conditions
        answers.append(page.post(f"/{due['kind']}", message))
        assert answers[-1].status == 200, answers[-1]
        due = answers[-1].data["next"]
    return answers


def test_what_an_iphone_measured_is_in_the_pack_as_target_ios_for_each_unit(page: Page, held: Served, pack: Path, counter: Counter) -> None:
    go_through(page, held, IPHONE)
    found = kept(pack)
    assert {(each.target, each.truth, each.unit) for each in found} == {("ios", "measured", "cpu_and_ne"), ("ios", "measured", "cpu_only")}
    assert len(found) == 4 and all(each.latency and each.latency.p50 and not each.latency.invalid for each in found)
    assert {each.device["board"] for each in found} == {"iPhone16,1"} and {each.device["runtime"] for each in found} == {"Core ML 18.1"}
    assert all("never run on a phone" in " ".join(each.latency.warnings) for each in found if each.latency)
    text = report(pack, load_pack(pack))
    assert "ios w8a8 on cpu_and_ne" in text and "ios w8a8 on cpu_only" in text
    assert counter.ended == [()]


def test_what_an_android_phone_measured_is_of_target_android(page: Page, held: Served, pack: Path) -> None:
    go_through(page, held, PIXEL)
    assert {(each.target, each.unit, each.device["runtime"]) for each in kept(pack)} == {("android", "cpu", "LiteRT 2.1")}


@pytest.mark.parametrize(("visit", "truth"), [(IPHONE, "simulated"), (PIXEL, "emulated")])
def test_a_simulator_is_no_phone(page: Page, held: Served, pack: Path, visit: dict[str, Any], truth: str) -> None:
    go_through(page, held, {**visit, "app": {**visit["app"], "virtual": True}})
    assert {each.truth for each in kept(pack)} == {truth}
    assert {each.latency.truth for each in kept(pack) if each.latency} == {truth}


def test_a_mac_that_runs_the_app_is_no_phone(page: Page, held: Served, pack: Path) -> None:
    go_through(page, held, saying(model="Mac", units=["all"]))
    assert {each.truth for each in kept(pack)} == {each.latency.truth for each in kept(pack) if each.latency} == {"host"}


@pytest.mark.parametrize(
    ("facts", "conditions", "words"),
    [
        ({"debug": True}, {}, "built for debugging"),
        ({}, {"thermal_status": 3}, "throttled by heat"),
        ({}, {"battery_saver": True}, "battery saver"),
        ({}, {"hidden": True}, "not in view"),
    ],
)
def test_what_a_phone_says_against_its_times_makes_them_invalid(
    page: Page, held: Served, pack: Path, facts: dict[str, Any], conditions: dict[str, Any], words: str
) -> None:
    go_through(page, held, saying(**facts, units=["all"]), **conditions)
    assert all(each.latency and words in " ".join(each.latency.invalid) for each in kept(pack)) and kept(pack)


def test_an_app_gets_every_file_of_the_package_as_it_was_verified(page: Page, tmp_path: Path) -> None:
    page.post("/visits", IPHONE)
    plan = page.get("/plan.json").data
    assert {each["runner"] for each in plan["subjects"]} == {"mil"} and [each["unit"] for each in plan["subjects"][::2]] == IPHONE["app"][
        "units"
    ]
    for subject in plan["subjects"]:
        package = tmp_path / str(subject["id"])
        for file in subject["files"]:
            answer = page.get(f"/artifacts/{subject['sha256']}/{file['path']}")
            assert answer.status == 200 and hashlib.sha256(answer.body).hexdigest() == file["sha256"]
            (package / file["path"]).parent.mkdir(parents=True, exist_ok=True)
            (package / file["path"]).write_bytes(answer.body)
        assert held_at(package).sha256 == subject["sha256"]
        assert page.get(f"/artifacts/{subject['sha256']}").status == 404
        assert page.get(f"/artifacts/{subject['sha256']}/../../pack.json").status == 404
    assert len(page.get("/inputs/0/0").body) == plan["samples"] * 4 * 28 * 28


def test_a_package_that_changed_is_refused(page: Page, held: Served, pack: Path) -> None:
    page.post("/visits", IPHONE)
    subject = page.get("/plan.json").data["subjects"][0]
    weights = next(file["path"] for file in subject["files"] if file["path"].endswith("weight.bin"))
    path = pack / as_app(held, IPHONE).subjects[0].artifact.file.path / weights
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    answer = page.get(f"/artifacts/{subject['sha256']}/{weights}")
    assert answer.status == 409 and "not the file that was verified" in answer.data["refused"]


def test_wrong_answers_of_an_app_have_no_latency(page: Page, held: Served, pack: Path) -> None:
    own = as_app(held, saying(units=["all"]))
    due = page.post("/visits", saying(units=["all"])).data["reply"]["next"]
    while due["kind"] != "done":
        assert due["kind"] == "answers"
        message = right_answers(own, own.subjects[due["subjects"][0]], due)
        data = np.frombuffer(base64.b64decode(message["outputs"][0]["data"]), "<f4") * np.float32(1.5)
        message["outputs"][0]["data"] = base64.b64encode(data.tobytes()).decode()
        reply = page.post("/answers", message).data
        assert "below its floor" in reply["failures"][0]
        due = reply["next"]
    found = kept(pack)
    assert len(found) == 2 and all(each.failures and each.latency is None and each.unit == "all" for each in found)
    parity = {check.status for check in checks(load_pack(pack), found) if check.target == "ios" and check.name == "parity"}
    assert parity == {"fail"}


def test_a_report_needs_the_token_and_is_good_once(page: Page, held: Served, pack: Path, counter: Counter) -> None:
    assert Page(counter.port).post("/visits", IPHONE).status == 403
    own = as_app(held, IPHONE)
    due = page.post("/visits", IPHONE).data["reply"]["next"]
    message = right_answers(own, own.subjects[0], due)
    assert page.post("/answers", {**message, "nonce": "A" * 22}).status == 409
    assert [page.post("/answers", message).status for _ in range(2)] == [200, 409]
    assert kept(pack) == []


@pytest.mark.parametrize(
    "visit",
    [
        {},
        {**IPHONE, "browser": {"user_agent": "x"}},
        saying(platform="web"),
        saying(units=[]),
        saying(units=["all", "all"]),
        saying(units=["ANE; rm"]),
        saying(model=""),
        saying(extra=1),
    ],
)
def test_who_does_not_say_what_it_is_is_not_let_begin(page: Page, visit: dict[str, Any]) -> None:
    assert page.post("/visits", visit).status == 400


def test_a_pack_without_an_artifact_for_the_app_says_so(page: Page) -> None:
    answer = page.post("/visits", saying(platform="android"))
    assert answer.status == 409 and "no artifact for an app on android with Core ML" in answer.data["refused"]


def test_the_messages_that_the_swift_package_is_held_to_are_those_the_server_reads() -> None:
    assert msgspec.json.decode((FIXTURES / "visit.json").read_bytes(), type=Visit).visitor == msgspec.convert(IPHONE["app"], App)
    assert set(IPHONE["app"]) == set(App.__struct_fields__)
    answers = msgspec.json.decode((FIXTURES / "answers.json").read_bytes(), type=Answers)
    assert set(fixture("answers")) == set(Answers.__struct_fields__) == set(fixture("failed"))
    values = np.frombuffer(answers.outputs[0].data, "<f4")
    assert np.array_equal(values, np.float32([0.5, -1.25, 2.0, 3.0, 0.0, 1e-3])) and values.size == np.prod(answers.outputs[0].shape)
    times = msgspec.json.decode((FIXTURES / "times.json").read_bytes(), type=Times)
    assert set(fixture("times")) == set(Times.__struct_fields__)
    assert np.array_equal(np.frombuffer(times.series[0].taken, "<f8"), [300, 301, 299])
    assert msgspec.json.decode((FIXTURES / "failed.json").read_bytes(), type=Answers).error


def same_kind(ours: Any, theirs: Any, where: str = "") -> None:
    """The same keys all the way down, and the same kinds of values."""
    assert isinstance(theirs, type(ours)) or ours is None or theirs is None or {type(ours), type(theirs)} == {int, float}, where
    if isinstance(ours, dict) and where != "/device":
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            same_kind(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list) and ours and theirs:
        same_kind(ours[0], theirs[0], f"{where}/0")


def test_what_the_swift_package_reads_is_what_the_server_says(page: Page, held: Served) -> None:
    begun = page.post("/visits", IPHONE).data
    same_kind(begun, fixture("began"))
    same_kind(page.get("/plan.json").data, fixture("plan"))
    answered, *_, timed = (answer.data for answer in go_through(page, held, saying(units=["all"])))
    same_kind(answered, fixture("answered"))
    assert timed["latencies"].keys() == {"0", "1"}
    timed["latencies"] = list(timed["latencies"].values())
    theirs = fixture("timed")
    theirs["latencies"] = list(theirs["latencies"].values())
    same_kind(timed, theirs)
