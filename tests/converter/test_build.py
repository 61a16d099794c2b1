"""A whole build of an ONNX student for one target, and what is left of one that is interrupted or fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest

from edgepack import api
from edgepack.arrays import load_arrays
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Limits
from edgepack.converter.store import StoreError
from edgepack.errors import InputError
from edgepack.pack.digest import file_record
from edgepack.pack.files import PackError, load_pack
from edgepack.pack.manifest import Pack
from edgepack.pack.run import answer
from tests.backends.ort import models

LIMITS = Limits(120, 8 * 2**30)


def student(folder: Path) -> str:
    """An .onnx student of one Conv."""
    model = onnx.load(models.real_conv(folder / "student.onnx"))
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "b"))
    onnx.save(model, folder / "student.onnx")
    return str(folder / "student.onnx")


def build(folder: Path, **options: object) -> Pack:
    asked = {"targets": ["raspberry-pi-5"], "latency": "none", "limits": LIMITS, "store": folder / "store", **options}
    return api.build(student(folder), folder / "pack", **asked)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    manifest = build(folder)
    assert load_pack(folder / "pack") == manifest
    return folder


def test_a_build_leaves_its_pack_and_nothing_beside_it(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["pack", "store", "student.onnx"]
    assert (built / "pack" / "report.html").stat().st_size > 0


def test_every_recorded_digest_is_the_files_own(built: Path) -> None:
    pack = load_pack(built / "pack")
    assert all(file_record(built / "pack", built / "pack" / record.path) == record for record in pack.files)
    named = {record.path for record in pack.files} | {"pack.json", "report.html"}
    assert {path.relative_to(built / "pack").as_posix() for path in (built / "pack").rglob("*") if path.is_file()} == named


def test_the_artifact_passed_and_its_golden_outputs_are_onnxruntimes(built: Path) -> None:
    pack = load_pack(built / "pack")
    (artifact,) = pack.artifacts
    assert artifact.failures == () and artifact.no_latency == "not asked for"
    session = onnxruntime.InferenceSession(str(built / "student.onnx"), providers=["CPUExecutionProvider"])
    inputs, outputs = Samples.open(built / "pack" / pack.golden_inputs.path), load_arrays(built / "pack" / pack.golden_outputs.path)
    for x, y in zip(inputs.arrays["x"], outputs["y"], strict=True):
        np.testing.assert_allclose(y, session.run(None, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_the_pack_answers_what_onnxruntime_answers_and_refuses_a_changed_artifact(built: Path) -> None:
    pack = load_pack(built / "pack")
    sample = np.random.default_rng(5).normal(size=(1, 1, 3, 8, 8)).astype(np.float32)
    given = answer(built / "pack", pack, pack.artifacts[0], {"x": sample}, LIMITS, 1, timed=False)
    session = onnxruntime.InferenceSession(str(built / "student.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(given.outputs["y"], session.run(None, {"x": sample[0]})[0], rtol=1e-5, atol=1e-5)
    path = built / "pack" / pack.artifacts[0].file.path
    content = path.read_bytes()
    path.write_bytes(content.replace(b"conv", b"Conv"))
    with pytest.raises(PackError, match="is not the file that was verified"):
        answer(built / "pack", pack, pack.artifacts[0], {"x": sample}, LIMITS, 1, timed=False)
    path.write_bytes(content)


def test_ctrl_c_leaves_no_pack_no_scratch_folder_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-c", "from edgepack.cli import main; main()", "build", student(tmp_path)]
    command += ["-t", "raspberry-pi-5", "-o", str(tmp_path / "pack"), "--latency", "none"]
    # Every process of this build has this folder in its environment, so none can hide.
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "BUILD_OF": str(tmp_path), "EDGEPACK_STORE": str(tmp_path / "store")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        _wait_until_a_step_runs(tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "student.onnx", "tmp"]
    assert not list((tmp_path / "tmp").iterdir()) and not list((tmp_path / "store" / "tmp").iterdir())
    # What was finished is kept.
    assert list((tmp_path / "store").glob("entries/*/*/entry.json"))
    assert not [running for running in psutil.process_iter() if _environment(running).get("BUILD_OF") == str(tmp_path)]


def _wait_until_a_step_runs(folder: Path) -> None:
    end = time.monotonic() + 60
    while not list(folder.glob("store/entries/*/*")) or not list(folder.glob("store/tmp/*/log.txt")):
        assert time.monotonic() < end
        time.sleep(0.02)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_step_that_exceeds_its_time_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"it hung: no end after 0\.05 s"):
        build(tmp_path, limits=Limits(0.05), store=None)
    assert [path.name for path in tmp_path.iterdir()] == ["student.onnx"]


def test_a_work_folder_keeps_files_and_logs(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="it hung"):
        build(tmp_path, limits=Limits(0.05), work=tmp_path / "work")
    assert (tmp_path / "work" / "capture" / "log.txt").is_file()
    with pytest.raises(StoreError, match=r"student.onnx cannot be written"):
        build(tmp_path, work=tmp_path / "student.onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": []}, "no target was named"),
        ({"threads": 0}, "0 threads"),
        ({"ranges": "guess"}, "range method 'guess' is not known"),
        ({"latency": "fast"}, "latency profile 'fast' is not known"),
        ({"schemes": ["w4b32"]}, "does not carry scheme w4b32"),
        ({"schemes": ["w8a8"]}, "scheme w8a8 needs a calibration set"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_runs(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        build(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["student.onnx"]


def test_two_target_files_of_one_name_and_a_target_without_a_scheme_that_can_be_built_are_refused(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "targets" / "android.toml").read_text()
    (tmp_path / "own.toml").write_text(text)
    (tmp_path / "static.toml").write_text(text.replace('"fp32", ', "").replace('"android"', '"static"', 1))
    with pytest.raises(InputError, match="two of the targets are called android"):
        build(tmp_path, targets=["android", str(tmp_path / "own.toml")])
    with pytest.raises(InputError, match="every scheme of target static needs a calibration set"):
        build(tmp_path, targets=[str(tmp_path / "static.toml")])
