"""The demo's w8a8 artifacts compute on an emulated Pi what they compute here, to the code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepack.arrays import load_arrays, save_arrays
from edgepack.converter.step import Limits
from edgepack.devices.address import parse
from edgepack.devices.runner_process import Request, artifact_feed, run_local
from edgepack.devices.session import opened
from edgepack.devices.ssh import Ssh
from edgepack.devices.transport import Transport
from edgepack.pack.files import load_pack
from tests.fakes.pi import SshPi
from tests.system.program import edgepack, failure

# Noisy copies of the 16 golden digits: 128 samples, so that one code in 1,280 that differs is already below 99.9 %.
_COPIES = 8


@dataclass(frozen=True)
class Case:
    """One artifact, the samples it takes, and what its runner makes of them on this machine."""

    runner: str
    artifact: Path
    inputs: Path
    here: NDArray[np.float32]


@pytest.fixture(scope="module", params=["ort", "litert"])
def case(request: pytest.FixtureRequest, digits_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    artifact = next(each for each in load_pack(digits_pack).artifacts if each.runner == request.param and each.scheme == "w8a8")
    save_arrays(folder / "inputs.npz", artifact_feed({"image": _images(digits_pack)}, artifact.inputs))
    path = digits_pack / artifact.file.path
    asked = Request("run", {"digits": str(path)}, str(folder / "inputs.npz"), str(folder / "outputs.npz"))
    run_local(request.param, asked, folder, Limits())
    return Case(request.param, path, folder / "inputs.npz", _logits(folder / "outputs.npz"))


def _images(pack: Path) -> NDArray[np.float32]:
    with np.load(pack / "golden" / "inputs.npz") as golden:
        images = golden["input:image"]
    copies = np.tile(images, (_COPIES, *([1] * (images.ndim - 1))))
    noise = np.random.default_rng(5).normal(0, 0.1, copies.shape).astype(np.float32)
    noise[: len(images)] = 0
    return copies + noise


def _logits(path: Path) -> NDArray[np.float32]:
    with np.load(path) as outputs:
        (name,) = outputs.files
        return np.asarray(outputs[name], np.float32)


def _step(pack: Path) -> float:
    """The scale of the codes behind the logits: the last DequantizeLinear's."""
    model = onnx.load(pack / "hub" / "w8a8.onnx")
    (last,) = [node for node in model.graph.node if node.output[0] == model.graph.output[0].name]
    return float(next(numpy_helper.to_array(each) for each in model.graph.initializer if each.name == last.input[1]))


@contextmanager
def device(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """The Pi itself, or the same behind a real ssh server, set up as its user would."""
    if name != "ssh":
        yield request.getfixturevalue(name)
        return
    ssh_pi: SshPi = request.getfixturevalue("ssh_pi")
    for variable, value in ssh_pi.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(request.getfixturevalue("tmp_path")))
    with closing(Ssh.open(parse(ssh_pi.address))) as transport:
        transport.site = (str(ssh_pi.board.userland.site),)
        yield transport


@pytest.mark.parametrize("where", ["pi4", "pi5", "ssh"])
def test_the_demos_w8a8_artifact_gives_the_codes_it_gives_here(
    case: Case, where: str, request: pytest.FixtureRequest, digits_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the Pi 4 also: no kernel takes an instruction its processor lacks, which would end the program by SIGILL
    (tests/devices/test_emulated.py shows that it would)."""
    with device(where, request, monkeypatch) as transport, opened(transport, exclusive=True) as session:
        assert session.facts.machine == "aarch64"
        outcome = session.run(case.runner, Request("run", {}, "", ""), {"digits": case.artifact}, load_arrays(case.inputs), Limits())
    assert outcome.response.machine == "aarch64"
    (there,) = outcome.arrays.values()
    steps = np.abs(np.rint((there - case.here) / _step(digits_pack)))
    assert there.size == 160 * _COPIES
    assert np.mean(steps == 0) >= 0.999
    assert steps.max() <= 1
    assert np.ptp(case.here) > 20 * _step(digits_pack), "logits so close to each other would agree anyway"


def test_from_nothing_to_a_latency_table_in_two_commands(
    ssh_pi: SshPi, digits_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(digits_pack, pack)
    for name, value in {**ssh_pi.environment, "XDG_STATE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    missing = edgepack("bench", pack, "--device", ssh_pi.address, cwd=tmp_path)
    assert missing.returncode == 4 and f"edgepack device setup {ssh_pi.address}" in missing.stderr
    ready = edgepack("device", "setup", ssh_pi.address, cwd=tmp_path, seconds=600)
    assert ready.returncode == 0 and "is ready: Raspberry Pi 5" in ready.stdout, ready.stderr
    shown = edgepack("bench", pack, "--device", ssh_pi.address, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr + shown.stdout
    assert "aarch64" in shown.stdout and "emulated: what it answers counts; its times and memory are the emulator's" in shown.stdout
    # Numbers are there, and none is a speed: the table tags each, the gate calls the budget not measured, the report shows no time.
    gate = edgepack("gate", pack, "-t", "raspberry-pi-5", "--budget", "latency_p90_ms=1000", "--json", cwd=tmp_path)
    checks = [check for check in json.loads(gate.stdout)["checks"] if check["name"] == "latency p90"]
    assert gate.returncode == 0 and {check["status"] for check in checks} == {"not measured"}
    assert all("the newest measurement is emulated" in check["words"] for check in checks)
    strict = edgepack("gate", pack, "-t", "raspberry-pi-5", "--budget", "latency_p90_ms=1000", "--require-measured", cwd=tmp_path)
    assert strict.returncode == 1 and "emulated" in failure(strict)
    report = (pack / "report.html").read_text()
    assert "Raspberry Pi 5 Model B Rev 1.0 (emulated)" in report and "times do not" in report
    listed = edgepack("devices", "--json", cwd=tmp_path)
    assert ssh_pi.address in listed.stdout
