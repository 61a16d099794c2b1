"""Image inputs: the package takes pixels as an image, declared as coremltools declares one, and refuses what is no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import lint, write
from edgepack.backends.coreml.images import check_images, image_of
from edgepack.backends.table import BackendError
from edgepack.mil.environment import coremltools
from edgepack.mil.program import Program

from .models import make_model, run_onnxruntime, save, single


def normalized(shape: tuple[int, ...] = (1, 3, 4, 5)) -> onnx.ModelProto:
    """Pixels to numbers around 0, and a second, plain input."""
    nodes = [
        onnx.helper.make_node("Mul", ["pixels", "factor"], ["scaled"], name="scale"),
        onnx.helper.make_node("Add", ["scaled", "shift"], ["y"], name="shift"),
    ]
    return make_model(nodes, {"pixels": shape, "shift": (1, 1, 1, 5)}, ["y"], {"factor": np.float32(1 / 128)})


def declared(package: Path) -> dict[str, Any]:
    """The types of the package's inputs by name."""
    return {feature.name: feature.type for feature in coremltools().utils.load_spec(str(package)).description.input}


def options(scheme: str = "fp32", **images: str) -> WriteOptions:
    return WriteOptions(scheme, image_inputs=images)


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize(("colours", "channels"), [("RGB", 3), ("GRAYSCALE", 1)])
def test_an_image_is_declared_with_its_size_and_colours_and_fed_as_pixels(scheme: str, colours: str, channels: int, tmp_path: Path) -> None:
    path = save(normalized((1, channels, 4, 5)), tmp_path)
    written = write(path, tmp_path, options(scheme, pixels=colours))
    package = tmp_path / written.file
    inputs = declared(package)
    assert image_of(inputs["pixels"]) == (4, 5, colours)
    assert list(inputs["shift"].multiArrayType.shape) == [1, 1, 1, 5]
    assert lint(package) == []
    assert any("image" in note and colours in note for note in written.notes)
    pixels = np.random.default_rng(0).integers(0, 256, (1, channels, 4, 5), np.uint8)
    shift = np.linspace(-1, 1, 5, dtype=np.float32).reshape(1, 1, 1, 5)
    found = Program.load(package).run({"pixels": pixels, "shift": shift})["y"]
    wanted = run_onnxruntime(path, {"pixels": pixels.astype(np.float32), "shift": shift})["y"]
    # Products below 2 and sums below 4, each rounded to half an ulp: 2^-11 + 2^-10 in fp16, and the rounded factor's 2^-12 * 2.
    np.testing.assert_allclose(found, wanted, atol=2e-3 if scheme == "fp16" else 5e-7)


def test_without_the_request_every_input_is_an_array(tmp_path: Path) -> None:
    written = write(save(normalized(), tmp_path), tmp_path, options())
    kinds = {kind.WhichOneof("Type") for kind in declared(tmp_path / written.file).values()}
    assert kinds == {"multiArrayType"}


@pytest.mark.parametrize(
    ("model", "images", "cause"),
    [
        (normalized(), {"pixels": "BGRA"}, "BGRA"),
        (normalized(), {"photo": "RGB"}, "no such input"),
        (normalized(), {"pixels": "GRAYSCALE"}, r"\(1, 3, 4, 5\)"),
        (single("Relu", (2, 3, 4, 5)), {"image": "RGB"}, r"\(2, 3, 4, 5\)"),
        (single("Relu", (1, 4, 5, 3)), {"image": "RGB"}, r"\(1, 4, 5, 3\)"),
        (single("Relu", (3, 4, 5)), {"image": "RGB"}, r"\(3, 4, 5\)"),
    ],
)
def test_what_is_no_image_is_refused_by_name(model: onnx.ModelProto, images: dict[str, str], cause: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=cause) as refusal:
        write(save(model, tmp_path), tmp_path / "out", options(**images))
    assert next(iter(images)) in refusal.value.cause
    assert refusal.value.hint
    assert not (tmp_path / "out").exists()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tmp_path / write(save(normalized(), tmp_path), tmp_path, options(pixels="RGB")).file


def edit(package: Path, **values: Any) -> None:
    """Change fields of the first input's image in the package on disk."""
    file = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = coremltools().utils.load_spec(str(file))
    for name, value in values.items():
        setattr(spec.description.input[0].type.imageType, name, value)
    file.write_bytes(spec.SerializeToString())


def test_a_package_that_takes_another_image_does_not_ship(package: Path, tmp_path: Path) -> None:
    inputs = write(save(normalized(), tmp_path), tmp_path / "again", options(pixels="RGB")).inputs
    check_images(package, inputs, {"pixels": "RGB"})
    with pytest.raises(BackendError, match="pixels"):
        check_images(package, inputs, {"pixels": "GRAYSCALE"})
    edit(package, width=6)
    with pytest.raises(BackendError, match="pixels"):
        check_images(package, inputs, {"pixels": "RGB"})


def test_lint_finds_an_image_that_the_program_does_not_take(package: Path) -> None:
    edit(package, height=9)
    (found,) = lint(package)
    assert (found.level, found.where) == ("error", "pixels")
    assert "9 x 5" in found.message
