"""Silero VAD, a stateful student: on streamed speech every target hears what the package's own model hears."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgepack.backends.artifact import ArtifactDescription, WriteOptions, artifact_state
from edgepack.backends.registry import backend
from edgepack.hub.canonical import canonicalize
from edgepack.runner.litert import LiteRTSession
from edgepack.runner.mil import MilSession
from edgepack.runner.ort import OrtSession
from edgepack.student.load import load_function, load_student
from tests.system.speech import RATE, recordings

if importlib.util.find_spec("silero_vad") is None:
    pytest.skip("silero-vad is not installed: pip install edgepack[silero]", allow_module_level=True)

FOLDER = Path(__file__).resolve().parents[2] / "demo_app" / "students" / "silero_vad"
STEP, CONTEXT = 512, 64
# A probability's slope is a quarter at most; the score sums 128 products in fp32 of a state that 1,875 steps feed back, each of which
# forgets: errors stay those of some steps, 1e-6 as measured. What lost a state, a gate or the context is off by 1e-2 and more.
TOLERANCE = 1e-4
TARGETS = ("ort", "tflite", "coreml")


class Artifact(NamedTuple):
    """An artifact that was read back, and how its tensors map to the student's."""

    session: Any
    described: ArtifactDescription
    state: dict[str, str]

    def listen(self, feeds: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The probability of every step, its state carried from zeros."""
        names = {held.hub_name: held.name for held in (*self.described.inputs, *self.described.outputs)}
        states = {name: np.zeros((2, 1, 128), np.float32) for name in self.state}
        speech = []
        for feed in feeds:
            self.session.set_inputs({names["audio"]: feed, **states})
            self.session.invoke()
            outputs = self.session.outputs()
            states = {source: outputs[result] for source, result in self.state.items()}
            speech.append(outputs[names["speech"]].item())
        return np.asarray(speech, np.float32)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The student's hub, and its state."""
    folder = tmp_path_factory.mktemp("silero")
    student = load_student(f"{FOLDER / 'student.py'}:student")
    student.program.capture(folder / "captured.onnx")
    model = canonicalize(onnx.load(folder / "captured.onnx"), student.program.example()).model
    onnx.save(ir.to_proto(model), folder / "hub.onnx")
    return folder / "hub.onnx", student.describe("silero").state


@pytest.fixture(scope="module")
def artifacts(hub: tuple[Path, dict[str, str]]) -> dict[str, Artifact]:
    path, declared = hub
    folder, made = path.parent, {}
    loads = {"ort": OrtSession, "tflite": LiteRTSession, "coreml": lambda path, _: MilSession(path)}
    for name, load in loads.items():
        (folder / name).mkdir()
        written = backend(name).write(path, folder / name, WriteOptions("fp32"))
        state = artifact_state(declared, written.inputs, written.outputs)
        made[name] = Artifact(load(str(folder / name / written.file), 1), written, state)
    return made


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    return recordings(tmp_path_factory.mktemp("speech"))


def steps(audio: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """(1, 576) each: the context, zeros at first, and the samples that are new."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
    for start in range(0, len(audio) - STEP + 1, STEP):
        yield padded[None, start : start + CONTEXT + STEP]


def of_the_package(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """The package's TorchScript model, which keeps state and context itself."""
    import torch

    model = load_function(FOLDER / "silero_vad_model.py", "scripted")()
    model.reset_states()
    with torch.no_grad():
        parts = [torch.from_numpy(audio[None, start : start + STEP]) for start in range(0, len(audio) - STEP + 1, STEP)]
        return np.asarray([model(part, RATE).item() for part in parts], np.float32)


def _agrees(audio: NDArray[np.float32], artifact: Artifact) -> None:
    wanted = of_the_package(audio)
    # Speech and pauses are both there, or nothing would be shown.
    assert wanted.max() > 0.9
    assert wanted.min() < 0.1
    np.testing.assert_allclose(artifact.listen(steps(audio)), wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_two_seconds_of_speech_are_heard_as_the_package_hears_them(
    target: str, artifacts: dict[str, Artifact], speech: NDArray[np.float32]
) -> None:
    _agrees(speech[: 2 * RATE], artifacts[target])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_minute_of_streamed_speech_is_heard_as_the_package_hears_it(
    target: str, artifacts: dict[str, Artifact], speech: NDArray[np.float32]
) -> None:
    _agrees(np.tile(speech, 60 * RATE // len(speech) + 1)[: 60 * RATE], artifacts[target])


@pytest.mark.slow
def test_a_state_that_core_ml_keeps_hears_bit_for_bit_what_one_that_is_passed_hears(
    hub: tuple[Path, dict[str, str]], speech: NDArray[np.float32], tmp_path: Path
) -> None:
    path, declared = hub
    heard = []
    for name, kept in (("passed", {}), ("kept", declared)):
        written = backend("coreml").write(path, tmp_path / name, WriteOptions("fp16", minimum_os="iOS18", state=kept))
        state = artifact_state(declared, written.inputs, written.outputs)
        assert written.kept == tuple(state if kept else ())
        heard.append(Artifact(MilSession(str(tmp_path / name / written.file)), written, state).listen(steps(speech[: 5 * RATE])))
    assert heard[0].max() > 0.9
    np.testing.assert_array_equal(heard[0], heard[1])
