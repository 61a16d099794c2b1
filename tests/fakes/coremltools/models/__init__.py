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


class MLState:
    """What a package keeps between predictions: zeros at first, float16, handed over and taken as float32."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.held = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def read_state(self, name: str) -> Any:
        """The numbers of one state."""
        return self.held[name].copy()

    def write_state(self, name: str, value: Any) -> None:
        """Replace them; RuntimeError for another name, shape or type."""
        if name not in self.held or value.shape != self.held[name].shape or value.dtype == np.float16:
            raise RuntimeError(f"state '{name}' cannot be written")
        self.held[name] = value.astype(np.float16).astype(np.float32)


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

    def make_state(self) -> MLState:
        """A new one, of zeros."""
        return MLState({held.name: tuple(held.type.stateType.arrayType.shape) for held in self._spec.description.state})

    def predict(self, data: dict[str, Any], state: MLState | None = None) -> dict[str, Any]:
        """One sample; a stateful package needs a state."""
        if (state is not None) != bool(self._spec.description.state):
            raise RuntimeError("the model has states and got none, or the other way round")
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
        feed = {held.name: _pixels(held, data[held.name]) for held in self._spec.description.input}
        results = self._ask(feed, MLState({}) if state is None else state)
        # coremltools hands float16 over as float32.
        given = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in results.items()}
        if _SETTINGS.get("wrong_on") == unit:
            given = {name: array * 1.5 for name, array in given.items()}
        if _SETTINGS.get("not_finite_on") == unit:
            given = {name: np.full_like(array, np.nan) for name, array in given.items()}
        return given

    def _ask(self, feed: dict[str, Any], state: MLState) -> Any:
        if self._interpreter is None:
            self._interpreter = Client(_SETTINGS["interpreter"], "AF_UNIX")
        self._interpreter.send((str(self._package), feed, state.held))
        results, state.held = self._interpreter.recv()
        return results


def _pixels(feature: Any, value: Any) -> Any:
    """What Core ML gives the program of an image: (1, channels, height, width), 0 to 255."""
    if feature.type.WhichOneof("Type") != "imageType":
        return value
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise TypeError(f"Image input, '{feature.name}' must be of type PIL.Image.Image in the input dict")
    array = np.asarray(value, np.float32)
    return array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]
