"""A Mac behind ssh, as far as it can be shown without one: real ssh, a Mac's facts, and a stand-in of coremltools' predict."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest

from edgepack.devices.connect import connected
from edgepack.devices.known import known, with_python
from edgepack.devices.listing import listed
from edgepack.devices.setup import MissingError, setup
from edgepack.devices.ssh import Ssh
from edgepack.devices.transport import TransportError
from edgepack.errors import InputError
from edgepack.latency.bench import BenchResult, bench
from edgepack.latency.gate import checks
from edgepack.pack.files import PackError, load_pack
from edgepack.pack.manifest import Measurement
from edgepack.pack.measurements import held
from edgepack.runner.coreml import UNITS
from tests.devices.conftest import DEVICE
from tests.fakes.mac import THROTTLED, Mac
from tests.fakes.sshd import Server
from tests.system.conftest import digits_pack
from tests.system.program import edgepack, failure

__all__ = ["digits_pack"]


@pytest.fixture
def mac(server: Server, tmp_path: Path) -> Iterator[Mac]:
    """The stand-in behind ``ssh://device``."""
    found = Mac.make(tmp_path / "mac")
    found.move_in(server)
    yield found
    for name in ("sysctl", "sw_vers", "pmset"):
        (server.bin / name).unlink(missing_ok=True)


@pytest.fixture
def pack(digits_pack: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    shutil.copytree(digits_pack, folder, ignore=shutil.ignore_patterns("measurements"))
    # As reproducible copies date them.
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    return folder


def on_mac(pack: Path, *units: str, scheme: str = "w8a8") -> BenchResult:
    """One scheme, quickly."""
    return bench(pack, "ssh://device", schemes=(scheme,), profile="smoke", units=units)


def by_unit(result: BenchResult) -> dict[str, Measurement]:
    return {each.unit: each for each in result.measurements}


def test_each_compute_unit_is_a_row_of_its_own_in_pack_report_and_gate(mac: Mac, pack: Path) -> None:
    result = bench(pack, "ssh://device", profile="smoke", schemes=("w8a8",))
    assert result.passed and not result.failures
    assert [(each.target, each.scheme, each.unit) for each in result.measurements] == [("ios", "w8a8", unit) for unit in UNITS]
    for each in result.measurements:
        assert each.latency is not None and each.latency.p50 is not None and each.truth == each.latency.truth == "host"
        assert each.device["board"] == "Mac15,3" and each.device["system"] == "macOS 15.1" and each.device["processor"] == "Apple M3"
        assert each.device["architecture"] == "arm64" and each.device["kernel"].startswith("Darwin ")
        assert each.device["runtime"].startswith("Core ML of macOS") and "never run on a Mac" in each.device["runner"]
    manifest = load_pack(pack)
    assert len(held(pack, manifest)) == 4
    text = (pack / "report.html").read_text()
    assert all(f"ios w8a8 on {unit}" in text for unit in UNITS) and "never run on a Mac" in text
    parity = next(each for each in checks(manifest, held(pack, manifest)) if (each.subject, each.name) == ("ios w8a8", "parity"))
    assert parity.status == "pass" and "Mac15,3 on cpu_only" in parity.words


def test_a_mac_is_no_iphone_and_holds_no_budget_of_one(mac: Mac, pack: Path) -> None:
    on_mac(pack, "all")
    manifest = load_pack(pack)
    found = checks(manifest, held(pack, manifest), {"latency_p90_ms": 1e6})
    assert {check.status for check in found if check.target == "ios" and check.name == "latency p90"} == {"not measured"}


def test_what_core_ml_answers_is_what_was_verified(mac: Mac, pack: Path) -> None:
    result = on_mac(pack, "cpu_only")
    artifact = next(each for each in load_pack(pack).artifacts if (each.target, each.scheme) == ("ios", "w8a8"))
    (found,) = result.measurements
    assert found.parity.outputs[0].sqnr_db == artifact.parity.outputs[0].sqnr_db


@pytest.mark.parametrize("how", ["wrong_on", "not_finite_on"])
def test_wrong_outputs_of_one_unit_fail_and_are_not_timed(mac: Mac, pack: Path, how: str) -> None:
    mac.behave(**{how: "cpu_and_ne"})
    result = on_mac(pack, "cpu_and_ne", "cpu_only")
    found = by_unit(result)
    assert not result.passed and found["cpu_and_ne"].failures and found["cpu_and_ne"].latency is None
    assert not found["cpu_only"].failures and found["cpu_only"].latency is not None
    failed = [check for check in result.checks if check.status == "fail"]
    assert failed and all("on cpu_and_ne" in check.words for check in failed)


@pytest.mark.slow
def test_a_unit_on_which_prediction_fails_is_reported_and_the_others_are_measured(mac: Mac, pack: Path) -> None:
    mac.behave(fails_on="cpu_and_gpu")
    result = on_mac(pack, "cpu_and_gpu", "cpu_only")
    assert [each.unit for each in result.measurements] == ["cpu_only"]
    assert [each.subject for each in result.failures] == ["ios w8a8 on cpu_and_gpu"]
    assert "Error computing NN outputs" in result.failures[0].error.cause
    assert not result.passed


def test_core_ml_that_cannot_be_loaded_is_a_failure_in_its_own_words(mac: Mac, pack: Path) -> None:
    mac.behave(without_core_ml=True)
    with pytest.raises(Exception, match=r"Unable to load CoreML\.framework"):
        on_mac(pack, "all")


@pytest.mark.slow
def test_a_mac_that_is_throttled_or_saves_power_gives_invalid_times(mac: Mac, server: Server, pack: Path) -> None:
    mac.feel(server, THROTTLED)
    (hot,) = on_mac(pack, "all").measurements
    assert hot.latency and any("CPU_Speed_Limit = 62" in reason for reason in hot.latency.invalid)
    mac.feel(server, low_power=True)
    (saving,) = on_mac(pack, "all").measurements
    assert saving.latency and any("battery saver" in reason for reason in saving.latency.invalid)


def test_a_mac_without_coremltools_is_told_the_command_that_installs_it(mac: Mac, pack: Path) -> None:
    mac.behave(no_module=True)
    with pytest.raises(MissingError) as caught:
        on_mac(pack, "all")
    assert f"pip install coremltools=={metadata.version('coremltools')}" in caught.value.hint and "\n" not in str(caught.value)
    assert "No module named 'coremltools'" in caught.value.cause


def test_an_older_coremltools_or_python_is_refused(mac: Mac, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = mac.folder.glob("*.dist-info/METADATA")
    record.write_text("Metadata-Version: 2.1\nName: coremltools\nVersion: 7.2\n")
    with pytest.raises(MissingError, match=r"coremltools on ssh://device is 7\.2, older than"), connected(DEVICE):
        pass
    with (mac.folder / "sitecustomize.py").open("a") as file:
        file.write("import platform\nplatform.python_version = lambda: '3.9.6'\n")
    with pytest.raises(MissingError, match=r"python3 on ssh://device is Python 3\.9\.6"), connected(DEVICE):
        pass


def test_linux_at_the_other_end_runs_no_core_ml_and_a_mac_nothing_else(server: Server, mac: Mac, pack: Path) -> None:
    with pytest.raises(PackError, match="a Mac behind ssh runs Core ML's alone"):
        bench(pack, "ssh://device", targets=("raspberry-pi-5",), profile="smoke")
    server.python()
    with pytest.raises(MissingError, match="has no runtimes"):
        bench(pack, "ssh://device", targets=("ios",), profile="smoke")


@pytest.mark.slow
def test_the_python_of_a_mac_can_be_named_and_is_remembered_by_setup(mac: Mac, server: Server, pack: Path) -> None:
    mac.move_in(server, "venv-python")
    server.program("python3", "echo 'xcode-select: note: No developer tools were found' >&2; exit 1")
    with closing(Ssh.open(with_python(DEVICE, "venv-python"))) as transport:
        ready = setup(transport)
    assert (ready.model, ready.runtimes, ready.sent) == ("Mac15,3", {"coremltools": metadata.version("coremltools")}, 0)
    assert [each.command for each in known()] == ["venv-python"]
    assert on_mac(pack, "all").passed
    (device,) = [each for each in listed(5) if each.device.address == "ssh://device"]
    assert (device.state, device.device.model, device.device.command) == ("reachable", "Mac15,3", "venv-python")


def test_a_python_that_is_not_there_or_no_path_is_refused_in_a_line(mac: Mac, pack: Path) -> None:
    with pytest.raises(TransportError, match="device has no /opt/none/python3"):
        bench(pack, "ssh://device", python="/opt/none/python3")
    for python in ("a b", "x;reboot", "-c", "$(id)"):
        with pytest.raises(InputError, match="is no path of a Python"):
            bench(pack, "ssh://device", python=python)
    with pytest.raises(InputError, match="--python is for devices behind ssh"):
        bench(pack, "local", python="python3")
    with pytest.raises(InputError, match="no compute unit 'ane'"):
        bench(pack, "ssh://device", units=("ane",))


@pytest.mark.slow
def test_the_table_and_json_name_the_unit(mac: Mac, pack: Path, tmp_path: Path) -> None:
    options = ("--device", "ssh://device", "-s", "fp32", "--profile", "smoke", "--compute-unit", "cpu_only")
    shown = edgepack("bench", pack, *options, cwd=tmp_path)
    assert shown.returncode == 0 and "fp32 cpu_only" in shown.stdout and "Mac15,3" in shown.stdout, shown.stderr
    (kept,) = (pack / "measurements").iterdir()
    found = json.loads(kept.read_text())
    assert (found["unit"], found["truth"]) == ("cpu_only", "host")
    refused = edgepack("bench", pack, *options[:-1], "ane", cwd=tmp_path)
    assert refused.returncode == 2 and "cpu_and_ne" in failure(refused)


@pytest.mark.slow
def test_a_mac_is_compared_with_an_older_pack_unit_by_unit(mac: Mac, pack: Path) -> None:
    result = bench(pack, "ssh://device", schemes=("fp32",), profile="smoke", units=("cpu_only",), against=pack, margin=0.5, save=False)
    (found,) = result.measurements
    assert found.comparison is not None and found.comparison.verdict in ("no difference", "inconclusive")
