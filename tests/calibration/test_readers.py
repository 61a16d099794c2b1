"""Every reader gives the numbers that are in the files, and refuses what it cannot read."""

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.readers import Samples
from edgepack.errors import InputError
from tests.calibration.students import IMAGES, PAIRS, VECTORS, described, normalized, picture, samples
from tests.test_arrays import archived, npy


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """photos/cat/a.png, photos/cat/b.png, photos/dog/a.png and their pixels in that order."""
    names = ("photos/cat/a.png", "photos/cat/b.png", "photos/dog/a.png")
    return tmp_path, np.stack([picture(tmp_path / name, seed) for seed, name in enumerate(names)])


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


# ---- images


@pytest.mark.parametrize("images", ["photos", "photos/**/*.png", "photos/*/*"])
def test_a_folder_and_a_glob_read_the_same_images_in_sorted_order(photos: tuple[Path, np.ndarray], images: str) -> None:
    root, pixels = photos
    found = samples(root, IMAGES, images=images)
    np.testing.assert_allclose(found.arrays["image"], normalized(pixels), atol=1e-6)
    assert found.labels is None


def test_one_image_file_is_a_set_of_one(photos: tuple[Path, np.ndarray]) -> None:
    root, _ = photos
    picture(root / "photos/odd[1].png", 7)
    assert samples(root, IMAGES, images="photos/cat/a.png").count == 1
    assert samples(root, IMAGES, images="photos/odd[1].png").count == 1


def test_files_that_are_no_images_are_passed_over_in_a_folder(photos: tuple[Path, np.ndarray]) -> None:
    root, _ = photos
    write(root / "photos/notes.txt", "hello")
    assert samples(root, IMAGES, images="photos").count == 3


def test_limit_takes_the_first_samples(photos: tuple[Path, np.ndarray]) -> None:
    root, pixels = photos
    found = samples(root, IMAGES, images="photos", labels="folders", limit=2)
    np.testing.assert_allclose(found.arrays["image"], normalized(pixels[:2]), atol=1e-6)
    assert found.labels is not None and found.labels.tolist() == [0, 0]


def test_folders_are_class_names(photos: tuple[Path, np.ndarray]) -> None:
    labels = samples(photos[0], IMAGES, images="photos", labels="folders").labels
    assert labels is not None and labels.tolist() == [0, 0, 1] and labels.dtype == np.int64


@pytest.mark.parametrize(
    "table",
    [
        "photos/cat/a.png,cat\nphotos/cat/b.png,0\nphotos/dog/a.png,dog\n",
        "file,label\nb.png , cat\nphotos/dog/a.png,1\nphotos/cat/a.png,0\n",
    ],
    ids=["paths", "header, names, indices"],
)
def test_a_table_labels_images_by_path_or_by_a_name_that_is_unique(photos: tuple[Path, np.ndarray], table: str) -> None:
    write(photos[0] / "labels.csv", table)
    labels = samples(photos[0], IMAGES, images="photos", labels="labels.csv").labels
    assert labels is not None and labels.tolist() == [0, 0, 1]


# ---- npz


def test_uint8_arrays_of_an_image_student_are_pixels(photos: tuple[Path, np.ndarray]) -> None:
    root, pixels = photos
    np.savez(root / "set.npz", image=pixels, label=np.asarray([1, 0, 1]))
    found = samples(root, IMAGES, npz="set.npz", labels="label")
    np.testing.assert_allclose(found.arrays["image"], normalized(pixels), atol=1e-6)
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]


def test_float_arrays_are_finished_samples(tmp_path: Path) -> None:
    finished = np.random.default_rng(0).standard_normal((6, 1, 3)).astype(np.float32)
    np.savez(tmp_path / "set.npz", data=finished)
    found = samples(tmp_path, npz="set.npz", columns={"x": "data"}, limit=4)
    np.testing.assert_array_equal(found.arrays["x"], finished[:4])


@pytest.mark.parametrize("labels", [np.asarray(["dog", "cat"]), np.asarray([1, 0], np.uint8), np.asarray([1.0, 0.0])])
def test_labels_of_an_npz_may_be_names_or_whole_numbers(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 1, 3), np.float32), label=labels)
    found = samples(tmp_path, npz="set.npz", labels="label").labels
    assert found is not None and found.tolist() == [1, 0]


# ---- csv


def test_columns_of_a_csv_come_in_the_order_the_manifest_lists_them(tmp_path: Path) -> None:
    write(tmp_path / "set.csv", "a,label,b,c\n1,dog,2,3\n4,cat,5,6\n")
    assert samples(tmp_path, csv="set.csv", labels="label").arrays["x"].tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    found = samples(tmp_path, csv="set.csv", labels="label", columns={"x": ["c", "a", "b"]})
    assert found.arrays["x"].tolist() == [[[3, 1, 2]], [[6, 4, 5]]] and found.arrays["x"].dtype == np.float32
    assert found.labels is not None and found.labels.tolist() == [1, 0]


def test_a_glob_and_brackets_name_columns(tmp_path: Path) -> None:
    write(tmp_path / "set.csv", "p[0],p[1],p[2],q\n1,2,3,9\n")
    assert samples(tmp_path, csv="set.csv", columns={"x": "p*"}).arrays["x"].tolist() == [[[1, 2, 3]]]
    assert samples(tmp_path, csv="set.csv", columns={"x": ["p[0]", "p[2]", "q"]}).arrays["x"].tolist() == [[[1, 3, 9]]]


def test_a_csv_feeds_several_inputs_each_with_its_type(tmp_path: Path) -> None:
    write(tmp_path / "set.csv", "a,b,c,i,j\n.5,1,2,7,8\n")
    found = samples(tmp_path, PAIRS, csv="set.csv", columns={"x": ["a", "b", "c"], "z": ["i", "j"]})
    assert found.arrays["x"].tolist() == [[[0.5, 1, 2]]]
    assert found.arrays["z"].tolist() == [[7, 8]] and found.arrays["z"].dtype == np.int64


def test_a_spreadsheets_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("label,a,b,c\n1,1,2,3\n", encoding="utf-8-sig")
    assert samples(tmp_path, csv="set.csv", labels="label").arrays["x"].tolist() == [[[1, 2, 3]]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_float32_survives_a_csv_bit_for_bit(tmp_path: Path, numbers: np.ndarray) -> None:
    rows = "\n".join(",".join(repr(float(value)) for value in row) for row in numbers)
    write(tmp_path / "set.csv", f"a,b,c\n{rows}\n")
    np.testing.assert_array_equal(samples(tmp_path, csv="set.csv").arrays["x"][:, 0], numbers)


# ---- python


SOURCE = """
import itertools
import os
import numpy as np
import torch

def arrays(): return [np.full((1, 3), n, np.float32) for n in range(3)]
def generated(): return (np.full((1, 3), n, np.float32) for n in itertools.count())
def labelled(): return [(np.full((1, 3), n, np.float32), name) for n, name in enumerate(["cat", 1])]
def mappings(): return [{"x": np.zeros((1, 3), np.float32), "z": np.asarray([n, n])} for n in range(2)]
def tensors(): return [torch.full((1, 3), 0.5)]
def raising(): raise OSError("no disk")
def raising_late():
    yield np.zeros((1, 3), np.float32)
    raise OSError("no disk")
def number(): return 3
def ragged(): return [np.zeros((1, 3), np.float32), np.zeros((2, 3), np.float32)]
def gradients(): return [torch.ones(1, 3, requires_grad=True)]
def half_labelled(): return [(np.zeros((1, 3), np.float32), 1), np.zeros((1, 3), np.float32)]
def bad_label(): return [(np.zeros((1, 3), np.float32), 1.5)]
def nothing(): return []
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    write(tmp_path / "data.py", SOURCE)
    return tmp_path


def test_a_function_gives_arrays_tensors_or_mappings(code: Path) -> None:
    assert samples(code, python="data.py:arrays").arrays["x"][:, 0, 0].tolist() == [0, 1, 2]
    assert samples(code, python="data.py:tensors").arrays["x"].tolist() == [[[0.5, 0.5, 0.5]]]
    assert samples(code, PAIRS, python="data.py:mappings").arrays["z"].tolist() == [[0, 0], [1, 1]]


def test_a_function_gives_labels_as_names_or_indices(code: Path) -> None:
    labels = samples(code, python="data.py:labelled").labels
    assert labels is not None and labels.tolist() == [0, 1]


def test_an_endless_generator_is_read_up_to_the_limit(code: Path) -> None:
    assert samples(code, python="data.py:generated", limit=5).count == 5


def test_a_function_that_gives_nothing_is_an_empty_set(code: Path) -> None:
    assert samples(code, python="data.py:nothing").count == 0


# ---- refusals


def refusal(root: Path, student: Any = VECTORS, **source: Any) -> str:
    with pytest.raises(InputError) as caught:
        samples(root, student, **source)
    assert caught.value.hint and "\n" not in str(caught.value)
    return caught.value.cause


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raising", "data.py:raising raised OSError: no disk"),
        ("raising_late", "data.py:raising_late raised OSError: no disk"),
        ("number", "data.py:number raised TypeError"),
        ("ragged", "gives 'x' in shapes [(1, 3), (2, 3)]"),
        ("gradients", "gives a 'x' that is no array"),
        ("half_labelled", "gives 1 labels for 2 samples"),
        ("bad_label", "1.5 is no whole number"),
        ("absent", "data.py has no function 'absent'"),
    ],
)
def test_a_function_that_gives_no_samples_is_refused(code: Path, function: str, said: str) -> None:
    assert said in refusal(code, python=f"data.py:{function}")


def test_a_python_source_needs_file_and_function(code: Path) -> None:
    assert "no Python file" in refusal(code, python="data.py")
    assert "does not exist" in refusal(code, python="none.py:arrays")


def test_a_student_with_two_inputs_needs_them_told_apart(code: Path) -> None:
    write(code / "set.csv", "a,b,c\n1,2,3\n")
    for source in ({"python": "data.py:arrays"}, {"csv": "set.csv"}, {"images": "photos"}):
        assert "inputs x, z" in refusal(code, PAIRS, **source)


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        ("a,b,c\n1,2,3\n", {"labels": "label"}, "has no column 'label'"),
        ("a,b,c\n1,2,3\n", {"columns": {"x": ["a", "b", "d"]}}, "has no column 'd' for input 'x'"),
        ("a,b,c\n1,2,3\n", {"columns": {"x": "p*"}}, "has no column 'p*'"),
        ("a,b,c\n1,2,3\n", {"columns": {"y": "a"}}, "columns names 'y', which is no input"),
        ("a,b\n1,2\n", {}, "gives 2 numbers for input 'x' of shape [1, 3]"),
        ("a,b,c\n1,2,three\n", {}, "a row that is not all numbers"),
        ("a,b,c\n1,2,3\n1,2\n", {}, "sample 1 has 2 values, the header 3"),
        ("a,b,c,label\n1,2,3,4.5\n", {"labels": "label"}, "neither a class name nor an index"),
        ("a,b,c,label\n1,2,3,bird\n", {"labels": "label"}, "neither a class name nor an index"),
        ("", {}, "gives 0 numbers"),
    ],
)
def test_a_csv_that_does_not_hold_the_samples_is_refused(tmp_path: Path, table: str, options: dict[str, Any], said: str) -> None:
    write(tmp_path / "set.csv", table)
    assert said in refusal(tmp_path, csv="set.csv", **options)


@pytest.mark.parametrize("number", ["1.5", "1e30", "nan"])
def test_a_number_that_an_integer_input_does_not_hold_is_not_rounded(tmp_path: Path, number: str) -> None:
    write(tmp_path / "set.csv", f"a,b,c,i,j\n1,2,3,0,{number}\n")
    said = refusal(tmp_path, PAIRS, csv="set.csv", columns={"x": ["a", "b", "c"], "z": ["i", "j"]})
    assert "sample 0 holds numbers that int64 does not" in said


def test_a_csv_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"\xff\xfe\x00a")
    assert "cannot be read as CSV" in refusal(tmp_path, csv="set.csv")


def npz(root: Path, **arrays: Any) -> bytes:
    np.savez(root / "set.npz", **arrays)
    return (root / "set.npz").read_bytes()


def test_an_npz_without_the_array_lists_what_it_holds(tmp_path: Path) -> None:
    npz(tmp_path, data=np.zeros((1, 1, 3), np.float32))
    with pytest.raises(CalibrationError, match=r"no array 'x' -> next: it holds data; set columns"):
        samples(tmp_path, npz="set.npz")
    assert "no array 'label'" in refusal(tmp_path, npz="set.npz", columns={"x": "data"}, labels="label")


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.asarray([{"a": 1}], object))
    assert "array 'x' of set.npz cannot be read" in refusal(tmp_path, npz="set.npz")


@pytest.mark.parametrize("keep", [0, 10, 150, -30])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    whole = npz(tmp_path, x=np.zeros((9, 1, 3), np.float32))
    (tmp_path / "set.npz").write_bytes(whole[:keep])
    assert "cannot be read" in refusal(tmp_path, npz="set.npz")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_of_an_npz_is_refused_or_does_not_touch_the_samples(tmp_path: Path, position: int, value: int) -> None:
    truth = np.arange(12, dtype=np.float32).reshape(4, 1, 3)
    np.savez_compressed(tmp_path / "set.npz", x=truth)
    changed = bytearray((tmp_path / "set.npz").read_bytes())
    changed[position % len(changed)] = value
    (tmp_path / "set.npz").write_bytes(changed)
    try:
        found = samples(tmp_path, npz="set.npz")
    except CalibrationError:
        return
    np.testing.assert_array_equal(found.arrays["x"], truth)


def test_an_npy_and_a_scalar_are_no_sets(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 1, 3), np.float32))
    assert "is a single array" in refusal(tmp_path, npz="one.npy")
    npz(tmp_path, x=np.float32(3))
    assert "is a single number" in refusal(tmp_path, npz="set.npz")


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    npz(tmp_path, image=np.zeros((2, 9, 5, 3), np.uint8))
    assert "pixels of shape [9, 5, 3], the student takes [4, 5, 3]" in refusal(tmp_path, IMAGES, npz="set.npz")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": "nowhere"}, "holds no image"),
        ({"images": "photos/*.jpg"}, "holds no image"),
        ({"images": "photos/**.png"}, "is not a glob"),
        ({"images": "photos", "labels": "none.csv"}, "none.csv cannot be read as CSV"),
        ({"images": "photos", "labels": "some.csv"}, "some.csv has no label for photos/cat/b.png"),
        ({"images": "photos", "labels": "names.csv"}, "names.csv names a.png, and several images have that name"),
    ],
)
def test_images_and_labels_that_do_not_match_are_refused(photos: tuple[Path, np.ndarray], options: dict[str, Any], said: str) -> None:
    root, _ = photos
    write(root / "some.csv", "photos/cat/a.png,cat\n")
    write(root / "names.csv", "a.png,cat\nb.png,cat\n")
    assert said in refusal(root, IMAGES, **options)


def test_an_image_that_cannot_be_decoded_is_named(photos: tuple[Path, np.ndarray]) -> None:
    write(photos[0] / "photos/bad.png", "hello")
    assert "bad.png cannot be read as an image" in refusal(photos[0], IMAGES, images="photos")


def test_images_need_a_preprocessing(photos: tuple[Path, np.ndarray]) -> None:
    assert "declares no preprocessing" in refusal(photos[0], described(IMAGES.inputs[0]), images="photos")


def test_class_folders_that_are_no_classes_are_refused(photos: tuple[Path, np.ndarray]) -> None:
    student = described(IMAGES.inputs[0], labels=("a", "b"), preprocessing=IMAGES.preprocessing)
    assert "neither a class name nor an index" in refusal(photos[0], student, images="photos", labels="folders")


# ---- paths and digests


@pytest.mark.parametrize("kind", ["images", "npz", "csv", "python"])
def test_no_path_leaves_the_manifests_folder(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path)
    (root / "file").symlink_to(tmp_path / "secret")
    for path in ("../secret", "link/secret", "file", str(tmp_path / "secret"), str(root / "inside"), "a/../../secret"):
        given = f"{path}:f" if kind == "python" else path
        assert "leaves the manifest's folder" in refusal(root, IMAGES if kind == "images" else VECTORS, **{kind: given})


@pytest.mark.parametrize("images", ["photos", "photos/*", "photos/escaped.png"])
def test_a_link_among_the_images_that_leaves_the_folder_is_refused(tmp_path: Path, images: str) -> None:
    picture(tmp_path / "outside.png", 1)
    (tmp_path / "set/photos").mkdir(parents=True)
    (tmp_path / "set/photos/escaped.png").symlink_to(tmp_path / "outside.png")
    assert "leaves the manifest's folder" in refusal(tmp_path / "set", IMAGES, images=images)


def test_a_label_table_outside_the_folder_is_refused(photos: tuple[Path, np.ndarray]) -> None:
    assert "leaves the manifest's folder" in refusal(photos[0] / "photos", IMAGES, images="cat", labels="../labels.csv")


def test_a_digest_is_that_of_the_file(tmp_path: Path) -> None:
    whole = npz(tmp_path, x=np.zeros((1, 1, 3), np.float32))
    digest = hashlib.sha256(whole).hexdigest()
    assert samples(tmp_path, npz="set.npz", sha256=digest).count == 1
    assert samples(tmp_path, npz="set.npz", sha256=digest.upper()).count == 1
    assert "is not the data the manifest names" in refusal(tmp_path, npz="set.npz", sha256="0" * 64)


def test_a_folders_digest_covers_names_and_contents(photos: tuple[Path, np.ndarray]) -> None:
    root, _ = photos
    files = sorted(path for path in (root / "photos").rglob("*.png"))
    digest = hashlib.sha256(b"".join(path.relative_to(root).as_posix().encode() + path.read_bytes() for path in files)).hexdigest()
    assert samples(root, IMAGES, images="photos", sha256=digest).count == 3
    files[0].rename(files[0].with_name("renamed.png"))
    assert "is not the data" in refusal(root, IMAGES, images="photos", sha256=digest)


@pytest.mark.parametrize("kind", ["npz", "csv"])
@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_a_missing_file_is_named_with_or_without_a_digest(tmp_path: Path, kind: str, sha256: str) -> None:
    assert "none.bin cannot be read" in refusal(tmp_path, **{kind: "none.bin", "sha256": sha256})


# ---- samples on disk


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(["x", "labels", "input:x", "file", "a/b", "allow_pickle", "größe"]), min_size=1, unique=True))
def test_samples_are_read_back_whatever_their_inputs_are_called(tmp_path: Path, names: list[str]) -> None:
    counter = itertools.count()
    held = Samples({name: np.full((2, 3), next(counter), np.float32) for name in names}, np.asarray([1, 0]))
    held.save(tmp_path / "samples.npz")
    found = Samples.open(tmp_path / "samples.npz")
    assert list(found.arrays) == names and found.labels is not None and found.labels.tolist() == [1, 0]
    for name in names:
        np.testing.assert_array_equal(found.arrays[name], held.arrays[name])


# ---- data of strangers


@pytest.mark.parametrize(
    "source", [{"images": "../*.png"}, {"images": "/**/*.png"}, {"npz": "/etc/passwd"}, {"csv": "sub/../../a.csv"}, {"npz": "a\0b"}]
)
def test_a_path_or_glob_that_leaves_the_folder_is_refused(tmp_path: Path, source: dict[str, str]) -> None:
    picture(tmp_path / "outside.png", 0)
    (tmp_path / "set").mkdir()
    with pytest.raises(CalibrationError, match=r"leaves the manifest's folder|is no path"):
        samples(tmp_path / "set", IMAGES, **source)  # type: ignore[arg-type]


def test_links_that_leave_the_folder_are_refused_wherever_they_are(tmp_path: Path) -> None:
    picture(tmp_path / "outside" / "a.png", 0)
    root = tmp_path / "set"
    (root / "photos").mkdir(parents=True)
    (root / "photos" / "a.png").symlink_to(tmp_path / "outside" / "a.png")
    (root / "all").symlink_to(tmp_path / "outside")
    for images in ("photos", "photos/*.png", "photos/a.png", "all", "all/a.png", "all/*.png"):
        with pytest.raises(CalibrationError, match="leaves the manifest's folder"):
            samples(root, IMAGES, images=images)


@pytest.mark.parametrize("source", [{"images": "a.png"}, {"images": "."}, {"npz": "a.png"}, {"csv": "a.png"}, {"crops": "a.png"}])
def test_a_pipe_is_not_waited_for(tmp_path: Path, source: dict[str, str]) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(CalibrationError):
        samples(tmp_path, IMAGES, **source)  # type: ignore[arg-type]


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    archived(tmp_path / "a.npz", {"image.npy": npy("(2, 10000000000)", data=bytes(24))})
    with pytest.raises(CalibrationError, match="more than it holds"):
        samples(tmp_path, IMAGES, npz="a.npz")
