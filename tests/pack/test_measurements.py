"""Measurements in a pack: written whole, read with suspicion, kept by a rebuild that changes nothing of what they are about."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from edgepack.pack.files import PackError, load_pack, replacing
from edgepack.pack.manifest import ArtifactRecord, Measurement, Pack
from edgepack.pack.measurements import carry, held, record
from edgepack.pack.reported import refresh_report, write_report
from tests.latency.test_gate import measurement
from tests.pack.test_report import sample_pack
from tests.pack.test_strangers import written

LATER = "2026-11-28T11:30:00+00:00"


def put(folder: Path, content: bytes | None = None, name: str = "a.json", **changes: Any) -> Path:
    """A file of a stranger's; without ``content`` a sound measurement with some fields changed."""
    (folder / "measurements").mkdir(exist_ok=True)
    tree = msgspec.to_builtins(measurement()) | changes
    (folder / "measurements" / name).write_bytes(json.dumps(tree).encode() if content is None else content)
    return folder


def read(folder: Path) -> list[Measurement]:
    return held(folder, load_pack(folder))


def test_what_was_recorded_is_held_newest_first(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    first, second, other = measurement(), measurement(created=LATER), measurement(created="2026-11-28T12:00:00+02:00", truth="host")
    for each in (second, first, other):
        record(folder, each)
    # 12:00 two hours east of Greenwich is 10:00, as the first.
    assert read(folder)[0] == second and {each.truth for each in read(folder)[1:]} == {"measured", "host"}
    assert sorted(path.name for path in (folder / "measurements").iterdir()) == [
        "raspberry-pi-5-w8a8-host-20261128T100000Z.json",
        "raspberry-pi-5-w8a8-measured-20261128T100000Z.json",
        "raspberry-pi-5-w8a8-measured-20261128T113000Z.json",
    ]


def test_a_pack_that_nobody_measured_holds_none(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    assert read(folder) == []
    (folder / "measurements").mkdir()
    (folder / "measurements" / "notes.txt").write_text("not ours")
    assert read(folder) == []


def test_a_measurement_of_another_build_is_ignored(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    record(folder, measurement(artifact="another digest"))
    record(folder, measurement())
    assert read(folder) == [measurement()]


def test_two_devices_may_measure_within_a_second(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    records = [threading.Thread(target=record, args=(folder, measurement(memory_peak_bytes=count))) for count in range(8)]
    for thread in records:
        thread.start()
    for thread in records:
        thread.join()
    assert sorted(each.memory_peak_bytes or 0 for each in read(folder)) == list(range(8))


@pytest.mark.parametrize("target", ["../../escape", "/etc/passwd", "a\0b", "x" * 300, "ÄÖ \x1b[31m"])
def test_no_name_leads_out_of_the_pack_or_is_none(target: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    path = record(folder, measurement(target=target))
    assert path.resolve().parent == (folder / "measurements").resolve()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pack"] and len(read(folder)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 10**6, "damaged"),
        (b'{"schema": 1}', "damaged"),
        (b'{"schema": 7}', "has schema 7, this edgepack reads 1"),
        (b" " * (2**20 + 1), "too large"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=rf"measurements/a.json .*{words}.* -> next: measure again with edgepack bench, or remove it"):
        read(put(written(tmp_path / "pack"), content))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"created": "yesterday"}, "damaged"),
        ({"created": "0001-01-01T00:00:00+23:59"}, "damaged"),
        ({"truth": "true"}, "damaged"),
        ({"memory_peak_bytes": -1}, "its memory is no number of bytes"),
        ({"memory_peak_bytes": 10**400}, "its memory is no number of bytes"),
        ({"latency": msgspec.to_builtins(measurement().latency) | {"samples": 10**400}}, "of no samples"),
        ({"parity": {"truth": "host", "samples": 1, "outputs": []}}, "compared in no output"),
    ],
)
def test_one_that_cannot_be_true_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=words):
        read(put(written(tmp_path / "pack"), **changes))


@pytest.mark.parametrize("p90", [{"value": 10.0, "low": 9.0, "high": 1.0}, {"value": -1.0, "low": -2.0, "high": 0.0}])
def test_an_interval_that_does_not_hold_its_value_is_refused(p90: dict[str, float], tmp_path: Path) -> None:
    timed = msgspec.to_builtins(measurement().latency) | {"p90": p90}
    with pytest.raises(PackError, match="an interval that does not hold its value"):
        read(put(written(tmp_path / "pack"), latency=timed))


def test_fields_of_a_later_edgepack_are_passed_over_and_words_are_made_plain(tmp_path: Path) -> None:
    folder = put(written(tmp_path / "pack"), humidity=0.4, device={"board": "\x1b]0;owned\x07 Pi"})
    assert read(folder)[0].device == {"board": r"\x1b]0;owned\x07 Pi"}


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd"), lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()]
)
def test_what_is_no_plain_file_is_not_opened(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    (folder / "measurements").mkdir()
    make(folder / "measurements" / "a.json")
    with pytest.raises(PackError, match=r"a.json cannot be read"):
        read(folder)


def test_a_link_in_place_of_the_folder_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    (tmp_path / "elsewhere").mkdir()
    (folder / "measurements").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackError, match="is a link"):
        read(folder)
    with pytest.raises(PackError, match="cannot take a measurement"):
        record(folder, measurement())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_more_files_than_anybody_measures_are_refused(tmp_path: Path) -> None:
    folder = put(written(tmp_path / "pack"))
    for count in range(1000):
        (folder / "measurements" / f"{count}.json").touch()
    with pytest.raises(PackError, match="1001 files"):
        read(folder)


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot take a measurement"):
        record(tmp_path / "absent", measurement())


def rebuilt(folder: Path, pack: Pack) -> Path:
    """As a build does it."""
    with replacing(folder, carry) as scratch:
        (scratch / "pack.json").write_bytes(msgspec.json.encode(pack))
    return folder


def changed(artifact: ArtifactRecord) -> ArtifactRecord:
    return replace(artifact, file=replace(artifact.file, sha256="0" * 64))


def test_measurements_of_artifacts_that_stay_the_same_survive_a_rebuild_and_no_others(tmp_path: Path) -> None:
    folder, pack = written(tmp_path / "pack"), sample_pack()
    fp32 = next(each for each in pack.artifacts if (each.target, each.scheme) == ("raspberry-pi-5", "fp32"))
    record(folder, measurement())
    record(folder, measurement(scheme="fp32", artifact=fp32.file.sha256))
    put(folder, b"damaged")
    rebuilt(folder, replace(pack, artifacts=tuple(changed(each) if each == fp32 else each for each in pack.artifacts)))
    assert read(folder) == [measurement()]
    assert [path.name for path in (folder / "measurements").iterdir()] == ["raspberry-pi-5-w8a8-measured-20261128T100000Z.json"]


def test_a_measurement_taken_while_the_pack_is_rebuilt_is_not_lost(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    with replacing(folder, carry) as scratch:
        (scratch / "pack.json").write_bytes(msgspec.json.encode(sample_pack()))
        record(folder, measurement())
    assert read(folder) == [measurement()]


def test_links_of_an_older_pack_are_not_carried(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    put(tmp_path)
    (folder / "measurements").symlink_to(tmp_path / "measurements")
    assert read(rebuilt(folder, sample_pack())) == []
    assert [path.name for path in (tmp_path / "measurements").iterdir()] == ["a.json"]


def test_a_first_build_carries_nothing(tmp_path: Path) -> None:
    assert read(rebuilt(tmp_path / "pack", sample_pack())) == []


def test_where_as_many_lie_as_may_be_read_the_oldest_makes_room(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    oldest = record(folder, measurement(created="2025-01-01T00:00:00+00:00"))
    for count in range(999):
        (folder / "measurements" / f"x-20260101T000000Z-{count}.json").write_bytes(oldest.read_bytes())
    newest = record(folder, measurement(created=LATER))
    assert newest.exists() and not oldest.exists()
    assert len(read(folder)) == 1000


def test_a_measurement_that_nobody_could_read_again_is_not_kept(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    with pytest.raises(PackError, match="cannot be kept: it is too large"):
        record(folder, measurement(device={"board": "x" * 2**20}))
    assert read(folder) == []


def test_a_report_that_is_a_link_is_replaced_and_what_it_led_to_is_left_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    (tmp_path / "precious").write_text("mine")
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "report.html").symlink_to(tmp_path / "precious")
    write_report(folder, load_pack(folder))
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (folder / "report.html").is_symlink() and "<html" in (folder / "report.html").read_text()


def test_a_report_written_again_is_of_the_pack_that_lies_there_now(tmp_path: Path) -> None:
    folder = written(tmp_path / "pack")
    pack = load_pack(folder)
    rebuilt(folder, replace(pack, student=replace(pack.student, name="another")))
    refresh_report(folder)
    assert "another" in (folder / "report.html").read_text()
