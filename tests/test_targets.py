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


def test_the_three_platforms_and_browsers_are_shipped() -> None:
    assert {load_target(name).platform for name in target_names()} == {"raspberry-pi", "android", "ios", "web"}


def test_only_what_is_written_for_an_old_runtime_says_so() -> None:
    assert {load_target(name).dialect for name in target_names()} == {"ort", "tflite", "tflite@2.14", "coreml"}
    assert load_target("android-legacy").dialect == "tflite@2.14"


def test_a_users_own_file_is_a_target(tmp_path: Path) -> None:
    target = load_target(own(tmp_path, "[budgets]\naccuracy_drop_points = 2.0"))
    assert (target.name, target.budgets.accuracy_drop_points, target.constraints.scale_dtype) == ("my-board", 2.0, "float32")


def test_a_board_needs_no_more_than_its_name_and_machine(tmp_path: Path) -> None:
    target = load_target(own(tmp_path, '[hardware]\nmodel = "A board"\nmachine = "aarch64"'))
    assert target.hardware is not None and (target.hardware.model, target.hardware.cores) == ("A board", None)


def test_the_target_that_the_documentation_shows_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "budgets.md").read_text()
    (tmp_path / "night-camera.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    target = load_target(str(tmp_path / "night-camera.toml"))
    assert (target.budgets.latency_p90_ms, target.budgets.size_bytes, target.budgets.memory_peak_bytes) == (25.0, 6_000_000, 150_000_000)
    assert target.hardware is not None and target.hardware.model == "Raspberry Pi 5"


def test_what_the_gate_alone_holds_is_no_matter_of_a_verdict(tmp_path: Path) -> None:
    plain = load_target(own(tmp_path)).judged("fp32")
    gated = "latency_p90_ms = 5.0\nlatency_threads = 4\nsize_bytes = 9\nmemory_peak_bytes = 9"
    tables = f'[budgets]\n{gated}\n[hardware]\nmodel = "A board"\nmachine = "aarch64"'
    assert load_target(own(tmp_path, tables)).judged("fp32") == plain
    assert load_target(own(tmp_path, "[budgets]\naccuracy_drop_points = 9.0")).judged("fp32") != plain


@pytest.mark.parametrize(("name", "hertz", "float32", "int8"), [("raspberry-pi-5", 2.4e9, 16, 64), ("raspberry-pi-4", 1.8e9, 16, 32)])
def test_a_pis_limits_are_what_its_pipes_do_in_a_cycle(name: str, hertz: float, float32: int, int8: int) -> None:
    hardware = load_target(name).hardware
    assert hardware is not None and (hardware.cores, hardware.machine) == (4, "aarch64")
    assert hardware.operations_per_second == {"float32": hertz * float32, "int8": hertz * int8}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"no target 'andriod' -> next: choose from android, android-legacy, ios, .*or give a .toml file"):
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
        ({"name": '"measurements"'}, "cannot name a folder"),
        ({"backend": '"tensorrt"'}, "tensorrt"),
        ({"runner": '"python"'}, "python"),
        ({"schemes": '["int8"]'}, "scheme 'int8' is not a scheme name"),
        ({"schemes": "[]"}, "carries no scheme"),
        ({"title": ""}, "title"),
        ({"colour": '"red"'}, "colour"),
        ({"tables": "[budgets]\naccuracy_drop_points = nan"}, "finite"),
        ({"tables": "[budgets]\nfp32_below_student_db = inf"}, "finite"),
        ({"tables": "[budgets]\nlatency_threads = 0"}, "at least one thread"),
        ({"tables": '[constraints]\nscale_dtype = "bfloat16"'}, "bfloat16"),
        ({"tables": '[constraints]\nruntime = "2.13"'}, "2.13"),
        ({"tables": '[constraints]\nruntime = "2.14"'}, "runner tflite_runtime is for"),
        ({"runner": '"tflite_runtime"', "backend": '"tflite"'}, "runner tflite_runtime is for"),
        ({"tables": '[constraints]\nstate = "hidden"'}, "hidden"),
        ({"tables": '[constraints]\nstate = "kept"'}, 'constraints.state "kept" is for backend coreml and minimum_os iOS18'),
        (
            {"backend": '"coreml"', "runner": '"mil"', "minimum_os": '"iOS17"', "tables": '[constraints]\nstate = "kept"'},
            'constraints.state "kept" is for backend coreml and minimum_os iOS18',
        ),
        ({"tables": f"[budgets]\nsize_bytes = {10**400}"}, "finite"),
        ({"tables": "[budgets"}, "board.toml"),
        ({"tables": '[hardware]\nmodel = "A board"'}, "machine"),
        ({"tables": '[hardware]\nmodel = ""\nmachine = "aarch64"'}, "no device"),
        ({"tables": '[hardware]\nmodel = "A board"\nmachine = "aarch64"\nbytes_per_second = inf'}, "finite"),
        ({"tables": '[hardware]\nmodel = "A board"\nmachine = "aarch64"\ncores = 0'}, "above 0"),
        ({"tables": '[hardware]\nmodel = "A board"\nmachine = "aarch64"\noperations_per_second = {int8 = nan}'}, "finite"),
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
