"""A pack measured by mean IoU names it wherever a pack of classes names its accuracy; packs written before it existed read as they did."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec.structs import replace

from edgepack.cli.output import artifact_table
from edgepack.pack.manifest import Pack
from edgepack.pack.report import render
from edgepack.pack.run import areas
from edgepack.student.spec import StudentDescription, TensorSpec
from tests.pack.test_report import sample_pack


def segmenter() -> Pack:
    """The sample pack, its figures taken as mean IoUs."""
    pack = sample_pack()
    scored = [replace(each, accuracy=replace(each.accuracy, metric="mIoU")) for each in pack.artifacts if each.accuracy]
    return replace(pack, artifacts=tuple(scored))


def test_the_report_of_a_segmenter_speaks_of_mean_iou_and_its_bootstrap() -> None:
    page = render(segmenter())
    assert "<th>Mean IoU</th>" in page and 'data-label="Mean IoU"' in page and "<th>Same pixels</th>" in page
    assert "bootstrap over images" in page
    assert "Accuracy</" not in page and "Wilson" not in page


def test_the_report_of_a_classifier_speaks_of_accuracy() -> None:
    page = render(sample_pack())
    assert "<th>Accuracy</th>" in page and "Wilson for accuracy" in page and "Mean IoU" not in page


def test_the_table_of_the_command_line_is_headed_by_the_metric() -> None:
    headings = {pack: str(artifact_table(source()).columns[3].header) for pack, source in (("a", segmenter), ("b", sample_pack))}
    assert headings == {"a": "mIoU, %", "b": "top-1, %"}


def test_a_pack_that_names_no_metric_was_measured_by_top_1() -> None:
    held = msgspec.json.decode(msgspec.json.encode(sample_pack()))
    for artifact in held["artifacts"]:
        if artifact["accuracy"]:
            del artifact["accuracy"]["metric"]
    again = msgspec.convert(held, Pack)
    assert {each.accuracy.metric for each in again.artifacts if each.accuracy} == {"top-1"}


def described(layout: str) -> StudentDescription:
    outputs = (TensorSpec("scores", "float32", None, layout),)
    return StudentDescription("s", "s.py:s", (), outputs, None, ("sky", "cat", "dog"), "MIT", 1)


def test_the_largest_classes_of_a_map_of_scores_are_named_with_their_share_of_the_pixels() -> None:
    classes = np.array([[0, 0, 0, 2], [0, 0, 2, 2]])
    scores = np.eye(3)[classes]
    expected = (("sky", 5 / 8), ("dog", 3 / 8))
    assert areas({"scores": scores.transpose(2, 0, 1)[None]}, described("NCHW"), 5) == expected
    assert areas({"scores": scores[None]}, described("NHWC"), 5) == expected
    assert areas({"scores": scores[None]}, described("NHWC"), 1) == expected[:1]


def test_outputs_without_a_layout_or_of_other_classes_have_no_areas() -> None:
    assert areas({"scores": np.zeros((1, 3, 4, 4))}, described(""), 5) == ()
    assert areas({"scores": np.zeros((1, 2, 4, 4))}, described("NCHW"), 5) == ()
    assert areas({"scores": np.zeros((1, 3))}, described("NC"), 5) == ()
