"""A state that Core ML keeps itself gives, step for step, what the same state gives that is passed in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.backends.table import BackendError
from edgepack.mil.environment import coremltools
from edgepack.mil.program import Program
from edgepack.runner.mil import MilSession
from edgepack.student.state import carried

from .models import Arrays

# A filter with a memory: what it hears, what it holds, and a score.
FILTER = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[1,6] x, float[1,4] past) => (float[1,1] score, float[1,4] next) {
    j = Concat <axis = 1> (x, past)
    a = Gemm (j, w, b)
    next = Tanh (a)
    score = MatMul (next, u)
}
"""
# A decoder's step with a cache of five places: the new key and value go where ``here`` is 1, and places not filled yet are hidden.
DECODER = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[1,2,1,8] q, float[1,1,5,1] here, float[1,1,1,5] hidden, float[1,2,5,8] keys, float[1,2,5,8] values, int64[1] count)
    => (float[1,2,1,8] y, float[1,2,5,8] new_keys, float[1,2,5,8] new_values, int64[1] next_count)
<float scale = {0.35355338}, float least = {-3.4028235e38}, float one = {1}, int64 step = {1}> {
    k = MatMul (q, wk)
    v = MatMul (q, wv)
    rest = Sub (one, here)
    old_keys = Mul (keys, rest)
    place_key = Mul (k, here)
    new_keys = Add (old_keys, place_key)
    old_values = Mul (values, rest)
    place_value = Mul (v, here)
    new_values = Add (old_values, place_value)
    kt = Transpose <perm = [0, 1, 3, 2]> (new_keys)
    s = MatMul (q, kt)
    t = Mul (s, scale)
    m = Mul (hidden, least)
    u = Add (t, m)
    p = Softmax (u)
    y = MatMul (p, new_values)
    next_count = Add (count, step)
}
"""
FILTER_STATE = {"past": "next"}
DECODER_STATE = {"keys": "new_keys", "values": "new_values", "count": "next_count"}


def hub_of(text: str, folder: Path, **weights: Any) -> Path:
    model = onnx.parser.parse_model(text)
    for name, shape in weights.items():
        array = np.random.default_rng(len(name)).normal(0, 0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), folder / "hub.onnx")
    return folder / "hub.onnx"


def filter_hub(folder: Path) -> Path:
    return hub_of(FILTER, folder, w=(10, 4), b=(4,), u=(4, 1))


def decoder_hub(folder: Path) -> Path:
    return hub_of(DECODER, folder, wk=(8, 8), wv=(8, 8))


def filter_steps() -> list[Arrays]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(0, 1, (1, 6)).astype(np.float32), "past": np.zeros((1, 4), np.float32)} for _ in range(6)]


def decoder_steps() -> list[Arrays]:
    random, places, cache = np.random.default_rng(2), np.arange(5), np.zeros((1, 2, 5, 8), np.float32)
    return [
        {
            "q": random.normal(0, 1, (1, 2, 1, 8)).astype(np.float32),
            "here": (places == step).astype(np.float32).reshape(1, 1, 5, 1),
            "hidden": (places > step).astype(np.float32).reshape(1, 1, 1, 5),
            "keys": cache,
            "values": cache,
            "count": np.array([7], np.int64),
        }
        for step in range(5)
    ]


def answers(hub: Path, folder: Path, scheme: str, steps: list[Arrays], state: dict[str, str], kept: bool) -> tuple[list[Arrays], Any]:
    """What every step answers through the runner's session, by the hub's names, and the artifact's description."""
    written = write(hub, folder, WriteOptions(scheme, minimum_os="iOS18", state=state if kept else {}))
    assert lint(folder / written.file) == []
    session = MilSession(str(folder / written.file))

    def run(feed: Arrays) -> Arrays:
        session.set_inputs({held.name: feed[held.hub_name].astype(held.dtype) for held in written.inputs})
        session.invoke()
        given = session.outputs()
        return {held.hub_name: given[held.name] for held in written.outputs}

    return carried(run, steps, state), written


@pytest.mark.parametrize(
    ("hub_of_", "steps", "state", "floats"),
    [
        pytest.param(filter_hub, filter_steps, FILTER_STATE, ("past",), id="filter"),
        pytest.param(decoder_hub, decoder_steps, DECODER_STATE, ("keys", "values"), id="decoder with a cache"),
    ],
)
def test_a_kept_state_answers_as_one_that_is_passed_bit_for_bit(
    hub_of_: Any, steps: Any, state: dict[str, str], floats: tuple[str, ...], tmp_path: Path
) -> None:
    hub = hub_of_(tmp_path)
    passed, _ = answers(hub, tmp_path / "passed", "fp16", steps(), state, kept=False)
    kept, written = answers(hub, tmp_path / "kept", "fp16", steps(), state, kept=True)
    assert written.kept == floats
    for before, after in zip(passed, kept, strict=True):
        assert before.keys() == after.keys() == {held.hub_name for held in written.outputs}
        assert all(np.array_equal(before[name], after[name]) and before[name].any() for name in before)


def test_the_package_declares_states_of_float16_and_neither_takes_nor_gives_them(tmp_path: Path) -> None:
    written = write(decoder_hub(tmp_path), tmp_path, WriteOptions("fp16", minimum_os="iOS18", state=DECODER_STATE))
    description = coremltools().utils.load_spec(str(tmp_path / written.file)).description
    types = [(held.name, held.type.stateType.arrayType.dataType, tuple(held.type.stateType.arrayType.shape)) for held in description.state]
    assert types == [("keys", 65552, (1, 2, 5, 8)), ("values", 65552, (1, 2, 5, 8))]
    assert [held.name for held in description.input] == ["q", "here", "hidden", "count"]
    assert [held.name for held in description.output] == ["y", "next_count"]
    assert any("'count' (int64) stays an input and an output" in note for note in written.notes)
    assert [held.hub_name for held in written.outputs] == ["y", "new_keys", "new_values", "next_count"]


def test_an_app_that_gives_no_state_starts_from_zeros_and_goes_on_from_there(tmp_path: Path) -> None:
    """As an MLState does: made once, then only the inputs are fed."""
    hub, steps = filter_hub(tmp_path), filter_steps()
    wanted, _ = answers(hub, tmp_path / "passed", "fp16", steps, FILTER_STATE, kept=False)
    written = write(hub, tmp_path, WriteOptions("fp16", minimum_os="iOS18", state=FILTER_STATE))
    program = Program.load(tmp_path / written.file)
    held = program.new_states()
    for step, want in zip(steps, wanted, strict=True):
        given = program.run({"x": step["x"]}, held)
        assert given.keys() == {"score"} and np.array_equal(given["score"], want["score"])


def test_a_float32_program_passes_its_state_and_says_why(tmp_path: Path) -> None:
    written = write(filter_hub(tmp_path), tmp_path, WriteOptions("fp32", minimum_os="iOS18", state=FILTER_STATE))
    assert written.kept == () and Program.load(tmp_path / written.file).states == ()
    assert "state 'past' (float32) stays an input and an output: Core ML keeps float16 alone" in written.notes


def test_two_writes_of_a_kept_state_give_the_same_bytes(tmp_path: Path) -> None:
    def held(folder: Path) -> list[bytes]:
        write(filter_hub(folder), folder, WriteOptions("fp16", minimum_os="iOS18", state=FILTER_STATE))
        return [path.read_bytes() for path in sorted((folder / "model.mlpackage").rglob("*")) if path.is_file()]

    assert held(tmp_path / "a") == held(tmp_path / "b")


@pytest.mark.parametrize(
    ("state", "system", "words"),
    [
        ({"past": "next"}, "iOS17", "is to be a state of Core ML, which has them from iOS 18 on"),
        ({"past": "next", "x": "score"}, "iOS18", "gives nothing but its state"),
    ],
)
def test_what_core_ml_cannot_keep_is_refused(state: dict[str, str], system: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=words):
        write(filter_hub(tmp_path), tmp_path, WriteOptions("fp16", minimum_os=system, state=state))
    assert not (tmp_path / "model.mlpackage").exists()


def test_the_linter_sees_a_state_that_is_not_float16(tmp_path: Path) -> None:
    written: ArtifactDescription = write(filter_hub(tmp_path), tmp_path, WriteOptions("fp16", minimum_os="iOS18", state=FILTER_STATE))
    ct, package = coremltools(), tmp_path / written.file
    file = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = ct.utils.load_spec(str(file))
    spec.description.state[0].type.stateType.arrayType.dataType = 65568
    file.write_bytes(spec.SerializeToString())
    (finding,) = lint(package)
    assert (finding.where, finding.message) == ("past", "state of type FLOAT32, 2 dimensions: Core ML keeps FLOAT16 of one or more")
