"""Small real files of every kind that edgepack opens, made once: what mutations start from."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

SIZE, CLASSES = 8, 4

_MANIFEST = """
name = "seeds"
licence = "CC0-1.0"
student_labels = ["a", "b", "c", "d"]
[preprocessing]
height = 8
width = 8
mean = [0.5]
std = [0.25]
[calibration]
{calibration}
[evaluation]
{evaluation}
"""
# The same samples as each kind of source gives them.
_SOURCES = {
    "npz": ('npz = "calibration.npz"\ncolumns = {x = "x"}', 'npz = "evaluation.npz"\nlabels = "labels"'),
    "csv": ('csv = "samples.csv"\nlimit = 4', 'csv = "samples.csv"\nlabels = "label"'),
    "images": ('images = "images/**/*.png"', 'images = "images"\nlabels = "folders"'),
    "crops": ('crops = "crops.csv"\nsplit = "calibration"', 'crops = "crops.csv"\nsplit = "evaluation"\nlabels = "label"'),
}


def make(folder: Path) -> None:
    """Write student.onnx, external.onnx, student.pt2, data/ with a manifest for each kind of source, inputs/, target.toml, pack/."""
    _students(folder)
    _data(folder / "data")
    _inputs(folder / "inputs")
    shutil.copyfile(Path(__file__).parents[2] / "targets" / "android.toml", folder / "target.toml")
    _pack(folder)


def _students(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    weights = {
        "w": draw.normal(size=(6, 3, 3, 3)).astype(np.float32) * 0.3,
        "b": draw.normal(size=6).astype(np.float32),
        "fc": draw.normal(size=(CLASSES, 6)).astype(np.float32),
        "shape": np.asarray([1, 6], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Reshape", ["g", "shape"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc"], ["y"], name="classes", transB=1),
    ]
    ends = [[helper.make_tensor_value_info(*held)] for held in (("x", 1, [1, 3, SIZE, SIZE]), ("y", 1, [1, CLASSES]))]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(array, name) for name, array in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="seeds")
    onnx.save(model, folder / "student.onnx")
    (folder / "external").mkdir(exist_ok=True)
    onnx.save(model, folder / "external" / "student.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    _exported(folder / "student.pt2")


def _exported(path: Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, CLASSES)).eval()
    shapes = ({0: torch.export.Dim("n", min=1, max=16)},)
    torch.export.save(torch.export.export(net, (torch.randn(2, 3, SIZE, SIZE),), dynamic_shapes=shapes), path)


def _data(folder: Path) -> None:
    from PIL import Image

    from edgepack.calibration.crops import Crop, pixel_digest, write_crops

    folder.mkdir()
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    np.savez(folder / "calibration.npz", x=pixels[:8])
    np.savez_compressed(folder / "evaluation.npz", x=pixels[8:], labels=np.arange(4) % CLASSES)
    with (folder / "samples.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"v{index}" for index in range(3 * SIZE * SIZE)), "label"])
        rows.writerows([*draw.normal(size=3 * SIZE * SIZE).round(3), index % CLASSES] for index in range(6))
    crops = []
    for index, image in enumerate(pixels):
        place = folder / "images" / "abcd"[index % CLASSES] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        held = Image.fromarray(image)
        held.save(place)
        split = "calibration" if index < 8 else "evaluation"
        name = place.relative_to(folder).as_posix()
        crops.append(Crop("", name, 0, 0, SIZE, SIZE, pixel_digest(held), f"scene {index}", split, str(index % CLASSES)))
    write_crops(folder / "crops.csv", crops)
    for kind, (calibration, evaluation) in _SOURCES.items():
        (folder / f"{kind}.toml").write_text(_MANIFEST.format(calibration=calibration, evaluation=evaluation))


def _inputs(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    sample = np.random.default_rng(2).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(folder / "plain.npz", x=sample)
    np.savez_compressed(folder / "small.npz", x=sample)
    np.save(folder / "array.npy", sample)
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp"):
        Image.fromarray(pixels).save(folder / f"image.{suffix}")


def _pack(folder: Path) -> None:
    from edgepack import api

    api.build(str(folder / "student.onnx"), folder / "pack", calibration=str(folder / "data" / "npz.toml"), latency="smoke")
    held = json.loads((folder / "pack" / "pack.json").read_text())
    (folder / "student.json").write_text(json.dumps(held["student"]))
    assert {artifact["runner"] for artifact in held["artifacts"]} == {"ort", "litert", "mil"}
