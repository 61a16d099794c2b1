"""The segmentation student on three targets, from one calibration: mean IoU, gate, operators and codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.metrics import jaccard_score

from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Pack
from tests.system.program import ROOT, edgepack, failure

SCENES = ROOT / "demo_app" / "students" / "digit_scenes"
STUDENT = f"{SCENES / 'student.py'}:student"
MANIFEST = ROOT / "calibration" / "digit_scenes.toml"
TARGETS = ("raspberry-pi-5", "android", "ios")
# What makes a segmenter of a mobile network: each is in the graph that every target is written from.
OPERATORS = {"Conv", "HardSwish", "Clip", "GlobalAveragePool", "HardSigmoid", "Mul", "Add", "Resize", "Concat", "ConvTranspose"}


# The scenes student takes a minute of a processor: digits goes the same way in the default run.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of the committed student, untimed."""
    place = tmp_path_factory.mktemp("scenes")
    ended = edgepack("build", STUDENT, "-c", MANIFEST, "-o", place / "pack", "--latency", "none", cwd=place, seconds=900)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "mIoU, %" in ended.stdout
    return place / "pack"


@pytest.fixture(scope="module")
def pack(folder: Path) -> Pack:
    return load_pack(folder)


def test_three_targets_each_carry_fp32_and_w8a8_and_all_pass(pack: Pack) -> None:
    assert {(artifact.target, artifact.scheme) for artifact in pack.artifacts} == {(t, s) for t in TARGETS for s in ("fp32", "w8a8")}
    assert [artifact.failures for artifact in pack.artifacts] == [()] * 6


def test_fp32_is_within_6_db_of_torch_both_against_float64(pack: Pack) -> None:
    for artifact in pack.artifacts:
        if artifact.scheme == "fp32":
            (output,) = artifact.parity.outputs
            assert output.sqnr_db is not None and output.student_sqnr_db is not None
            assert output.sqnr_db >= output.student_sqnr_db - 6, artifact.target


def test_w8a8_loses_at_most_a_point_of_mean_iou_on_the_200_held_out_scenes(pack: Pack) -> None:
    for artifact in pack.artifacts:
        found = artifact.accuracy
        assert found is not None and (found.metric, found.samples) == ("mIoU", 200)
        assert found.drop.value <= 0.01, artifact.target
        assert found.drop.low <= found.drop.value <= found.drop.high
        assert found.drop.value == pytest.approx(found.student - found.value.value, abs=1e-12)


def test_the_recorded_mean_iou_is_what_onnxruntime_and_scikit_learn_give_for_the_file(folder: Path, pack: Pack) -> None:
    """Neither our runner nor our metric: the .onnx of the pack in a plain session, scored by the Jaccard index."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # As the runner: int8 products that do not saturate on CPUs without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    with np.load(MANIFEST.parent / "digit_scenes" / "evaluation.npz") as held:
        images, masks = held["images"], held["masks"]
    (artifact,) = (each for each in pack.artifacts if (each.target, each.scheme) == ("raspberry-pi-5", "w8a8"))
    session = onnxruntime.InferenceSession(folder / artifact.file.path, options, providers=["CPUExecutionProvider"])
    feeds = images.astype(np.float32).transpose(0, 3, 1, 2)[:, None] / 255
    classes = [session.run(None, {"image": feed})[0].argmax(1)[0] for feed in feeds]
    assert artifact.accuracy is not None
    assert jaccard_score(masks.ravel(), np.stack(classes).ravel(), average="macro") == pytest.approx(
        artifact.accuracy.value.value, abs=1e-9
    )


def test_the_hub_holds_the_operators_of_a_segmenter_and_tflite_runs_it_in_one_partition(folder: Path, pack: Pack) -> None:
    assert {node.op_type for node in onnx.load(folder / "hub" / "fp32.onnx").graph.node} >= OPERATORS
    notes = [artifact.notes for artifact in pack.artifacts if artifact.platform == "android"]
    assert len(notes) == 2 and all("partitions: 1" in each for each in notes)


def test_w8a8_files_are_half_of_fp32_at_most(pack: Pack) -> None:
    """The weights are a quarter; scales, zero points and names of 66 small operators weigh as much again in 98 k weights."""
    sizes = {(artifact.target, artifact.scheme): artifact.file.bytes for artifact in pack.artifacts}
    assert all(sizes[target, "w8a8"] <= 0.5 * sizes[target, "fp32"] for target in TARGETS)


def test_the_report_names_mean_iou(folder: Path) -> None:
    assert "Mean IoU" in (folder / "report.html").read_text(encoding="utf-8")


def test_masks_that_no_output_fits_end_in_one_line_with_both_shapes(tmp_path: Path) -> None:
    with np.load(MANIFEST.parent / "digit_scenes" / "evaluation.npz") as held:
        np.savez(tmp_path / "held.npz", images=held["images"][:4], masks=held["masks"][:4, ::2, ::2])
        np.savez(tmp_path / "calibration.npz", images=held["images"][4:8])
    sources = "".join(
        f'[{part}]\nnpz = "{file}.npz"\n{labels}[{part}.columns]\nimage = "images"\n'
        for part, file, labels in (("calibration", "calibration", ""), ("evaluation", "held", 'labels = "masks"\n'))
    )
    (tmp_path / "small.toml").write_text(f'name = "small"\n{sources}')
    options = ("-c", "small.toml", "-t", "raspberry-pi-5", "-s", "fp32", "--latency", "none")
    line = failure(edgepack("build", STUDENT, *options, cwd=tmp_path))
    assert "masks are (48, 48)" in line and "logits (1, 11, 96, 96)" in line
