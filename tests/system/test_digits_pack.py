"""What the demo claims: fp32 and w8a8 on three targets, from one calibration, each within its bar."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgepack.pack.digest import file_record
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Pack
from tests.system.program import DIGITS, edgepack

TARGETS = ("raspberry-pi-5", "android", "ios")


@pytest.fixture(scope="module")
def pack(digits_pack: Path) -> Pack:
    return load_pack(digits_pack)


def test_three_targets_each_carry_fp32_and_w8a8_and_all_pass(pack: Pack) -> None:
    assert {(artifact.target, artifact.scheme) for artifact in pack.artifacts} == {(t, s) for t in TARGETS for s in ("fp32", "w8a8")}
    assert [artifact.failures for artifact in pack.artifacts] == [()] * 6


def test_fp32_is_within_6_db_of_torch_both_against_float64(pack: Pack) -> None:
    for artifact in pack.artifacts:
        if artifact.scheme == "fp32":
            (output,) = artifact.parity.outputs
            assert output.sqnr_db is not None and output.student_sqnr_db is not None
            assert output.sqnr_db >= output.student_sqnr_db - 6, artifact.target


def test_w8a8_is_within_half_a_point_of_fp32_on_the_thousand_held_out_digits(pack: Pack) -> None:
    fp32 = {artifact.target: artifact.accuracy for artifact in pack.artifacts if artifact.scheme == "fp32"}
    for artifact in pack.artifacts:
        accuracy, real = artifact.accuracy, fp32[artifact.target]
        assert accuracy is not None and real is not None
        assert accuracy.samples == 1000
        assert real.value.value - accuracy.value.value <= 0.005, artifact.target
        assert accuracy.value.low < accuracy.value.value < accuracy.value.high


def test_core_ml_says_why_it_has_no_latency_and_the_others_have_one(pack: Pack) -> None:
    for artifact in pack.artifacts:
        assert artifact.parity.truth == ("simulated" if artifact.platform == "ios" else "host")
        if artifact.platform == "ios":
            assert artifact.latency is None
            assert "Apple" in artifact.no_latency
        else:
            assert artifact.latency is not None
            assert artifact.latency.truth == "host"


def test_tflite_runs_in_one_delegate_partition(pack: Pack) -> None:
    notes = [artifact.notes for artifact in pack.artifacts if artifact.platform == "android"]
    assert all("partitions: 1" in each for each in notes)


def test_every_file_of_the_pack_is_recorded_with_its_digest(digits_pack: Path, pack: Pack) -> None:
    records = pack.files
    for record in records:
        assert file_record(digits_pack, digits_pack / record.path) == record
    covered = {digits_pack / record.path for record in records} | {digits_pack / "pack.json", digits_pack / "report.html"}
    loose = [
        path for path in digits_pack.rglob("*") if path.is_file() and not any(path == held or held in path.parents for held in covered)
    ]
    assert loose == []


def test_the_pack_speaks_of_no_folder_of_the_machine_that_built_it(digits_pack: Path) -> None:
    for path in digits_pack.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(DIGITS).encode() not in content, path
            assert str(digits_pack.parent).encode() not in content, path


def test_a_copied_pack_runs_on_all_three_runners_with_nothing_but_the_pack(digits_pack: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    shutil.copytree(digits_pack, elsewhere / "pack")
    shutil.copy(DIGITS / "samples" / "digit_7.png", elsewhere / "digit.png")
    ended = edgepack("run", "pack", "digit.png", "--json", cwd=elsewhere)
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)["answers"]
    assert {(each["target"], each["scheme"]) for each in answers} == {(t, s) for t in TARGETS for s in ("fp32", "w8a8")}
    assert [each["top"][0]["label"] for each in answers] == ["7"] * 6
    assert {each["runtime"].split()[0] for each in answers} == {"onnxruntime", "litert", "mil"}
    assert all(each["p50_ms"] is None for each in answers if each["truth"] == "simulated")
    # On a machine that is too busy for an interval there is a reason in its place.
    assert all((each["p50_ms"] is None) == bool(each["no_latency"]) for each in answers)


def test_the_report_is_written_again_from_the_manifest(digits_pack: Path, tmp_path: Path) -> None:
    ended = edgepack("report", digits_pack, "-o", tmp_path / "again.html", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "again.html").read_text() == (digits_pack / "report.html").read_text()
