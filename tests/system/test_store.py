"""Never stale, never half-done, the same bytes everywhere: whole builds over a store, of a Python student and of an .onnx one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.system.program import edgepack
from tests.verify.test_claims import data, network

STUDENT = """
import json
from pathlib import Path

import torch
from helper import widen

from edgepack import ImagePreprocessing, Student, TensorSpec


class Net(torch.nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.classify = torch.nn.Linear(6, 3)
        self.gain = gain

    def forward(self, image):
        return self.classify(torch.relu(self.conv(widen(image)) * self.gain).mean((2, 3)))


def student():
    torch.manual_seed(0)
    gain = json.loads((Path(__file__).parent / "config.json").read_text())["gain"]
    return Student(Net(gain), (torch.zeros(1, 3, 16, 16),), [TensorSpec("image", layout="NCHW")], ["scores"],
                   preprocessing=ImagePreprocessing(16, 16, 3), labels=("a", "b", "c"))
"""
ONE_TARGET = ("-t", "raspberry-pi-5", "-t", "android")


def project(folder: Path) -> Path:
    """A student with a helper module and a configuration file, and images to calibrate and evaluate on."""
    folder.mkdir(parents=True)
    (folder / "student.py").write_text(STUDENT)
    (folder / "helper.py").write_text("def widen(x):\n    return 2 * x - 1\n")
    (folder / "config.json").write_text('{"gain": 0.5}')
    (folder / "data.toml").write_text(
        'name = "set"\n[calibration]\nimages = "calibration"\n[evaluation]\nimages = "evaluation"\nlabels = "folders"\n'
    )
    random = np.random.default_rng(0)
    for place, count in [("calibration", 6), *((f"evaluation/{name}", 3) for name in "abc")]:
        (folder / place).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / place / f"{index}.bmp")
    return folder


def build(folder: Path, store: Path, *options: str, code: int = 0) -> list[str]:
    """The steps that ran."""
    command = ("build", "student.py:student", "-c", "data.toml", "-o", "pack", "--latency", "none", *(options or ONE_TARGET))
    ended = edgepack(*command, cwd=folder, EDGEPACK_STORE=str(store))
    assert ended.returncode == code, ended.stderr + ended.stdout
    return [line.removeprefix("  ok ").strip() for line in ended.stderr.splitlines() if line.startswith("  ok ")]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project as built once, and its store."""
    root = tmp_path_factory.mktemp("held")
    folder, store = project(root / "project"), root / "store"
    assert "android w8a8: judge" in build(folder, store)
    return folder, store


@pytest.fixture
def fresh(held: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the project to change, in another folder, with a copy of the store."""
    shutil.copytree(held[0], tmp_path / "elsewhere" / "project")
    shutil.copytree(held[1], tmp_path / "store")
    return tmp_path / "elsewhere" / "project", tmp_path / "store"


def test_an_unchanged_project_runs_nothing_but_the_look_at_the_student_in_another_folder_too(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (folder / "notes.txt").write_text("unrelated")
    assert build(folder, store) == ["student"]


def test_one_byte_of_one_calibration_image_runs_calibration_and_what_follows_only(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    path = folder / "calibration" / "3.bmp"
    content, stat = path.read_bytes(), path.stat()
    # A pixel: the last byte of a .bmp of this width.
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 0x80]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ran = build(folder, store)
    assert {"student", "samples", "calibrate", "quantize w8a8"} <= set(ran)
    assert not [name for name in ran if name in ("capture", "hub", "reference") or "fp32" in name]


def test_an_added_scheme_runs_its_own_steps_only(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    ran = build(folder, store, "-t", "raspberry-pi-5", "-t", "android", "-s", "fp32", "-s", "w8")
    assert {name for name in ran if name != "student"} == {
        "quantize w8",
        *(f"{target} w8: {verb}" for target in ("raspberry-pi-5", "android") for verb in ("write", "run", "judge")),
    }


def test_a_scheme_taken_from_one_target_leaves_the_others_alone(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    text = (Path(__file__).parents[2] / "targets" / "android.toml").read_text()
    schemes = next(line for line in text.splitlines() if line.startswith("schemes"))
    (folder / "android.toml").write_text(text.replace(schemes, 'schemes = ["fp32"]'))
    assert build(folder, store, "-t", "raspberry-pi-5", "-t", "android.toml") == ["student"]


def test_a_changed_budget_judges_again_and_does_nothing_else(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    text = (Path(__file__).parents[2] / "targets" / "android.toml").read_text()
    (folder / "android.toml").write_text(text.replace("accuracy_drop_points = 0.5", "accuracy_drop_points = 5.0"))
    ran = build(folder, store, "-t", "raspberry-pi-5", "-t", "android.toml")
    assert set(ran) == {"student", "android fp32: judge", "android w8a8: judge"}


def test_a_budget_that_the_gate_holds_runs_nothing(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    text = (Path(__file__).parents[2] / "targets" / "android.toml").read_text()
    (folder / "android.toml").write_text(f"{text}latency_p90_ms = 5.0\nsize_bytes = 1_000\n")
    assert build(folder, store, "-t", "raspberry-pi-5", "-t", "android.toml") == ["student"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("student.py", "manual_seed(0)", "manual_seed(1)", marks=pytest.mark.slow),
        ("helper.py", "2 * x - 1", "2 * x - 0.5"),
        ("config.json", "0.5", "0.6"),
        pytest.param("student.py", '"scores"', '"logits"', marks=pytest.mark.slow),
    ],
)
def test_whatever_changes_the_student_is_captured_again(file: str, old: str, new: str, fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    assert {"student", "capture", "hub", "reference"} <= set(build(folder, store))


def test_a_comment_in_a_helper_costs_a_capture_and_nothing_after_it(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    with (folder / "helper.py").open("a") as file:
        file.write("# a comment\n")
    assert set(build(folder, store)) == {"student", "capture", "reference"}


def test_a_student_that_is_another_one_each_time_is_refused(fresh: tuple[Path, Path]) -> None:
    folder, store = fresh
    path = folder / "student.py"
    path.write_text(path.read_text().replace("torch.manual_seed(0)", "torch.seed()"))
    ended = edgepack("build", "student.py:student", "-c", "data.toml", "-t", "raspberry-pi-5", cwd=folder, EDGEPACK_STORE=str(store))
    assert ended.returncode == 2 and "the student is another one each time it is made" in ended.stderr


def digests(pack: Path) -> dict[str, str]:
    """Recorded sha256 of every artifact and hub, by path."""
    manifest = json.loads((pack / "pack.json").read_text())
    records = [held["file"] for held in (*manifest["artifacts"], *manifest["hubs"])]
    return {record["path"]: record["sha256"] for record in records}


def cold(folder: Path, umask: int, *before: str, **environment: str) -> dict[str, str]:
    """A build without a store, in a process of its own; what it wrote."""
    program = f"import os; os.umask({umask}); from edgepack.cli import main; main()"
    command = [*before, sys.executable, "-c", program, "build", "student.py:student", "-c", "data.toml", "--fresh", "--latency", "none"]
    ended = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return digests(folder / "pack")


def test_two_cold_builds_in_different_surroundings_give_the_same_bytes(tmp_path: Path) -> None:
    first = cold(project(tmp_path / "one"), 0o022, PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC", OMP_NUM_THREADS="1")
    elsewhere = project(tmp_path / "with space" / "zwei")
    other = {"PYTHONHASHSEED": "77", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "TZ": "Asia/Kathmandu", "OMP_NUM_THREADS": "2"}
    home = tmp_path / "home"
    home.mkdir()
    second = cold(elsewhere, 0o077, HOME=str(home), USER="someone", LOGNAME="someone", COLUMNS="40", **other)
    assert first == second and len(first) == 6 + 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can build as another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_another_user_gets_the_same_bytes(held: tuple[Path, Path]) -> None:
    folder = project(Path(held[0]).parent / "of-nobody")
    first = digests(held[0] / "pack")
    again = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', 'import edgepack.api']).returncode)"
    try_it = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", again]
    if subprocess.run(try_it, env={**os.environ, "HOME": "/"}, capture_output=True, check=False).returncode != 0:
        pytest.skip("another user cannot run this checkout's Python")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    for path in folder.parents:
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    second = cold(folder, 0o022, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", HOME=str(folder))
    assert {path: digest for path, digest in second.items() if path in first} == first


def test_external_weights_of_an_onnx_student_are_part_of_it(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(network(tmp_path / "inner.onnx"))
    onnx.save(model, tmp_path / "student.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    data(tmp_path, tmp_path / "inner.onnx")
    command = ("build", "student.onnx", "-t", "raspberry-pi-5", "-s", "fp32", "--latency", "none")
    first, second = (edgepack(*command, cwd=tmp_path, EDGEPACK_STORE=str(tmp_path / "store")) for _ in range(2))
    assert first.returncode == second.returncode == 0 and "  ok" not in second.stderr
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[2] ^= 0x40
    (tmp_path / "weights.bin").write_bytes(content)
    assert "ok capture" in edgepack(*command, cwd=tmp_path, EDGEPACK_STORE=str(tmp_path / "store")).stderr
