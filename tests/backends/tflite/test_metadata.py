"""TFLite Metadata: a .tflite that is a zip of its labels too, read back by the package that defines the format."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.backends.artifact import ImageInput, WriteOptions
from edgepack.backends.table import BackendError
from edgepack.backends.tflite.write import write
from tests.backends.tflite.models import Hub, node, read_file, run_litert, run_ort

LABELS = ("crane, bird", "crane, machine", "größer")
IMAGE = ImageInput("RGB", 6, 5, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), (-2.118, 2.64))
# A python that has tflite-support (0.4.4 needs numpy < 2, so an environment of its own, and libusb and libGL on the loader's path).
READER = os.environ.get("EDGEPACK_TFLITE_SUPPORT_PYTHON", "")
READ = """
import json, sys
from tflite_support import metadata
displayer = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
print(json.dumps({"metadata": json.loads(displayer.get_metadata_json()), "files": displayer.get_packed_associated_file_list(),
                  "labels": displayer.get_associated_file_buffer("labels.txt").decode()}))
"""


def classifier(rng: np.random.Generator) -> Hub:
    """An image of 6 x 5 and a vector to three scores, and the vector doubled."""
    nodes = [
        node("GlobalAveragePool", "image", "mean"),
        node("Flatten", "mean", "flat"),
        node("Gemm", "flat w b", "scores", transB=1),
        node("Add", "side side", "double"),
    ]
    feed = {"image": rng.standard_normal((1, 3, 6, 5)).astype(np.float32), "side": rng.standard_normal((1, 4)).astype(np.float32)}
    weights = {"w": rng.standard_normal((3, 3)).astype(np.float32), "b": rng.standard_normal(3).astype(np.float32)}
    return Hub(nodes, feed, weights, {"scores": np.float32, "double": np.float32})


def options(**held: Any) -> WriteOptions:
    layouts = {"image": "NCHW"}
    given = {"name": "birds", "licence": "Apache-2.0", "labels": LABELS, "images": {"image": IMAGE}, **held}
    return WriteOptions("fp32", input_layouts=layouts, **given)


def written(rng: np.random.Generator, folder: Path, **held: Any) -> Path:
    hub = classifier(rng)
    return folder / write(hub.save(folder / "hub.onnx"), folder, options(**held)).file


def test_the_file_is_a_zip_of_its_labels_and_still_computes(rng: np.random.Generator, tmp_path: Path) -> None:
    hub = classifier(rng)
    description = write(hub.save(tmp_path / "hub.onnx"), tmp_path, options())
    with zipfile.ZipFile(tmp_path / description.file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
    found, wanted = run_litert(description, tmp_path, hub.feed), run_ort(tmp_path, hub.feed)
    for name in wanted:
        # A mean of 30 numbers and a product of 3, each a few roundings of 2^-24.
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


def test_the_metadata_are_the_same_bytes_each_time_and_cost_little(rng: np.random.Generator, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = written(np.random.default_rng(1), tmp_path), written(np.random.default_rng(1), tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    model = read_file(first)
    (entry,) = (held for held in model.metadata if held.name == b"TFLITE_METADATA")
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    # A name, a description and a tensor record of some 50 to 100 bytes each, and one local and one central zip record around the labels.
    assert len(content) < 1500
    text = sum(len(label.encode()) + 1 for label in LABELS)
    bare = written(np.random.default_rng(1), tmp_path / "again", labels=()).stat().st_size
    assert first.stat().st_size - bare < 3 * text + 600


def test_without_labels_nothing_is_appended(rng: np.random.Generator, tmp_path: Path) -> None:
    assert not zipfile.is_zipfile(written(rng, tmp_path, labels=()))


def test_a_label_of_two_lines_is_refused_before_any_file_is_written(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="line break"):
        written(rng, tmp_path, labels=("a", "b\nc", "d"))
    assert not (tmp_path / "model.tflite").exists()


@pytest.mark.slow
@pytest.mark.skipif(not READER, reason="EDGEPACK_TFLITE_SUPPORT_PYTHON names no python that has tflite-support")
def test_tflite_support_reads_what_was_meant(rng: np.random.Generator, tmp_path: Path) -> None:
    path = written(rng, tmp_path)
    ended = subprocess.run([READER, "-c", READ, str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    held = json.loads(ended.stdout)
    assert held["files"] == ["labels.txt"]
    assert held["labels"].splitlines() == list(LABELS)
    model = held["metadata"]
    assert (model["name"], model["license"], model["min_parser_version"]) == ("birds", "Apache-2.0", "1.0.0")
    (graph,) = model["subgraph_metadata"]
    image, side = graph["input_tensor_metadata"]
    scores, double = graph["output_tensor_metadata"]
    assert [each["name"] for each in (image, side, scores, double)] == ["image", "side", "scores", "double"]
    assert image["content"] == {
        "content_properties_type": "ImageProperties",
        "content_properties": {"color_space": "RGB", "default_size": {"width": 5, "height": 6}},
    }
    (unit,) = image["process_units"]
    assert unit["options_type"] == "NormalizationOptions"
    assert unit["options"] == {"mean": pytest.approx(IMAGE.mean), "std": pytest.approx(IMAGE.std)}
    assert image["stats"] == {"max": pytest.approx([2.64]), "min": pytest.approx([-2.118])}
    assert [(each["name"], each["type"]) for each in scores["associated_files"]] == [("labels.txt", "TENSOR_AXIS_LABELS")]
    assert "associated_files" not in double
    assert side["content"]["content_properties_type"] == "FeatureProperties"
