"""Manifests: what they may say."""

import os
from pathlib import Path

import pytest

from edgepack.calibration.manifest import CalibrationError, CalibrationSet, find_manifest

GOOD = 'name = "set"\nlicence = "CC0-1.0"\n[calibration]\nimages = "photos"\nlimit = 8\n[evaluation]\ncsv = "e.csv"\nlabels = "label"\n'


def loaded(folder: Path, text: str) -> CalibrationSet:
    (folder / "set.toml").write_text(text)
    return CalibrationSet.load(folder / "set.toml")


def test_a_manifest_is_read_field_by_field(tmp_path: Path) -> None:
    held = loaded(tmp_path, GOOD)
    assert (held.name, held.licence, held.calibration.kind, held.calibration.path, held.calibration.limit) == (
        "set", "CC0-1.0", "images", "photos", 8,
    )  # fmt: skip
    assert held.evaluation is not None and (held.evaluation.kind, held.evaluation.labels) == ("csv", "label")


def test_preprocessing_of_a_manifest_is_the_students_structure(tmp_path: Path) -> None:
    held = loaded(tmp_path, GOOD + "[preprocessing]\nheight = 4\nwidth = 5\nmean = [0.5]\nstd = [0.5]\n")
    assert held.preprocessing is not None and held.preprocessing.value_range == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("limit", "limits"), "unknown field `limits`"),
        ("extra = 1\n" + GOOD, "unknown field `extra`"),
        ('name = "set"\n', "missing required field `calibration`"),
        (GOOD.replace("limit = 8", 'npz = "x.npz"'), "exactly one of images, npz, csv, python, crops must be given, not images, npz"),
        (GOOD.replace('images = "photos"', ""), "not none"),
        (GOOD.replace("8", '"8"'), "Expected `int`"),
        (GOOD.replace("8", "-1"), "limit is -1"),
        (GOOD.replace('images = "photos"', 'python = "d.py:f"\nsha256 = "00"'), "a python source takes neither sha256 nor labels"),
        (GOOD + "[preprocessing]\nheight = 4\nwidth = 5\nstd = [0.0]\n", "std above 0"),
        ("name = ", "Invalid"),
    ],
)
def test_a_wrong_field_is_named_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        loaded(tmp_path, text)
    assert "set.toml is not a calibration manifest" in caught.value.cause and said in caught.value.cause


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(CalibrationError, match="is not a calibration manifest"):
        CalibrationSet.load(tmp_path / "set.toml")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.toml cannot be read"):
        CalibrationSet.load(tmp_path / "none.toml")


def test_shipped_manifests_are_found_by_name_and_others_are_refused() -> None:
    assert CalibrationSet.load(find_manifest("digits")).name == "digits"
    with pytest.raises(CalibrationError, match="no calibration manifest 'faces'"):
        find_manifest("faces")


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "[a" + ".a" * 100_000 + "]", "x = 1e999\n" + GOOD, GOOD + "\0"])
def test_a_manifest_that_nests_or_counts_beyond_measure_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CalibrationError, match="is not a calibration manifest"):
        loaded(tmp_path, text)


def test_a_pipe_is_no_manifest_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.toml")
    with pytest.raises(CalibrationError, match="cannot be read"):
        CalibrationSet.load(tmp_path / "set.toml")
