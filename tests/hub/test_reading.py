"""Models of strangers: what they keep in other files stays beside them, and no tensor promises more than is there."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.hub.external import ModelFileError, external_tensors, refuse_any_file
from edgepack.hub.reading import load_model


def model(*tensors: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"]), *nodes], "g", ends[:1], ends[1:], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def external(location: str, offset: int = 0, length: int = 8) -> TensorProto:
    tensor = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def written(folder: Path, proto: onnx.ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.asarray([9, 1, 2], np.float32).tobytes())
    held = load_model(written(tmp_path, model(external("w.bin", offset=4))))
    np.testing.assert_array_equal(numpy_helper.to_array(held.graph.initializer[0]), [1, 2])
    assert load_model(written(tmp_path, model(external("absent.bin"))), weights=False).graph.node


@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "{absolute}", "link.bin", "folder/secret.bin", "pipe", "", "."]
)
@pytest.mark.parametrize("weights", [True, False])
def test_weights_elsewhere_or_behind_a_link_are_refused(tmp_path: Path, location: str, weights: bool) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    path = written(tmp_path / "model", model(external(location.format(absolute=tmp_path / "secret.bin"))))
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (path.parent / "folder").symlink_to(tmp_path)
    os.mkfifo(path.parent / "pipe")
    with pytest.raises(ModelFileError, match=r"outside its folder|cannot be read"):
        load_model(path, weights=weights)


@pytest.mark.parametrize(("offset", "length"), [(0, 2**40), (2**62, 8), (-8, 8), (8, 8)])
def test_weights_past_the_end_of_their_file_are_refused(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    with pytest.raises(ModelFileError, match="past the end"):
        load_model(written(tmp_path, model(external("w.bin", offset, length))))


def test_a_tensor_in_another_file_is_found_wherever_it_hides(tmp_path: Path) -> None:
    hidden = external("hidden.bin")
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=hidden)], "body", [], [])
    function = helper.make_function("f", "F", [], ["c"], [helper.make_node("Constant", [], ["c"], value=hidden)], [])
    sparse = helper.make_sparse_tensor(hidden, numpy_helper.from_array(np.zeros(1, np.int64)), [9])
    held: list[Callable[[onnx.ModelProto], object]] = [
        lambda m: m.graph.initializer.append(hidden),
        lambda m: m.graph.node.append(helper.make_node("If", ["b"], ["c"], then_branch=body, else_branch=body)),
        lambda m: m.functions.append(function),
        lambda m: m.graph.sparse_initializer.append(sparse),
        lambda m: m.training_info.add().algorithm.CopyFrom(body),
    ]
    for hide in held:
        proto = model()
        hide(proto)
        assert {each.location for each in external_tensors(proto.SerializeToString())} == {"hidden.bin"}
        with pytest.raises(ModelFileError, match="keeps weights in another file"):
            refuse_any_file(written(tmp_path, proto))


@pytest.mark.parametrize("dims", [[2**40], [2**20, 2**20, 2**20], [-1], [3]])
def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path, dims: list[int]) -> None:
    claim = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, raw_data=b"" if dims == [3] else bytes(8))
    with pytest.raises(ModelFileError, match="does not hold them"):
        load_model(written(tmp_path, model(claim)))


@pytest.mark.parametrize(
    "content", [b"", b"\x3a\xff", b"\x0b" * 50, bytes(100), b"\x3a\x02\x08", os.urandom(999), b"\x3a\xff\xff\xff\xff\x7f"]
)
def test_bytes_that_are_no_model_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    try:
        load_model(tmp_path / "m.onnx")
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="it is no file"):
        load_model(tmp_path / "m.onnx")
