"""Sines of large angles in an fp16 package: the angle stays float32 from the input on, and nothing else does."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.runner.mil import MilSession
from edgepack.verify.metrics import sqnr_db
from tests.backends.both_formats import artifact_outputs

RATES = np.exp(np.linspace(0, -9, 16)).astype(np.float32)[None]
TIME = np.asarray([0.8071], np.float32)


def embedding(before: str) -> onnx.ModelProto:
    """Sines and cosines of 1000 * time * rates, as diffusion models have them; ``before`` is applied to the time first."""
    weights = {"axes": np.asarray([1]), "steps": np.asarray(1000, np.float32), "rates": RATES}
    nodes = [
        helper.make_node(before, ["time"], ["held"], "first"),
        helper.make_node("Unsqueeze", ["held", "axes"], ["column"], "column"),
        helper.make_node("Mul", ["column", "steps"], ["far"], "far"),
        helper.make_node("Mul", ["far", "rates"], ["angles"], "angles"),
        helper.make_node("Sin", ["angles"], ["sines"], "sines"),
        helper.make_node("Cos", ["angles"], ["cosines"], "cosines"),
        helper.make_node("Concat", ["sines", "cosines"], ["y"], "y", axis=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("time", [1]), ("y", [1, 32]))]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "embedding", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def quality(before: str, folder: Path) -> float:
    held = {"Neg": np.negative, "Tanh": np.tanh}[before](np.float64(TIME[0]))
    angles = 1000 * held * RATES.astype(np.float64)
    wanted = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return sqnr_db(wanted, artifact_outputs(embedding(before), {"time": TIME}, "coreml", folder, "fp16")["y"])


def test_the_embedding_of_a_time_keeps_what_fp16_results_can_hold(tmp_path: Path) -> None:
    # A result in [0.5, 1) is off by at most 2^-12: 20 log10(0.7 * 2^12 * sqrt 3) = 74 dB, and float32's angle of 807 adds 3e-5 radians.
    assert quality("Neg", tmp_path) > 65
    counts = MilSession(str(tmp_path / "model.mlpackage")).describe()["operations"]
    assert counts["cast"] == 3, "both results into fp16, and the output back"


def test_an_angle_that_was_fp16_before_stays_so(tmp_path: Path) -> None:
    # Steps of 2^-2 at 667 radians: the sines of the first angles are lost.
    assert 0 < quality("Tanh", tmp_path) < 40
    assert MilSession(str(tmp_path / "model.mlpackage")).describe()["operations"]["cast"] == 2, "the input, and the output"


@pytest.mark.parametrize("scheme", ["fp32"])
def test_a_float32_package_has_no_casts(scheme: str, tmp_path: Path) -> None:
    artifact_outputs(embedding("Neg"), {"time": TIME}, "coreml", tmp_path, scheme)
    assert "cast" not in MilSession(str(tmp_path / "model.mlpackage")).describe()["operations"]
