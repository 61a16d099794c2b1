"""The environment of tflite-runtime: made once and whole, from the pinned wheels or not at all; what a machine lacks is one line."""

from __future__ import annotations

import threading
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from edgepack.devices import tflite_runtime as module
from edgepack.devices.tflite_runtime import PYTHON, VERSIONS, NoRuntimeError, environment, is_made, site
from edgepack.devices.wheels import DevicePython, DownloadError
from tests.fakes.wheels import make_wheel, pip_settings

HERE = DevicePython(PYTHON, 64, "x86_64", "2.36")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tiny wheels of the pinned names and versions, which are the pinned files here; the caches are empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    made = [make_wheel(folder, name, version, "cp311-cp311-manylinux2014_x86_64", "") for name, version in VERSIONS.items()]
    monkeypatch.setattr(module, "DIGESTS", frozenset(sha256(path.read_bytes()).hexdigest() for path in made))
    monkeypatch.setenv("EDGEPACK_WHEELS", str(tmp_path / "wheels"))
    monkeypatch.setenv("EDGEPACK_RUNTIMES", str(tmp_path / "runtimes"))
    for name, value in pip_settings(folder).items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.mark.usefixtures("index")
def test_two_that_need_it_at_once_make_it_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unpacked: list[Path] = []
    unpack = module.unpack

    def counted(wheels: list[str], folder: Path) -> None:
        unpacked.append(folder)
        unpack(wheels, folder)

    monkeypatch.setattr(module, "unpack", counted)
    lanes = [threading.Thread(target=site, args=(HERE,)) for _ in range(2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert len(unpacked) == 1
    assert sorted(path.name for path in site(HERE).iterdir() if path.is_dir() and "dist-info" not in path.name) == [
        "numpy",
        "tflite_runtime",
    ]
    assert [path.name for path in (tmp_path / "runtimes").iterdir() if path.suffix == ".partial"] == []


def test_a_wheel_that_is_not_the_pinned_one_is_never_unpacked(index: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(index.glob("tflite_runtime*")), "a") as archive:
        archive.writestr("tflite_runtime/more.py", "")
    with pytest.raises(DownloadError, match=r"tflite_runtime-.*whl is not the file that is pinned -> next: see where pip takes it from"):
        site(HERE)
    assert [path.name for path in (tmp_path / "runtimes").iterdir()] == ["lock"]


def test_without_a_network_it_is_one_line_with_what_to_do(index: Path) -> None:
    for path in index.iterdir():
        path.unlink()
    with pytest.raises(
        DownloadError, match=r"no wheel of \S+ for Python 3\.11, x86_64, glibc 2\.36 can be found -> next: check the network"
    ):
        site(HERE)


@pytest.mark.parametrize(
    ("python", "what"),
    [
        (DevicePython("3.12.1", 64, "x86_64", "2.36"), r"Python 3\.12\.1, x86_64, glibc 2\.36"),
        (DevicePython("3.11.2", 64, "armv7l", "2.36"), "armv7l"),
        (DevicePython("3.11.2", 64, "arm64", ""), "no glibc"),
    ],
)
def test_a_machine_for_which_there_is_no_wheel_is_told_so(python: DevicePython, what: str) -> None:
    with pytest.raises(NoRuntimeError, match=rf"tflite-runtime 2\.14\.0 has no wheel for .*{what}"):
        site(python)


@pytest.mark.usefixtures("index")
def test_under_a_newer_python_the_one_it_needs_is_found_beside_or_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.sys, "version_info", (3, 13, 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoRuntimeError, match=r"runs under Python 3\.11 at most.* -> next: install python3\.11 beside it"):
        is_made()
    beside = tmp_path / "python3.11"
    beside.write_text("#!/bin/sh\n")
    beside.chmod(0o755)
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "glibc", lambda: "2.36")
    assert not is_made()
    assert environment().python == str(beside)
    assert is_made()
