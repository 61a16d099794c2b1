"""The Core ML runner: an .mlpackage in Core ML itself, through coremltools' own prediction; one file, sent to a Mac as it is.

Tested against a stand-in of coremltools' predict, never run on a Mac: docs/apple.md says how far.

Core ML and the frameworks below it must not be used in a process that was forked (Apple TN2050, and "You MUST exec()" of CoreFoundation):
``edgepack.runner.supervisor`` starts this program in a fresh interpreter there.
"""

from __future__ import annotations

import importlib
import json
import logging
import platform
import sys
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.runner import contract

# As they are asked for, and what coremltools calls them (coremltools.ComputeUnit).
UNITS = {"all": "ALL", "cpu_and_ne": "CPU_AND_NE", "cpu_and_gpu": "CPU_AND_GPU", "cpu_only": "CPU_ONLY"}
# FeatureTypes.proto: ArrayFeatureType.ArrayDataType.
_DTYPES = {65568: "float32", 65600: "float64", 65552: "float16", 131104: "int32", 131080: "int8"}
# FeatureTypes.proto: ImageFeatureType.ColorSpace; PIL's names.
_MODES = {10: "L", 20: "RGB", 30: "RGB"}


class CoreMlSession:
    """One .mlpackage on one kind of compute units."""

    def __init__(self, artifact: str, unit: str) -> None:
        coremltools = _coremltools()
        self._model = coremltools.models.MLModel(_package(artifact), compute_units=coremltools.ComputeUnit[UNITS[unit]])
        description = self._model.get_spec().description
        self._images = {held.name: held.type.imageType for held in description.input if held.type.WhichOneof("Type") == "imageType"}
        self._dtypes = {held.name: _dtype(held) for held in description.output}
        self._unit = unit
        self._state: Any = self._model.make_state() if description.state else None
        # State -> what the output is called that tells what it holds afterwards (edgepack.mil.program.STATE).
        self._kept: dict[str, str] = json.loads(description.metadata.userDefined.get("edgepack.state", "{}"))
        self._feed: dict[str, Any] = {}
        self._results: Mapping[str, Any] = {}

    def set_inputs(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Take a copy of one sample, by input name; pixels become an image where the package takes one, a state is written."""
        for name in self._kept:
            # Core ML's buffer is float16, which coremltools fills from float32.
            self._state.write_state(name, np.array(feed[name], np.float32))
        self._feed = {
            name: _image(name, array, _MODES.get(self._images[name].colorSpace, "")) if name in self._images else np.array(array)
            for name, array in feed.items()
            if name not in self._kept
        }

    def invoke(self) -> None:
        """Predict, with what coremltools needs to hand arrays over and back."""
        # predict replaces members of what it is given.
        self._results = self._model.predict(dict(self._feed), *([] if self._state is None else [self._state]))

    def outputs(self) -> contract.Arrays:
        """Copies of the results by name, in the dtypes that the package declares (coremltools widens float16)."""
        given = {name: np.array(self._results[name], dtype) for name, dtype in self._dtypes.items()}
        return given | {result: np.array(self._state.read_state(state), np.float32) for state, result in self._kept.items()}

    def describe(self) -> dict[str, Any]:
        """The compute units that Core ML was allowed to use; which it used, it does not tell."""
        return {"unit": self._unit}


def _coremltools() -> Any:
    """The library, without the frameworks that it probes for its own converters: they take seconds to import (this process is ours)."""
    for name in _PROBED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    return importlib.import_module("coremltools")


_PROBED = ("torch", "sklearn", "xgboost", "tensorflow")


def _package(artifact: str) -> str:
    """The folder itself, or the one in an archive (of one name), unpacked beside it."""
    if not artifact.endswith(".zip"):
        return artifact
    folder = Path(artifact).with_suffix("")
    with zipfile.ZipFile(artifact) as archive:
        archive.extractall(folder)
    return str(folder)


def _dtype(feature: Any) -> str:
    kind = feature.type.WhichOneof("Type")
    if kind != "multiArrayType":
        raise ValueError(f"output '{feature.name}' is a {kind}, no multi-array")
    return _DTYPES[feature.type.multiArrayType.dataType]


def _image(name: str, array: NDArray[Any], mode: str) -> Any:
    """(1, channels, height, width), pixels 0 to 255, as Pillow's image."""
    if not mode:
        raise ValueError(f"input '{name}' is an image of a colour space that is not known here")
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(f"input '{name}' is an image, and there is no Pillow: python3 -m pip install pillow") from error
    pixels = np.asarray(array)
    whole = np.rint(pixels)
    if pixels.ndim != 4 or len(pixels) != 1 or not np.array_equal(pixels, whole) or whole.min() < 0 or whole.max() > 255:
        raise ValueError(f"input '{name}' is an image: feed whole pixels 0 to 255 of shape (1, channels, height, width)")
    channels_last = whole[0].transpose(1, 2, 0).astype(np.uint8)
    return Image.fromarray(channels_last[..., 0] if mode == "L" else channels_last, mode)


def _coremltools_version() -> str:
    try:
        return metadata.version("coremltools")
    except metadata.PackageNotFoundError:
        return "is missing"


class CoreMl:
    """The runtime as the contract wants it, on one kind of compute units."""

    name = "Core ML"
    truth = "host"

    def __init__(self, unit: str = "all") -> None:
        if unit not in UNITS:
            raise ValueError(f"Core ML has no compute unit '{unit}': use {', '.join(UNITS)}")
        self._unit = unit
        # Of the system, which Core ML is part of, and of coremltools.
        self.version = f"of macOS {platform.mac_ver()[0] or '?'}, coremltools {_coremltools_version()}"

    def on(self, unit: str) -> CoreMl:
        """The same runtime on other compute units; ValueError when it has none of that name."""
        return CoreMl(unit)

    def load(self, artifact: str, threads: int) -> CoreMlSession:
        """Open an .mlpackage folder, or a .zip of one. Core ML chooses its threads itself."""
        return CoreMlSession(artifact, self._unit)


RUNTIME = CoreMl()


def main() -> int:
    """Answer the request named on the command line."""
    # coremltools warns of every framework that it was not tested with.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    return contract.main(RUNTIME)


if __name__ == "__main__":
    raise SystemExit(main())
