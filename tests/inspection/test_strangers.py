"""Model files of strangers: refused in a line, never with a crash, an endless read or a file that is not theirs."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgepack.errors import EdgepackError
from edgepack.inspection.facts import FileFacts, InspectionError
from edgepack.inspection.flatbuffer import keeps_weights_elsewhere
from edgepack.inspection.limits import default_bytes
from edgepack.inspection.steps import look
from edgepack.mil.errors import MilError
from edgepack.mil.package import refuse_unsafe_package
from edgepack.pack.files import PackError
from edgepack.pack.run import refuse_other_files
from tests.inspection.test_files import look as looked


def tflite(path: Path, tensors: int = 1, axes: int = 1, external: bool = False, labels: bytes = b"") -> Path:
    """A file whose tensors all share one vector as their shape."""
    builder = flatbuffers.Builder(1024)
    schema.SubGraphStartInputsVector(builder, axes)
    for _ in range(axes):
        builder.PrependInt32(1)
    shape = builder.EndVector()
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, tensors)
    for _ in range(tensors):
        builder.PrependUOffsetTRelative(tensor)
    held = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, held)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    groups = _groups(builder) if external else None
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    if groups is not None:
        schema.ModelAddExternalBufferGroups(builder, groups)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()) + labels)
    return path


def _groups(builder: flatbuffers.Builder) -> int:
    name = builder.CreateString("/etc/passwd")
    schema.ExternalBufferGroupStart(builder)
    schema.ExternalBufferGroupAddName(builder, name)
    group = schema.ExternalBufferGroupEnd(builder)
    schema.ModelStartExternalBufferGroupsVector(builder, 1)
    builder.PrependUOffsetTRelative(group)
    return int(builder.EndVector())


def refusal(path: Path, out: Path) -> str:
    with pytest.raises(InspectionError) as caught:
        look(path, out, lambda done, total: None)
    return caught.value.cause


def test_tensors_that_share_one_vector_do_not_multiply_it(tmp_path: Path) -> None:
    """40 kB of offsets to one shape of 10^4 axes would be 10^8 numbers."""
    assert "many times its size" in refusal(tflite(tmp_path / "m.tflite", 10**4, 10**4), tmp_path)


def test_weights_in_another_file_of_a_tflite_are_refused(tmp_path: Path) -> None:
    assert "another file" in refusal(tflite(tmp_path / "m.tflite", external=True), tmp_path)
    with pytest.raises(PackError, match="another file"):
        refuse_other_files(tmp_path / "m.tflite", "litert")
    refuse_other_files(tflite(tmp_path / "sound.tflite"), "litert")
    assert not any(keeps_weights_elsewhere(os.urandom(size)) for size in range(8))


def test_labels_packed_behind_a_tflite_are_read_to_a_limit(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", b"cat\n" + b"x" * 10**8)
        archive.writestr("other.bin", bytes(10**8))
    facts = looked(tflite(tmp_path / "m.tflite", labels=packed.getvalue()), tmp_path)
    assert facts.labels[0] == "cat" and sum(map(len, facts.labels)) <= 2**20


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlmodel"])
def test_a_pipe_and_a_giant_of_zeros_are_refused_at_once(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with (tmp_path / f"giant{suffix}").open("wb") as file:
        file.truncate(3 * 2**30)
    for name in ("pipe", "giant"):
        with pytest.raises(EdgepackError):
            look(tmp_path / f"{name}{suffix}", tmp_path, lambda done, total: None)


def package(folder: Path, item: str = "com.apple.CoreML/model.mlmodel") -> Path:
    (folder / "Data" / "com.apple.CoreML").mkdir(parents=True)
    (folder / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b"")
    (folder / "Manifest.json").write_text(f'{{"itemInfoEntries": {{"a": {{"path": "{item}"}}}}, "rootModelIdentifier": "a"}}')
    return folder


@pytest.mark.parametrize("item", ["../Manifest.json", "/etc/passwd", "com.apple.CoreML/../../../x", "absent", ""])
def test_a_package_whose_manifest_leaves_its_data_is_refused(tmp_path: Path, item: str) -> None:
    with pytest.raises(MilError, match="not in its Data folder"):
        refuse_unsafe_package(package(tmp_path / "m.mlpackage", item))


def test_a_link_a_pipe_or_a_nested_manifest_in_a_package_is_refused(tmp_path: Path) -> None:
    refuse_unsafe_package(package(tmp_path / "sound.mlpackage"))
    linked, piped, deep = (package(tmp_path / f"{name}.mlpackage") for name in ("linked", "piped", "deep"))
    (linked / "Data" / "weights").symlink_to("/etc")
    os.mkfifo(piped / "Data" / "weight.bin")
    (deep / "Manifest.json").write_text("[" * 10**5)
    for path, words in ((linked, "is a link"), (piped, "is a link, a pipe"), (deep, "cannot be read")):
        with pytest.raises(MilError, match=words):
            refuse_unsafe_package(path)
        assert words[:9] in refusal(path, tmp_path)


def test_sizes_of_astronomers_are_told_or_refused_and_never_crash(tmp_path: Path) -> None:
    from onnx import helper

    ends = [helper.make_tensor_value_info(name, 1, [2**62, 2**62]) for name in ("x", "w", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:2], ends[2:])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert looked(tmp_path / "m.onnx", tmp_path).macs in (0, 2**186)


def test_a_model_may_take_memory_in_proportion_to_its_files_and_a_link_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "small.tflite").write_bytes(bytes(1000))
    (tmp_path / "large.tflite").write_bytes(bytes(10**7))
    (tmp_path / "link.bin").symlink_to(tmp_path / "large.tflite")
    small, large = (default_bytes(tmp_path / f"{name}.tflite") for name in ("small", "large"))
    assert large - small > 10 * 10**7 and default_bytes(tmp_path / "link.bin") < small
    assert isinstance(looked(tflite(tmp_path / "m.tflite"), tmp_path), FileFacts)
    assert np.isfinite(small)
