"""The runner of TensorFlow Lite 2.14: always a process of its own, with packages of its own, and the answers of LiteRT."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgepack.arrays import load_arrays, save_arrays
from edgepack.backends.artifact import WriteOptions
from edgepack.backends.tflite import write
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, RunnerError, run_local
from edgepack.devices.tflite_runtime import RUNNER, VERSIONS
from tests.backends.tflite.models import Hub, node, single
from tests.old_runtime import demanded

LIMITS = Limits(120.0, 4 * 2**30)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def old() -> None:
    demanded()


def prepared(folder: Path) -> Request:
    """A convolution, written for both runtimes alike, and four samples."""
    samples = RNG.standard_normal((4, 1, 8, 8, 3)).astype(np.float32)
    hub = single("Conv", samples[0].transpose(0, 3, 1, 2), weights={"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)})
    write(hub.save(folder / "hub.onnx"), folder, WriteOptions("fp32", {"x0": "NCHW"}, {"y": "NCHW"}, runtime="2.14"))
    save_arrays(folder / "in.npz", {"x0": samples})
    return Request("run", {"model": str(folder / "model.tflite")}, str(folder / "in.npz"), str(folder / "out.npz"))


def test_it_answers_what_litert_answers(tmp_path: Path) -> None:
    request = prepared(tmp_path)
    old = run_local(RUNNER, request, tmp_path, LIMITS)
    then = load_arrays(tmp_path / "out.npz")["y"]
    new = run_local("litert", request, tmp_path, LIMITS)
    assert (old.runtime, old.version, old.truth) == ("tflite-runtime", VERSIONS["tflite-runtime"], "host")
    assert new.runtime == "litert" and old.count == new.count == 4
    # Both sum 27 products of unit-normal numbers in float32: 27 * 2^-24 of a sum of about 5, each way.
    np.testing.assert_allclose(then, load_arrays(tmp_path / "out.npz")["y"], atol=2 * 27 * 2**-24 * 5)


def test_it_tells_its_partitions_as_litert_does(tmp_path: Path) -> None:
    described = run_local(RUNNER, msgspec.structs.replace(prepared(tmp_path), action="describe"), tmp_path, LIMITS)
    assert described.session == {"partitions": 1, "operators": 1, "outside": {}}


def test_it_is_timed_like_any_other(tmp_path: Path) -> None:
    request = msgspec.structs.replace(prepared(tmp_path), action="time", pairs=20, warm_up=2)
    assert run_local(RUNNER, request, tmp_path, LIMITS).count >= 20
    assert (load_arrays(tmp_path / "out.npz")["model"] > 0).all()


def test_an_operator_that_it_lacks_is_its_own_words(tmp_path: Path) -> None:
    wide = Hub([node("Transpose", "x", perm=[6, 4, 2, 0, 1, 3, 5])], {"x": np.zeros((2, 1, 3, 2, 2, 3, 2), np.float32)}, {})
    write(wide.save(tmp_path / "hub.onnx"), tmp_path, WriteOptions("fp32"))
    save_arrays(tmp_path / "in.npz", {"x": wide.feed["x"][None]})
    request = Request("run", {"model": str(tmp_path / "model.tflite")}, str(tmp_path / "in.npz"), str(tmp_path / "out.npz"))
    with pytest.raises(RunnerError, match=r"the tflite_runtime runner failed: .*Didn't find op for builtin opcode 'TRANSPOSE' version '8'"):
        run_local(RUNNER, request, tmp_path, LIMITS)
