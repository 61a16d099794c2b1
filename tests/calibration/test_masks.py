"""Evaluation sets whose labels are masks: a class for every pixel, 255 where none is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepack.calibration.checks import checked, set_digest
from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.readers import Samples
from tests.calibration.students import VECTOR, VECTORS, samples

MASKS = np.random.default_rng(0).integers(0, 2, (3, 4, 5), np.uint8)
SCENES = np.zeros((3, 1, 3), np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_masks_of_an_npz_arrive_as_they_are(tmp_path: Path, dtype: type[np.integer]) -> None:
    np.savez(tmp_path / "held.npz", x=SCENES, masks=MASKS.astype(dtype))
    found = samples(tmp_path, VECTORS, npz="held.npz", labels="masks", limit=2).labels
    assert found is not None and found.dtype == np.int64
    np.testing.assert_array_equal(found, MASKS[:2])


def test_masks_of_a_function_arrive_as_they_are(tmp_path: Path) -> None:
    source = "import numpy as np\ndef held():\n    return [(np.zeros((1, 3), np.float32), np.full((4, 5), each)) for each in (0, 1)]\n"
    (tmp_path / "held.py").write_text(source)
    found = samples(tmp_path, VECTORS, python="held.py:held").labels
    assert found is not None
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(2)[:, None, None], (2, 4, 5)))


def test_masks_of_unequal_sizes_and_of_real_numbers_are_refused(tmp_path: Path) -> None:
    source = "import numpy as np\ndef held():\n    return [(np.zeros((1, 3), np.float32), np.zeros((4, each), int)) for each in (5, 6)]\n"
    (tmp_path / "held.py").write_text(source)
    with pytest.raises(CalibrationError, match="label"):
        samples(tmp_path, VECTORS, python="held.py:held")
    np.savez(tmp_path / "held.npz", x=SCENES, masks=MASKS.astype(np.float32))
    with pytest.raises(CalibrationError, match="masks are float32"):
        samples(tmp_path, VECTORS, npz="held.npz", labels="masks")


def test_void_pixels_pass_and_any_other_unknown_class_names_its_sample() -> None:
    masks = MASKS.astype(np.int64)
    masks[0, 0, 0] = 255
    assert checked(Samples({"x": SCENES}, masks), [VECTOR], 2, "evaluation").labels is masks
    masks[1, 2, 3] = 2
    with pytest.raises(CalibrationError, match=r"label 2 of sample 1 is outside 0\.\.1"):
        checked(Samples({"x": SCENES}, masks), [VECTOR], 2, "evaluation")


def test_255_is_no_void_where_a_sample_has_one_label() -> None:
    with pytest.raises(CalibrationError, match="label 255 of sample 2"):
        checked(Samples({"x": SCENES}, np.array([0, 1, 255])), [VECTOR], 2, "evaluation")


def test_masks_survive_the_workspace_and_enter_the_digest(tmp_path: Path) -> None:
    held = Samples({"x": SCENES}, MASKS.astype(np.int64))
    held.save(tmp_path / "samples.npz")
    again = Samples.open(tmp_path / "samples.npz")
    assert set_digest(again) == set_digest(held) != set_digest(Samples(held.arrays))
