"""``coremltools.models`` of the stand-in."""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import numpy as np
from coremltools import _SETTINGS, ComputeUnit
from coremltools.proto import Model_pb2


class MLModel:
    """Opens an .mlpackage and predicts, with what coremltools 9 checks and gives back."""

    def __init__(self, model: str, compute_units: ComputeUnit = ComputeUnit.ALL) -> None:
        if not isinstance(compute_units, ComputeUnit):
            raise TypeError('"compute_units" parameter must be of type: coremltools.ComputeUnit')
        self.compute_unit, self._package = compute_units, Path(model).absolute()
        manifest = json.loads((self._package / "Manifest.json").read_text())
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        self._spec = Model_pb2.Model()
        self._spec.ParseFromString((self._package / "Data" / root).read_bytes())
        self._interpreter: Any = None

    def get_spec(self) -> Any:
        """The package's description."""
        return self._spec

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        """One sample."""
        unit = self.compute_unit.name.lower()
        if _SETTINGS.get("without_core_ml"):
            raise Exception("Unable to load CoreML.framework. Cannot make predictions.")
        if _SETTINGS.get("fails_on") == unit:
            raise RuntimeError("Error computing NN outputs.")
        names = {held.name for held in self._spec.description.input}
        for name in data:
            if name not in names:
                raise KeyError(
                    f'Provided key "{name}", in the input dict, does not match any of the model input name(s), which are: {names}'
                )
        time.sleep(_SETTINGS.get("seconds", 0.0))
        results = self._ask({held.name: _pixels(held, data[held.name]) for held in self._spec.description.input})
        # coremltools hands float16 over as float32.
        given = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in results.items()}
        if _SETTINGS.get("wrong_on") == unit:
            given = {name: array * 1.5 for name, array in given.items()}
        if _SETTINGS.get("not_finite_on") == unit:
            given = {name: np.full_like(array, np.nan) for name, array in given.items()}
        return given

    def _ask(self, feed: dict[str, Any]) -> Any:
        if self._interpreter is None:
            self._interpreter = Client(_SETTINGS["interpreter"], "AF_UNIX")
        self._interpreter.send((str(self._package), feed))
        return self._interpreter.recv()


def _pixels(feature: Any, value: Any) -> Any:
    """What Core ML gives the program of an image: (1, channels, height, width), 0 to 255."""
    if feature.type.WhichOneof("Type") != "imageType":
        return value
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise TypeError(f"Image input, '{feature.name}' must be of type PIL.Image.Image in the input dict")
    array = np.asarray(value, np.float32)
    return array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]
