"""Which wheels a device gets: what its Python can load, what the runtimes declare, and a cache that notices damage."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgepack.devices import wheels as module
from edgepack.devices.sending import digest
from edgepack.devices.transport import OurDiskError
from edgepack.devices.wheels import (
    MACHINES,
    MODULES,
    NEEDS,
    PYTHONS,
    UNUSED,
    DevicePython,
    DownloadError,
    UnfitError,
    _normal,
    is_older,
    platforms,
    refuse_unfit,
    set_digest,
    wanted,
    wheels,
)
from tests.devices.conftest import PI


def declared(distribution: str, python: str) -> set[str]:
    """What a distribution's own metadata asks for on a Pi."""
    requirements = map(Requirement, metadata.requires(distribution) or ())
    place = {"python_version": python, "sys_platform": "linux", "platform_machine": "aarch64", "platform_system": "Linux", "extra": ""}
    return {_normal(each.name) for each in requirements if each.marker is None or each.marker.evaluate(place)}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("distribution", NEEDS)
def test_the_table_of_needs_is_what_the_distributions_declare(distribution: str, python: str) -> None:
    assert {*map(_normal, NEEDS[distribution]), *UNUSED.get(distribution, ())} == declared(distribution, python)
    assert set(NEEDS[distribution]) <= set(NEEDS)


def test_no_runner_imports_what_is_declared_and_not_sent() -> None:
    absent = [name.replace("-", "_") for names in UNUSED.values() for name in names]
    block = f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
    for modules in (["edgepack.runner.ort"], ["edgepack.runner.litert", "ai_edge_litert.interpreter"], MODULES.values()):
        subprocess.run([sys.executable, "-c", block + "".join(f"import {each}\n" for each in modules)], check=True)


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        (DevicePython("3.11.2", 32, "aarch64", "2.36"), "has a 32-bit Python"),
        (DevicePython("3.11.2", 32, "armv7l", "2.36"), "has a 32-bit Python"),
        (DevicePython("3.11.2", 64, "riscv64", "2.36"), "is a riscv64"),
        (DevicePython("3.12.1", 64, "aarch64", ""), r"has no glibc \(musl\?\)"),
        (DevicePython("3.9.2", 64, "aarch64", "2.31"), r"is 3\.9\.2, too old: the runtimes are made for 3\.11 to 3\.13"),
        (DevicePython("3.14.0", 64, "aarch64", "2.41"), r"is 3\.14\.0, too new"),
    ],
)
def test_a_python_that_no_wheel_fits_is_refused_with_the_reason(python: DevicePython, reason: str) -> None:
    with pytest.raises(UnfitError, match=reason) as caught:
        refuse_unfit("ssh://pi", python)
    assert caught.value.exit_code == 4 and caught.value.cause.count("ssh://pi") == 1


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_python_that_is_promised_passes(version: str, machine: str) -> None:
    refuse_unfit("ssh://pi", DevicePython(f"{version}.1", 64, machine, "2.36"))


def test_a_wheel_for_a_newer_glibc_than_the_devices_is_never_asked_for() -> None:
    names = list(platforms(DevicePython("3.11.2", 64, "aarch64", "2.31")))
    assert names[0] == "manylinux_2_31_aarch64" and names[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert len(names) == 31 - 17 + 2


@pytest.mark.parametrize(("version", "than", "older"), [("1.9.0", "1.32.0", True), ("1.32.0", "1.32.0", False), ("2.0", "1.32", False)])
def test_versions_are_compared_as_numbers(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) is older


@pytest.mark.parametrize(("version", "machine"), [("3.11", "aarch64"), ("3.12", "x86_64"), ("3.13", "aarch64")])
@pytest.mark.usefixtures("index")
def test_a_device_gets_its_own_wheels_in_the_versions_of_this_environment(version: str, machine: str) -> None:
    found = {wheel.distribution: wheel for wheel in wheels(DevicePython(f"{version}.0", 64, machine, "2.36"))}
    assert {name: wheel.version for name, wheel in found.items()} == wanted()
    tag = f"cp{version.replace('.', '')}-manylinux_2_28_{machine}.whl"
    assert found["onnxruntime"].path.name.endswith(tag) and found["packaging"].path.name.endswith("none-any.whl")


@pytest.mark.usefixtures("index")
def test_a_system_too_old_for_any_wheel_is_named() -> None:
    with pytest.raises(DownloadError, match=r"no wheel of onnxruntime==\S+ for Python 3\.11, aarch64, glibc 2\.27 can be found"):
        wheels(DevicePython("3.11.2", 64, "aarch64", "2.27"))


@pytest.mark.usefixtures("stocked")
def test_what_the_cache_holds_is_not_downloaded_again(index: Path) -> None:
    for each in index.iterdir():
        each.unlink()
    assert [wheel.distribution for wheel in wheels(PI)] == list(NEEDS)


@pytest.mark.usefixtures("stocked")
def test_a_damaged_wheel_is_noticed_and_downloaded_again() -> None:
    first = wheels(PI)
    damaged = next(wheel for wheel in first if wheel.distribution == "numpy")
    content = damaged.path.read_bytes()
    damaged.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = {wheel.distribution: wheel for wheel in wheels(PI)}
    assert damaged.path.read_bytes() != content[:-1] + bytes([content[-1] ^ 1])
    assert digest(damaged.path) == again["numpy"].sha256 and len(again) == len(first)


@pytest.mark.parametrize("content", [b"", b'{"numpy==1": 3}', b"\xff"])
def test_a_damaged_index_of_the_cache_is_an_empty_one(stocked: Path, content: bytes) -> None:
    (folder,) = stocked.glob("*aarch64*")
    (folder / "wheels.json").write_bytes(content)
    assert module._index(folder) == {}


def test_a_download_that_fails_keeps_what_came_before_and_leaves_no_part(index: Path) -> None:
    for path in index.glob("protobuf*"):
        path.unlink()
    with pytest.raises(DownloadError, match=r"no wheel of protobuf==\S+ for Python 3\.11"):
        wheels(PI)
    (folder,) = module.cache_folder().iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", *[".whl"] * len(MODULES)]
    assert set(module._index(folder)) == {f"{name}=={wanted()[name]}" for name in MODULES}


@pytest.mark.usefixtures("index")
def test_a_cache_that_cannot_be_written_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEPACK_WHEELS", str(tmp_path / "file" / "wheels"))
    with pytest.raises(OurDiskError, match=r"the cache of wheels cannot be written on this machine: .*\(Not a directory\) -> next: "):
        wheels(PI)


@pytest.mark.usefixtures("index")
def test_an_environment_without_pip_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(DownloadError, match=r"this environment has no pip -> next: .* -m ensurepip"):
        wheels(PI)


def test_a_runtime_missing_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "version", version)
    with pytest.raises(DownloadError, match="onnxruntime is not installed here"):
        wanted()


@pytest.mark.usefixtures("stocked")
def test_a_set_of_wheels_is_named_by_what_they_hold() -> None:
    chosen = wheels(PI)
    assert set_digest(chosen) == set_digest(chosen[::-1]) != set_digest(chosen[1:])
