"""The backends by name, loaded when asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from edgepack.backends.artifact import ArtifactDescription, Finding, WriteOptions
from edgepack.backends.table import Obstacle


class Backend(Protocol):
    """What the module of a backend provides."""

    def write(self, model: Path, out: Path, options: WriteOptions) -> ArtifactDescription:
        """Write one artifact into ``out``; refuse before the first byte."""

    def obstacles(self, model: Path, **runtime: str) -> list[Obstacle]:
        """Every reason the model cannot go to this format, or to an old ``runtime`` of it where the format has such."""

    def lint(self, artifact: Path) -> list[Finding]:
        """What a written artifact, read back from disk, does that it should not."""


_MODULES = {"ort": "edgepack.backends.ort.write", "tflite": "edgepack.backends.tflite", "coreml": "edgepack.backends.coreml"}
# What each writes, in its step's folder.
ARTIFACT_FILES = {"ort": "model.onnx", "tflite": "model.tflite", "coreml": "model.mlpackage"}
# Formats whose writers need every size known; symbolic dimensions are pinned to the student's example first.
NEEDS_STATIC_SHAPES = frozenset({"tflite", "coreml"})


def backend(name: str) -> Backend:
    """The backend called "ort", "tflite" or "coreml"."""
    return cast(Backend, import_module(_MODULES[name]))
