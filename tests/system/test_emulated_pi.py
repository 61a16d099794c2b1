"""The demo's w8a8 artifacts compute on an emulated Pi what they compute here, to the code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepack.converter.step import Limits
from edgepack.devices.emulated import EmulatedPi
from edgepack.devices.runner_process import Request, artifact_feed, run_local
from edgepack.devices.userland import Board
from edgepack.pack.files import load_pack
from edgepack.runner.bundle import bundle
from edgepack.runner.contract import save_arrays

_START = (
    "import runpy, sys; sys.path[:0] = {site!r}; sys.argv = [{program!r}, {request!r}]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
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


def run_there(pi: EmulatedPi, home: Path, case: Case, tmp_path: Path) -> NDArray[np.float32]:
    """Send what is needed, run, fetch the result: all through the transport."""
    away = {name: str(home / name) for name in ("model", "inputs.npz", "outputs.npz", "request.json", "runner.pyz")}
    request = {"schema": 1, "action": "run", "artifacts": {"digits": away["model"]}, "tethered": True}
    (tmp_path / "request.json").write_text(json.dumps({**request, "inputs": away["inputs.npz"], "outputs": away["outputs.npz"]}))
    program = bundle(case.runner, tmp_path / "runner.pyz")
    sent = {"model": case.artifact, "inputs.npz": case.inputs, "request.json": tmp_path / "request.json", "runner.pyz": program}
    for name, path in sent.items():
        pi.send(path, away[name])
    process = pi.python(_START.format(site=list(pi.site), program=away["runner.pyz"], request=away["request.json"]))
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    said, complained = process.stdout.read(), process.stderr.read()
    assert process.wait() == 0, said + complained
    answer = json.loads(said.splitlines()[-1])
    assert (answer["ok"], answer["machine"]) == (True, "aarch64")
    pi.fetch(away["outputs.npz"], tmp_path / "outputs.npz")
    return _logits(tmp_path / "outputs.npz")


@pytest.mark.parametrize("model", ["pi4", "pi5"])
def test_the_demos_w8a8_artifact_gives_the_codes_it_gives_here(
    case: Case, model: str, request: pytest.FixtureRequest, digits_pack: Path, tmp_path: Path
) -> None:
    """On the Pi 4 also: no kernel takes an instruction its processor lacks, which would end the program by SIGILL
    (tests/devices/test_emulated.py shows that it would)."""
    pi: EmulatedPi = request.getfixturevalue(model)
    board: Board = request.getfixturevalue(f"{model}_board")
    there = run_there(pi, board.home, case, tmp_path)
    steps = np.abs(np.rint((there - case.here) / _step(digits_pack)))
    assert there.size == 160 * _COPIES
    assert np.mean(steps == 0) >= 0.999
    assert steps.max() <= 1
    assert np.ptp(case.here) > 20 * _step(digits_pack), "logits so close to each other would agree anyway"
