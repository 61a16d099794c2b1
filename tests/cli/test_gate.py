"""``edgepack gate`` as a program: exit codes, one line, JSON, JUnit."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from edgepack.cli.gate import parsed
from edgepack.errors import InputError
from edgepack.pack.measurements import record
from tests.latency.test_gate import measurement, pack
from tests.system.program import edgepack

PI = ("-t", "raspberry-pi-5")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose raspberry-pi-5 w8a8 was measured."""
    folder = tmp_path_factory.mktemp("held") / "pack"
    folder.mkdir()
    (folder / "pack.json").write_bytes(msgspec.json.encode(pack(latency_p90_ms=12.0)))
    record(folder, measurement())
    return folder


def test_a_pack_within_its_budgets_passes_and_shows_what_was_not_measured(held: Path) -> None:
    ended = edgepack("gate", str(held), *PI, cwd=held.parent, COLUMNS="200")
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if "latency p90" in line]
    assert "not measured" in lines[0] and "nothing was measured on a Raspberry Pi 5" in lines[0]
    assert "pass" in lines[1] and "p90 is 10 ms (95 % interval 9.5 to 11 ms)" in lines[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "latency_p90_ms=10.5"), "FAIL raspberry-pi-5 w8a8: latency p90: fail: p90 is 10 ms"),
        (("--budget", "raspberry-pi-5:size_bytes=5e3"), "FAIL raspberry-pi-5 fp32: size: fail: 388,000 bytes, 5,000 allowed (and 1 more)"),
        (("--require-measured",), "FAIL raspberry-pi-5 fp32: latency p90: not measured: nothing was measured on a Raspberry Pi 5"),
    ],
)
def test_the_first_check_that_fails_is_one_line_and_exit_code_1(options: tuple[str, ...], words: str, held: Path) -> None:
    ended = edgepack("gate", str(held), *PI, *options, cwd=held.parent)
    assert ended.returncode == 1 and ended.stderr.startswith(words) and len(ended.stderr.splitlines()) == 1


def test_a_failure_of_the_packs_own_record_fails_the_gate(held: Path) -> None:
    ended = edgepack("gate", str(held), cwd=held.parent)
    assert ended.returncode == 1 and ended.stderr.startswith("FAIL ios w8a8: accuracy: fail: accuracy is 1.4 points below")


def test_json_and_junit_say_the_same(held: Path, tmp_path: Path) -> None:
    ended = edgepack("gate", str(held), "--json", "--junit", str(tmp_path / "gate.xml"), cwd=held.parent)
    told = json.loads(ended.stdout)
    assert ended.returncode == 1 and not told["ok"] and ended.stderr == ""
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot().find("testsuite")
    assert suite is not None and len(suite) == len(told["checks"]) == 30
    failed = [f"edgepack.{check['target']} {check['scheme']}" for check in told["checks"] if check["status"] == "fail"]
    assert [case.get("classname") for case in suite if case.find("failure") is not None] == failed
    assert edgepack("gate", str(held), *PI, "-s", "w8a8", "--json", cwd=held.parent).returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "latency_p90_ms"), "'latency_p90_ms' is no budget -> next: write NAME=VALUE"),
        (("--budget", "speed=3"), "'speed' is no budget that can be given here"),
        (("-t", "web"), "the pack has no such artifact"),
        (("--junit", "absent/gate.xml"), "absent/gate.xml cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(options: tuple[str, ...], words: str, held: Path) -> None:
    ended = edgepack("gate", str(held), *options, cwd=held.parent)
    assert ended.returncode == 2 and words in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_damaged_measurement_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    (folder / "measurements").mkdir(parents=True)
    (folder / "pack.json").write_bytes(msgspec.json.encode(pack()))
    (folder / "measurements" / "a.json").write_text("{")
    ended = edgepack("gate", str(folder), cwd=tmp_path)
    assert ended.returncode == 2 and "measurements/a.json is damaged" in ended.stderr


def test_budgets_are_read_as_numbers() -> None:
    assert parsed(["latency_p90_ms=20", "a:size_bytes = 5e6"]) == {"latency_p90_ms": 20.0, "a:size_bytes": 5e6}
    for text in ("", "=", "x", "x=y", "x="):
        with pytest.raises(InputError, match="is no budget"):
            parsed([text])
