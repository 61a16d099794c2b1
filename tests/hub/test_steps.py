"""The hub's step: files in, files out."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edgepack.arrays import save_arrays
from edgepack.hub.graph import HubError
from edgepack.hub.steps import HubNotes, canonicalize
from tests.hub.graphs import batch_norm, model, normal, onnxruntime_run, operators

NODES = [
    onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
    onnx.helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
    onnx.helper.make_node("Relu", ["n"], ["y"]),
]


def nothing(done: int, total: int) -> None:
    pass


def test_the_step_writes_a_hub_and_says_what_is_in_it(tmp_path: Path) -> None:
    proto, feed = model(NODES, {"x": [1, 3, 8, 8]}, {"y": None}, {"w": normal(4, 3, 3, 3), **batch_norm(4)}), {"x": normal(1, 3, 8, 8)}
    onnx.save(proto, tmp_path / "captured.onnx")
    save_arrays(tmp_path / "example.npz", feed)
    canonicalize(tmp_path / "captured.onnx", tmp_path / "example.npz", tmp_path, nothing)
    hub = onnx.load(tmp_path / "model.onnx")
    notes = msgspec.json.decode((tmp_path / "notes.json").read_bytes(), type=HubNotes)
    assert operators(hub) == ["Conv", "Relu"] and notes.operators == {"Conv": 1, "Relu": 1}
    assert "rewritten: fold constants" in notes.notes
    np.testing.assert_allclose(onnxruntime_run(hub, feed)["y"], onnxruntime_run(proto, feed)["y"], atol=1e-5)


def test_the_same_capture_gives_the_same_bytes_without_traces_of_the_machine(tmp_path: Path) -> None:
    proto = model(NODES, {"x": [1, 3, 8, 8]}, {"y": None}, {"w": normal(4, 3, 3, 3), **batch_norm(4)})
    proto.graph.node[0].doc_string = "/home/someone/model.py:12"
    proto.graph.node[0].metadata_props.add(key="stack", value="/home/someone/model.py")
    onnx.save(proto, tmp_path / "captured.onnx")
    save_arrays(tmp_path / "example.npz", {"x": normal(1, 3, 8, 8)})
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        canonicalize(tmp_path / "captured.onnx", tmp_path / "example.npz", tmp_path / name, nothing)
        found.append((tmp_path / name / "model.onnx").read_bytes())
    assert found[0] == found[1] and b"someone" not in found[0]


def test_a_refusal_writes_no_hub(tmp_path: Path) -> None:
    onnx.save(
        model([onnx.helper.make_node("F", ["x"], ["y"], domain="d")], {"x": [1]}, {"y": [1]}, domains=["d"]), tmp_path / "captured.onnx"
    )
    save_arrays(tmp_path / "example.npz", {"x": normal(1)})
    with pytest.raises(HubError, match="of domain 'd'"):
        canonicalize(tmp_path / "captured.onnx", tmp_path / "example.npz", tmp_path, nothing)
    assert not (tmp_path / "model.onnx").exists()
