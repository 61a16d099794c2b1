"""What a backend writes, described for everyone who runs it: the file and how its tensors map to the hub's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec


class Binding(msgspec.Struct, frozen=True):
    """One input or output of an artifact.

    Attributes:
        name: in the artifact (TFLite signature name, Core ML feature name, ONNX value name).
        hub_name: the student's name for the same tensor.
        dtype: numpy name of what the artifact takes or gives.
        shape: of the artifact's tensor; a symbolic dimension is a string, and one that depends on it says how ("2*sequence+1") or "?".
        permutation: ``artifact = transpose(hub, permutation)``; empty when the layouts agree.
    """

    name: str
    hub_name: str
    dtype: str
    shape: tuple[int | str, ...]
    permutation: tuple[int, ...] = ()


class ArtifactDescription(msgspec.Struct, frozen=True):
    """An artifact on disk.

    Attributes:
        file: its file (or .mlpackage folder) name, relative to the folder it was written to.
        inputs, outputs: in the student's order.
        runner: which runner runs it: "ort", "litert", "tflite_runtime" or "mil".
        notes: facts worth a line in the report ("compute precision float16").
        minimum_os: the oldest system that runs it, as the target names it.
        state: of a stateful student: artifact input -> the artifact output it takes in the next step.
        kept: of these inputs, those that the format itself keeps between invocations, as tensors of an ``MLState`` (float16). Who runs the
            artifact through ``edgepack.runner`` feeds and gets them like the others; for an app they are no inputs, their outputs none.
        sizes: what its symbolic dimensions may be, symbol -> (smallest, largest); a symbol that is not here may be anything.
    """

    file: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    runner: str
    notes: tuple[str, ...] = ()
    minimum_os: str = ""
    state: dict[str, str] = {}
    kept: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = {}


def artifact_state(state: Mapping[str, str], inputs: Iterable[Binding], outputs: Iterable[Binding]) -> dict[str, str]:
    """A student's state (input -> output, by its own names) by the names of an artifact."""
    results = {held.hub_name: held.name for held in outputs}
    return {held.name: results[state[held.hub_name]] for held in inputs if held.hub_name in state}


class Finding(msgspec.Struct, frozen=True):
    """One thing a linter saw in a written artifact; ``level`` is "error" (it must not ship) or "warning"."""

    level: str
    where: str
    message: str


class ImageInput(msgspec.Struct, frozen=True):
    """An input that holds an image.

    Attributes:
        colours: "RGB" or "GRAYSCALE".
        height, width: in pixels.
        mean, std: for each channel, in pixels 0 to 255: the input holds ``(pixel - mean) / std``, which for pixels is 0 and 1. A negative
            std turns white into black.
        value_range: smallest and largest value.
    """

    colours: str
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]


class ProbedModel(msgspec.Struct, frozen=True):
    """The model of a writer at one probe (``edgepack.hub.probe``): ``sizes`` of the open symbols, ``path`` of the static ONNX file."""

    sizes: dict[str, int]
    path: Path


class WriteOptions(msgspec.Struct, frozen=True):
    """What a writer is told beside the model.

    Attributes:
        scheme: name of the scheme the model carries.
        inputs, outputs: layouts by name ("NCHW", "NC", ""), from the student.
        minimum_os: deployment target ("iOS17"); "" for the backend's default.
        name, licence, labels: recorded in the artifact where the format has a place for them.
        image_inputs: inputs that the artifact takes as images of pixels 0 to 255, where the format has them: name -> "RGB" or
            "GRAYSCALE".
        images: inputs that hold images, by name, for the artifact's metadata.
        runtime: the oldest release of the format's runtime that must run it ("2.14"); "" for today's.
        state: what the artifact itself is to keep between invocations, where the format can: hub input -> the hub output it takes next.
        sizes: symbols that stay open, symbol -> (smallest, largest). The model is then the one at the example's sizes.
        example_sizes: what these symbols are in the example.
        probes: the model at several sizes of them, the base first and the largest last; empty where no symbol is open.
    """

    scheme: str
    input_layouts: dict[str, str] = {}
    output_layouts: dict[str, str] = {}
    minimum_os: str = ""
    name: str = ""
    licence: str = ""
    labels: tuple[str, ...] = ()
    image_inputs: dict[str, str] = {}
    images: dict[str, ImageInput] = {}
    runtime: str = ""
    state: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    example_sizes: dict[str, int] = {}
    probes: tuple[ProbedModel, ...] = ()
