"""Inputs that are images: Core ML takes a pixel buffer and gives the program its pixels, 0 to 255, as (1, C, H, W)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepack.backends.artifact import Binding
from edgepack.backends.coreml.operations import Hub
from edgepack.backends.table import BackendError, Obstacle
from edgepack.mil.environment import coremltools
from edgepack.quantize.fold import Operand

# Colour space as the write options name it -> channels. FeatureTypes.proto, ImageFeatureType.ColorSpace, has the same names.
CHANNELS = {"RGB": 3, "GRAYSCALE": 1}
_RANK = 4


def find_image_obstacles(hub: Hub, wanted: Mapping[str, str]) -> list[Obstacle]:
    """Why inputs of the hub cannot be the images that are asked for: input name -> "RGB" or "GRAYSCALE"."""
    inputs = {operand.name: operand for operand in hub.inputs}
    found = [(name, _objection(inputs.get(name), colours)) for name, colours in wanted.items()]
    return [Obstacle("coreml", "input", name, *objection) for name, objection in found if objection is not None]


def _objection(operand: Operand | None, colours: str) -> tuple[str, str] | None:
    if operand is None:
        return "is to be an image, but the model has no such input", "name one of the student's inputs"
    if colours not in CHANNELS:
        return f"is to be an image in {colours}", f"use {' or '.join(CHANNELS)}"
    wanted = (1, CHANNELS[colours])
    if operand.dtype != "float32" or operand.rank != _RANK or operand.shape[:2] != wanted:
        return (
            f"is to be an image in {colours}, but is {operand.dtype} {operand.shape}",
            f"make it float32 of shape (1, {wanted[1]}, height, width)",
        )
    return None


def image_type(held: Binding, colours: str) -> Any:
    """coremltools' declaration of an input that is an image, with neither scale nor bias."""
    ct = coremltools()
    return ct.ImageType(held.name, held.shape, color_layout=ct.colorlayout[colours], channel_first=True)


def check_images(package: Path, inputs: Sequence[Binding], wanted: Mapping[str, str]) -> None:
    """Assert that the package on disk declares the images.

    Raises:
        BackendError: one is missing, or has another size or colour space.
    """
    spec = coremltools().utils.load_spec(str(package))
    held = {feature.name: feature.type for feature in spec.description.input}
    for binding in inputs:
        colours = wanted.get(binding.hub_name)
        if colours is not None and image_of(held[binding.name]) != (*binding.shape[2:], colours):
            raise BackendError(
                f"coreml: the saved package does not take '{binding.name}' as an image in {colours} of {binding.shape[2:]}",
                "report this with the model: the package must not ship",
            )


def image_of(feature: Any) -> tuple[int, int, str] | None:
    """(height, width, colour space) of a feature type of a spec, None when it is no image."""
    if feature.WhichOneof("Type") != "imageType":
        return None
    image = feature.imageType
    return image.height, image.width, image.ColorSpace.Name(image.colorSpace)
