"""``edgepack doctor``: what it finds in this environment and in broken ones. Broken ones are real modules put on the path."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgepack import doctor
from edgepack.devices import tflite_runtime
from edgepack.devices.wheels import DevicePython


def module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of this name, found before the installed one here and in child processes."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_this_environment_has_a_python_and_an_onnxruntime_that_work() -> None:
    assert doctor._python().level == "ok"
    check = doctor._import("onnxruntime")
    assert (check.level, check.found) == ("ok", f"{metadata.version('onnxruntime')}, for calibration and raspberry-pi targets")


def test_a_library_that_does_not_import_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "onnxscript", "raise ImportError('libfoo.so.1: cannot open shared object file')", monkeypatch)
    check = doctor._import("onnxscript")
    assert check.level == "error" and "libfoo.so.1" in check.found and "constraints.txt" in check.next_step


def test_a_library_that_aborts_the_process_is_an_error_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "onnxscript", "import os; os.abort()", monkeypatch)
    check = doctor._import("onnxscript")
    assert check.level == "error" and "does not import" in check.found


def test_a_library_that_hangs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "onnxscript", "import time; time.sleep(600)", monkeypatch)
    monkeypatch.setattr(doctor, "_IMPORT_SECONDS", 1)
    assert "hangs for more than 1 s" in doctor._import("onnxscript").found


def test_a_file_in_the_working_folder_is_not_taken_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("raise ImportError('not the library')")
    monkeypatch.chdir(tmp_path)
    assert doctor._import("onnx").level == "ok"


def test_importing_never_sends_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "onnxruntime", "import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'", monkeypatch)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert doctor._import("onnxruntime").level == "ok"
    assert "ORT_DISABLE_TELEMETRY" not in os.environ


def test_a_missing_library_says_who_needs_it_and_only_torch_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    torch, onnx = doctor._import("torch"), doctor._import("onnx")
    assert (torch.level, onnx.level) == ("warning", "error")
    assert "Python and .pt2 students need it" in torch.found and onnx.next_step == "pip install onnx"


def test_the_old_runtime_is_told_of_where_it_is_made_where_it_is_not_and_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_RUNTIMES", str(tmp_path))
    monkeypatch.setattr(tflite_runtime, "_python", lambda: sys.executable)
    monkeypatch.setattr(tflite_runtime, "_here", lambda: DevicePython("3.11", 64, "x86_64", "2.36"))
    assert (doctor._old_runtime().level, "not made yet" in doctor._old_runtime().found) == ("ok", True)
    site = tflite_runtime._place(tflite_runtime._here())
    (site / "tflite_runtime").mkdir(parents=True)
    (site / "tflite_runtime" / "interpreter.py").write_text("raise ImportError('_ARRAY_API not found')")
    broken = doctor._old_runtime()
    assert broken.level == "error" and "_ARRAY_API not found" in broken.found and str(site) in broken.next_step
    (site / "tflite_runtime" / "interpreter.py").write_text("")
    assert doctor._old_runtime().found == "2.14.0 in an environment of its own, for target android-legacy"
    monkeypatch.setattr(tflite_runtime, "_here", lambda: DevicePython("3.11", 64, "arm64", ""))
    assert doctor._old_runtime().level == "warning" and "no glibc" in doctor._old_runtime().found


def test_a_library_from_another_distribution_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "fork", "", monkeypatch)
    monkeypatch.setitem(doctor._NEEDED, "fork", ("distribution-that-is-not-installed", "nobody"))
    assert doctor._import("fork").found == "of another distribution, for nobody"


def test_a_torchvision_that_breaks_is_an_error_and_one_that_works_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')", monkeypatch)
    (check,) = [found for found in doctor._conflicts() if found.name == "torchvision"]
    assert (check.level, check.next_step) == ("error", "pip uninstall torchvision")
    module(tmp_path, "torchvision", "", monkeypatch)
    assert not [found for found in doctor._conflicts() if found.name == "torchvision"]


def test_a_tflite_runtime_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "tflite_runtime", "", monkeypatch)
    (check,) = [found for found in doctor._conflicts() if found.name == "tflite-runtime"]
    assert check.level == "warning" and check.next_step


def test_a_device_id_that_telemetry_left_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor._telemetry().level == "ok"
    (tmp_path / ".cache" / "Microsoft" / "DeveloperTools" / ".onnxruntime").mkdir(parents=True)
    assert doctor._telemetry().level == "warning"


def test_an_old_python_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert doctor._python().level == "error"
