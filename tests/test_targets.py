"""Targets: the shipped ones hold, and a user's own is read with care."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgepack.backends.registry import backend
from edgepack.data import data_folder
from edgepack.targets import TargetError, load_target, target_names

_FIELDS = {
    "name": '"my-board"',
    "title": '"A board"',
    "platform": '"raspberry-pi"',
    "backend": '"ort"',
    "runner": '"ort"',
    "schemes": '["fp32", "w8a8"]',
    "minimum_os": '"any"',
}


def own(folder: Path, tables: str = "", **changes: str) -> str:
    """A target file of the user's own; changes are TOML values."""
    lines = [f"{key} = {value}" for key, value in {**_FIELDS, **changes}.items() if value]
    path = folder / "board.toml"
    path.write_text("\n".join(lines) + f"\n{tables}\n")
    return str(path)


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_target_is_what_its_file_says_and_its_backend_exists(name: str) -> None:
    written = tomllib.loads((data_folder("targets") / f"{name}.toml").read_text())
    target = load_target(name)
    assert (target.name, target.runner, list(target.schemes)) == (name, written["runner"], written["schemes"])
    assert target.budgets.quantized_below_hub_db == written["budgets"]["quantized_below_hub_db"]
    assert backend(target.backend)


def test_the_three_platforms_are_shipped() -> None:
    assert {load_target(name).platform for name in target_names()} == {"raspberry-pi", "android", "ios"}


def test_a_users_own_file_is_a_target(tmp_path: Path) -> None:
    target = load_target(own(tmp_path, "[budgets]\naccuracy_drop_points = 2.0"))
    assert (target.name, target.budgets.accuracy_drop_points, target.constraints.scale_dtype) == ("my-board", 2.0, "float32")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"no target 'andriod' -> next: choose from android, ios, .*or give a .toml file"):
        load_target("andriod")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no target"):
        load_target(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": '"../../etc"'}, "cannot name a folder"),
        ({"name": '"My Board"'}, "cannot name a folder"),
        ({"name": '""'}, "cannot name a folder"),
        ({"name": '"golden"'}, "cannot name a folder"),
        ({"backend": '"tensorrt"'}, "tensorrt"),
        ({"runner": '"python"'}, "python"),
        ({"schemes": '["int8"]'}, "scheme 'int8' is not a scheme name"),
        ({"schemes": "[]"}, "carries no scheme"),
        ({"title": ""}, "title"),
        ({"colour": '"red"'}, "colour"),
        ({"tables": "[budgets]\naccuracy_drop_points = nan"}, "finite"),
        ({"tables": "[budgets]\nfp32_below_student_db = inf"}, "finite"),
        ({"tables": '[constraints]\nscale_dtype = "bfloat16"'}, "bfloat16"),
        ({"tables": "[budgets"}, "board.toml"),
    ],
)
def test_a_file_that_is_no_target_is_refused_with_its_name_and_the_reason(changes: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"board.toml is not a target \(.*\) -> next: compare it with one") as caught:
        load_target(own(tmp_path, **changes))
    assert words in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match="is not a target"):
        load_target(str(tmp_path / "board.toml"))


def test_a_target_that_nests_beyond_measure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(TargetError, match="is not a target"):
        load_target(str(tmp_path / "board.toml"))
