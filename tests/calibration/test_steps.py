"""The calibration's steps from a manifest on disk to golden inputs and ranges."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack.arrays import load_arrays, save_arrays
from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.observe import Ranges
from edgepack.calibration.readers import Samples
from edgepack.calibration.steps import collect, draw, observe
from edgepack.pack.manifest import CalibrationRecord
from edgepack.student.spec import TensorSpec
from tests.calibration.students import IMAGES, PREPROCESSING, described

STUDENT = described(TensorSpec("x", "float32", (1, 3), "", (0.0, 1.0)))
MANIFEST = 'name = "set"\nlicence = "MIT"\n[calibration]\nnpz = "c.npz"\n[evaluation]\nnpz = "e.npz"\nlabels = "label"\n'


def nothing(done: int, total: int) -> None:
    pass


def project(folder: Path, overlap: bool = False) -> tuple[Path, np.ndarray]:
    """student.json, set.toml and data: 20 calibration and 40 evaluation samples."""
    data = np.random.default_rng(0).uniform(0, 1, (60, 1, 3)).astype(np.float32)
    data[25] = data[3] if overlap else data[25]
    (folder / "student.json").write_bytes(msgspec.json.encode(STUDENT))
    (folder / "set.toml").write_text(MANIFEST)
    np.savez(folder / "c.npz", x=data[:20])
    np.savez(folder / "e.npz", x=data[20:], label=np.arange(40) % 2)
    return folder, data


def test_golden_inputs_are_spread_over_the_evaluation_set(tmp_path: Path) -> None:
    folder, data = project(tmp_path)
    collect(folder / "student.json", folder / "set.toml", folder, nothing)
    golden = Samples.open(folder / "golden.npz")
    positions = [int(np.flatnonzero((data[20:] == row).all((1, 2)))[0]) for row in golden.arrays["x"]]
    assert golden.count == 16 and positions == sorted(set(positions)) and (positions[0], positions[-1]) == (0, 39)
    facts = msgspec.json.decode((folder / "samples.json").read_bytes(), type=CalibrationRecord)
    assert (facts.name, facts.licence, facts.calibration_samples, facts.evaluation_samples) == ("set", "MIT", 20, 40)
    np.testing.assert_array_equal(Samples.open(folder / "calibration.npz").arrays["x"], data[:20])


def test_a_sample_in_both_sets_stops_the_build(tmp_path: Path) -> None:
    folder, _ = project(tmp_path, overlap=True)
    with pytest.raises(CalibrationError, match="evaluation 5 is calibration 3"):
        collect(folder / "student.json", folder / "set.toml", folder, nothing)


def test_an_empty_set_stops_the_build(tmp_path: Path) -> None:
    folder, _ = project(tmp_path)
    np.savez(folder / "c.npz", x=np.zeros((0, 1, 3), np.float32))
    with pytest.raises(CalibrationError, match="the calibration set is empty"):
        collect(folder / "student.json", folder / "set.toml", folder, nothing)


def test_without_a_set_golden_inputs_are_the_example_and_others_of_its_kind(tmp_path: Path) -> None:
    student = described(TensorSpec("x", "float32", (1, 3), "", (5.0, 6.0)), TensorSpec("ids", "int64", (1, 2)))
    (tmp_path / "student.json").write_bytes(msgspec.json.encode(student))
    example = {"x": np.full((1, 3), 5.5, np.float32), "ids": np.asarray([[4, 7]])}
    save_arrays(tmp_path / "example.npz", example)
    draw(tmp_path / "student.json", tmp_path / "example.npz", tmp_path, nothing)
    golden = Samples.open(tmp_path / "golden.npz").arrays
    np.testing.assert_array_equal(golden["x"][0], example["x"])
    assert golden["x"].shape == (4, 1, 3) and golden["x"].dtype == np.float32 and len(np.unique(golden["x"])) == 10
    assert golden["x"].min() >= 5 and golden["x"].max() <= 6
    assert set(golden["ids"].flat) <= {4, 7} and golden["ids"].dtype == np.int64


def pixel_project(folder: Path) -> np.ndarray:
    """student.json and pixels.json, a set of normalized floats, and the pixels they were made of."""
    pixels = np.random.default_rng(1).integers(3, 250, (20, 1, 3, 4, 5)).astype(np.float32)
    np.savez(folder / "c.npz", image=PREPROCESSING.values_of(pixels))
    (folder / "student.json").write_bytes(msgspec.json.encode(IMAGES))
    (folder / "pixels.json").write_bytes(msgspec.json.encode(IMAGES.on_pixels()))
    (folder / "set.toml").write_text('name = "set"\n[calibration]\nnpz = "c.npz"\n')
    return pixels


def test_normalized_samples_become_the_pixels_they_were_made_of(tmp_path: Path) -> None:
    pixels = pixel_project(tmp_path)
    collect(tmp_path / "student.json", tmp_path / "set.toml", tmp_path, nothing, as_pixels=True)
    np.testing.assert_array_equal(Samples.open(tmp_path / "calibration.npz").arrays["image"], pixels)


def test_samples_that_no_whole_pixels_give_are_refused(tmp_path: Path) -> None:
    pixels = pixel_project(tmp_path)
    pixels[7, 0, 1, 2, 3] += 0.4
    np.savez(tmp_path / "c.npz", image=PREPROCESSING.values_of(pixels))
    with pytest.raises(CalibrationError, match="sample 7 does not come from whole pixels"):
        collect(tmp_path / "student.json", tmp_path / "set.toml", tmp_path, nothing, as_pixels=True)


def test_drawn_inputs_of_a_model_on_pixels_are_pixels(tmp_path: Path) -> None:
    pixel_project(tmp_path)
    save_arrays(tmp_path / "example.npz", {"image": np.zeros((1, 3, 4, 5), np.float32)})
    draw(tmp_path / "student.json", tmp_path / "example.npz", tmp_path, nothing, as_pixels=True)
    drawn = Samples.open(tmp_path / "golden.npz").arrays["image"]
    np.testing.assert_array_equal(drawn, np.clip(np.rint(drawn), 0, 255))
    # The mean is half of white, 127.5 to the nearest even pixel; the others reach far to both sides.
    assert (drawn[0] == 128).all() and drawn[1:].min() < 40 and drawn[1:].max() > 215


def test_the_range_of_pixels_is_whole_whatever_the_samples_hold(tmp_path: Path) -> None:
    pixel_project(tmp_path)
    collect(tmp_path / "student.json", tmp_path / "set.toml", tmp_path, nothing, as_pixels=True)
    ends = [helper.make_tensor_value_info(name, 1, (1, 3, 4, 5)) for name in ("image", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "hub.onnx")
    observe(tmp_path / "hub.onnx", tmp_path / "calibration.npz", tmp_path, nothing, pixels=tmp_path / "pixels.json")
    held = msgspec.json.decode((tmp_path / "ranges.json").read_bytes(), type=Ranges).tensors
    assert held["image"].bounds("minmax") == held["image"].bounds("mse") == (0.0, 255.0)
    assert held["y"].minimum > 0 and held["y"].maximum < 255


def test_ranges_are_written_for_the_hub_on_disk(tmp_path: Path) -> None:
    folder, data = project(tmp_path)
    ends = [[helper.make_tensor_value_info(name, 1, [1, 3])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx")
    collect(folder / "student.json", folder / "set.toml", folder, nothing)
    observe(folder / "model.onnx", folder / "calibration.npz", folder, nothing)
    held = msgspec.json.decode((folder / "ranges.json").read_bytes(), type=Ranges)
    assert (held.tensors["y"].minimum, held.tensors["y"].maximum) == (-data[:20].max(), -data[:20].min())


def test_arrays_on_disk_are_the_same_bytes_for_the_same_arrays(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "x": np.ones((2, 2), np.float32)}
    for name in ("a.npz", "b.npz"):
        save_arrays(tmp_path / name, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert load_arrays(tmp_path / "a.npz")["file"].tolist() == [0, 1, 2]


def test_labels_beyond_the_scores_of_a_student_without_class_names_stop_the_build_early(tmp_path: Path) -> None:
    folder, data = project(tmp_path)
    unnamed = msgspec.structs.replace(STUDENT, labels=())
    (folder / "student.json").write_bytes(msgspec.json.encode(unnamed))
    collect(folder / "student.json", folder / "set.toml", folder, nothing)
    np.savez(folder / "e.npz", x=data[20:], label=np.arange(40) % 3)
    with pytest.raises(CalibrationError, match=r"evaluation label 2 of sample 2 is outside 0\.\.1"):
        collect(folder / "student.json", folder / "set.toml", folder, nothing)


@pytest.mark.parametrize("output", [TensorSpec("class", "int64", (1,)), TensorSpec("score", "float32", (1, 1))])
def test_labels_of_a_student_that_gives_a_class_or_one_score_are_not_held_against_its_size(tmp_path: Path, output: TensorSpec) -> None:
    folder, data = project(tmp_path)
    student = msgspec.structs.replace(STUDENT, labels=(), outputs=(output,))
    (folder / "student.json").write_bytes(msgspec.json.encode(student))
    np.savez(folder / "e.npz", x=data[20:], label=np.arange(40) % 7)
    collect(folder / "student.json", folder / "set.toml", folder, nothing)
    assert Samples.open(folder / "evaluation.npz").count == 40
