"""Reading a person's input for a pack, choosing artifacts, and naming the best classes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edgepack.errors import InputError
from edgepack.pack.files import PackError
from edgepack.pack.run import best, chosen, read_input
from edgepack.student.spec import ImagePreprocessing, StudentDescription, TensorSpec
from tests.pack.test_files import MANIFEST

IMAGE = TensorSpec("image", "float32", (1, 3, 4, 6), "NCHW")
STUDENT = StudentDescription("cats", "student.py:student", (IMAGE,), (), ImagePreprocessing(4, 6, mean=(0.5,), std=(0.5,)), (), "MIT", 1)
TENSORS = replace(STUDENT, inputs=(TensorSpec("ids", "int64", (1, "length")), TensorSpec("scale", "float32", ())), preprocessing=None)
IDS, SCALE = np.array([[3, 4, 5]]), np.array(2, np.float32)


def test_an_image_goes_through_the_students_preprocessing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.PNG")
    held = read_input(tmp_path / "photo.PNG", STUDENT)["image"]
    np.testing.assert_allclose(held[0, 0], (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6)
    assert held.shape == (1, 1, 3, 4, 6) and held.dtype == np.float32


def test_tensors_are_taken_by_name_as_they_are_and_stacked(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", ids=IDS, scale=SCALE, more=IDS)
    held = read_input(tmp_path / "in.npz", TENSORS)
    assert list(held) == ["ids", "scale"]
    np.testing.assert_array_equal(held["ids"], IDS[None])
    np.testing.assert_array_equal(held["scale"], [2])


STEPPED = replace(
    TENSORS, inputs=(TensorSpec("x", "float32", (1, 2)), TensorSpec("past", "float32", (1, 3))), state={"past": "next"}, outputs=()
)


@pytest.mark.parametrize(("shape", "count"), [((1, 2), 1), ((4, 1, 2), 4)], ids=["step", "sequence"])
def test_steps_of_a_stateful_student_start_from_zeros(shape: tuple[int, ...], count: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones(shape, np.float32))
    held = read_input(tmp_path / "in.npz", STEPPED)
    assert held["x"].shape == (count, 1, 2)
    assert held["past"].shape == (count, 1, 3) and not held["past"].any()


@pytest.mark.parametrize(
    "array", [np.float32(1), np.ones((4, 2), np.float32), np.ones((0, 1, 2), np.float32)], ids=["number", "row", "none"]
)
def test_what_is_no_step_and_no_sequence_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=array)
    with pytest.raises(PackError):
        read_input(tmp_path / "in.npz", STEPPED)


def test_an_npy_is_the_only_input(tmp_path: Path) -> None:
    image = np.zeros((1, 3, 4, 6), np.float32)
    np.save(tmp_path / "in.npy", image)
    np.testing.assert_array_equal(read_input(tmp_path / "in.npy", STUDENT)["image"], image[None])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": IDS}, "in.npz holds no 'scale' -> next: it holds ids"),
        (
            {"ids": IDS.astype(np.int32), "scale": SCALE},
            r"is int32\[1, 3\] -> next: the student takes int64\[1, 'length'\]",
        ),
        ({"ids": IDS[0], "scale": SCALE}, r"'ids' in in.npz is int64\[3\]"),
        ({"ids": np.array([IDS[0], IDS[0]]), "scale": SCALE}, r"'ids' in in.npz is int64\[2, 3\]"),
    ],
    ids=["missing", "dtype", "rank", "size"],
)
def test_tensors_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(PackError, match=words):
        read_input(tmp_path / "in.npz", TENSORS)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.png"):
        with pytest.raises(PackError, match="is not a file -> next: give an image"):
            read_input(path, STUDENT)


def test_an_image_for_a_student_without_preprocessing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(PackError, match="declares no preprocessing"):
        read_input(tmp_path / "photo.png", TENSORS)


def _zip(content: bytes, name: str = "ids.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _damaged(content: bytes) -> bytes:
    return content[:60] + bytes(40) + content[100:]


_ARRAY = _npy(np.random.default_rng(0).normal(size=400))
_FILES = {
    "empty": b"",
    "text": b"not an array",
    "array in place of archive": _ARRAY,
    "archive in place of array": _zip(_ARRAY),
    "cut off": _zip(_ARRAY)[:-40],
    "cut-off array": _ARRAY[:-40],
    "damaged": _damaged(_zip(_ARRAY)),
    "text inside": _zip(b"not an array", "ids.txt"),
    "cut-off array inside": _zip(_ARRAY[:-40]),
    "pickle": _npy(np.array([{}], dtype=object)),
    "pickle inside": _zip(_npy(np.array([{}], dtype=object))),
}


@pytest.mark.parametrize("suffix", ["npz", "npy", "png"])
@pytest.mark.parametrize("content", _FILES.values(), ids=_FILES.keys())
def test_a_file_of_another_kind_than_its_name_says_is_refused_in_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_input(path, STUDENT)
    assert path.name in caught.value.cause and caught.value.hint


def test_choosing_what_the_pack_lacks_says_what_it_holds() -> None:
    with pytest.raises(PackError, match="the pack has no such artifact"):
        chosen(MANIFEST, ["android"], [])


def test_the_best_classes_of_logits_are_their_softmax() -> None:
    top = best({"scores": np.array([[1.0, 3.0, 2.0]])}, ("a", "b", "c"), 2)
    total = np.exp([1, 2, 3]).sum()
    assert [label for label, _ in top] == ["b", "c"]
    np.testing.assert_allclose([score for _, score in top], [np.exp(3) / total, np.exp(2) / total])


def test_probabilities_stay_what_they_are_also_when_int8_steps_keep_them_from_adding_up_to_one() -> None:
    # Ten classes of a w8a8 softmax, each rounded to 1/256: nine lose 0.45 of a step, together they are 1.6 % short.
    small = 2.45 / 256
    codes = np.rint(np.array([1 - 9 * small] + [small] * 9) * 256) / 256
    assert codes.sum() < 0.99
    assert best({"scores": codes}, [str(label) for label in range(10)], 1) == (("0", float(codes[0])),)


def test_outputs_that_are_not_one_score_a_label_have_no_best_class() -> None:
    assert best({"scores": np.zeros((2, 3))}, ("a", "b", "c"), 1) == ()
    assert best({"scores": np.zeros(3)}, (), 1) == ()
    assert best({"scores": np.zeros(0)}, (), 1) == ()


@pytest.mark.parametrize(("length", "cause"), [(1, ""), (9, ""), (10, "'ids' in in.npz has length 10")])
def test_an_open_size_lies_in_its_range(length: int, cause: str, tmp_path: Path) -> None:
    student = replace(TENSORS, sizes={"length": (1, 9)})
    np.savez(tmp_path / "in.npz", ids=np.zeros((1, length), np.int64), scale=SCALE)
    if not cause:
        assert read_input(tmp_path / "in.npz", student)["ids"].shape == (1, 1, length)
        return
    with pytest.raises(PackError, match=cause) as raised:
        read_input(tmp_path / "in.npz", student)
    assert raised.value.hint == "the student takes 1 to 9"


def test_two_inputs_give_one_symbol_one_size(tmp_path: Path) -> None:
    specs = tuple(TensorSpec(name, "int64", (1, "length")) for name in ("ids", "mask"))
    np.savez(tmp_path / "in.npz", ids=np.zeros((1, 4), np.int64), mask=np.zeros((1, 5), np.int64))
    with pytest.raises(PackError, match=r"'mask' in in\.npz has length 5, 'ids' has 4"):
        read_input(tmp_path / "in.npz", replace(TENSORS, inputs=specs, sizes={"length": (1, 9)}))
