"""``edgepack init``: a project that is complete, the same each time, and never written over anything."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepack.scaffold import ScaffoldError, scaffold


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "deep" / "project"
    assert scaffold(folder) == ["student.py", "calibration.toml", "calibration/", "evaluation/"]
    return folder


def test_what_is_announced_is_there_and_nothing_beside_it(project: Path) -> None:
    assert sorted(path.name for path in project.iterdir()) == ["calibration", "calibration.toml", "evaluation", "student.py"]
    assert [path.name for path in project.parent.iterdir()] == ["project"]
    ast.parse((project / "student.py").read_text())
    tomllib.loads((project / "calibration.toml").read_text())


def test_images_are_real_labelled_by_folder_and_shared_by_no_two_sets(project: Path) -> None:
    held = {kind: sorted((project / kind).rglob("*.png")) for kind in ("calibration", "evaluation")}
    assert {kind: len(paths) for kind, paths in held.items()} == {"calibration": 18, "evaluation": 12}
    assert (
        {path.parent.name for path in held["calibration"]}
        == {path.parent.name for path in held["evaluation"]}
        == {"disc", "square", "stripes"}
    )
    pixels = [np.asarray(Image.open(path)).tobytes() for paths in held.values() for path in paths]
    assert len(set(pixels)) == len(pixels) == 30


def test_two_projects_are_the_same_bytes(project: Path, tmp_path: Path) -> None:
    scaffold(tmp_path / "again")
    assert files(tmp_path / "again") == files(project)


def test_the_working_folder_is_filled_when_it_is_empty(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scaffold(Path())
    assert files(tmp_path) == files(project) and Path.cwd() == tmp_path


def test_a_folder_with_anything_in_it_and_a_file_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ScaffoldError, match="exists and is not empty -> next: choose a new folder"):
            scaffold(place)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["file/project", "p" * 300])
def test_a_place_that_cannot_be_created_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScaffoldError, match=r"cannot be created \(.+\) -> next: choose a folder you may write to"):
        scaffold(tmp_path / name)
