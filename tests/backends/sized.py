"""Small hubs with open sizes, written by a backend, and run beside onnxruntime on the hub itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgepack.backends.artifact import ArtifactDescription
from edgepack.backends.steps import write
from edgepack.devices.runner_process import artifact_feed, hub_arrays
from edgepack.hub.canonical import canonicalize
from edgepack.student.spec import StudentDescription, TensorSpec
from tests.hub.graphs import model, normal, onnxruntime_run

Arrays = dict[str, NDArray[Any]]
# Answers one sample in the artifact's terms.
Run = Callable[[Path, Arrays], Arrays]


@dataclass(frozen=True)
class Open:
    """A model over one input ``x`` with open sizes.

    Attributes:
        shape: of x, symbols where it is open; sizes: their ranges; example: what they are in the example.
        weights: by name; outputs are ``y``.
    """

    nodes: Sequence[onnx.NodeProto]
    shape: tuple[int | str, ...]
    sizes: Mapping[str, tuple[int, int]]
    example: Mapping[str, int]
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    layout: str = ""

    def at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of x at these sizes."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)


class Written:
    """One of them as an artifact in ``folder``.

    Raises:
        EdgepackError: what the backend refuses.
    """

    def __init__(self, given: Open, folder: Path, format: str, minimum_os: str = "") -> None:
        self.given, self.folder = given, folder
        example = normal(*given.at(given.example))
        captured = model(given.nodes, {"x": given.shape}, {"y": None}, given.weights)
        self.hub = ir.to_proto(canonicalize(captured, {"x": example}).model)
        onnx.save(self.hub, folder / "hub.onnx")
        np.savez(folder / "example.npz", x=example)
        specs = (TensorSpec("x", "float32", given.shape, given.layout),), (TensorSpec("y", "float32", (), given.layout),)
        described = StudentDescription("open", "hub.onnx", *specs, None, (), "MIT", 1, sizes=dict(given.sizes))
        (folder / "student.json").write_bytes(msgspec.json.encode(described))
        files = folder / "hub.onnx", folder / "student.json", folder / "example.npz"
        write(*files, format, minimum_os, "fp32", folder, lambda *_: None)
        self.described = msgspec.json.decode((folder / "artifact.json").read_bytes(), type=ArtifactDescription)

    def furthest(self, run: Run, sizes: Sequence[Mapping[str, int]]) -> float:
        """The largest error at these sizes, over the largest number of the answer. Shapes must agree."""
        errors = []
        for number, held in enumerate(sizes):
            feed = {"x": normal(*self.given.at(held), seed=number)}
            given = artifact_feed({"x": feed["x"][None]}, self.described.inputs)
            found = run(self.folder / self.described.file, {name: array[0] for name, array in given.items()})
            ours = hub_arrays({name: array[None] for name, array in found.items()}, self.described.outputs)["y"][0]
            theirs = onnxruntime_run(self.hub, feed)["y"]
            assert ours.shape == theirs.shape, held
            errors.append(float(np.abs(ours.astype(np.float64) - theirs).max(initial=0) / np.abs(theirs).max(initial=1e-30)))
        return max(errors)
