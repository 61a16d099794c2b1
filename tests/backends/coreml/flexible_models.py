"""Hubs with open sizes, written as packages that take them, and ONNX Runtime beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgepack.arrays import save_arrays
from edgepack.backends import coreml
from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.backends.steps import as_backend_wants, with_probes
from edgepack.hub.canonical import canonicalize, plain_session
from edgepack.mil.program import Program
from tests.hub.graphs import model

Ranges = Mapping[str, tuple[int, int]]
# What the symbols of these tests may be, and what they are in the example.
RANGES = {"n": (1, 40), "m": (1, 30), "batch": (1, 6)}
EXAMPLE = {"n": 12, "m": 9, "batch": 1}


@dataclass(frozen=True)
class Opened:
    """A package for open sizes, and the hub it was made of."""

    hub: ir.Model
    description: ArtifactDescription
    package: Path
    sizes: Ranges

    def differences(self, seed: int = 1) -> list[float]:
        """At the smallest, the largest and three other sizes: the largest error of each output, by its largest number."""
        program, reference = Program.load(self.package), plain_session(ir.to_proto(self.hub))
        found: list[float] = []
        for share in (0.0, 0.05, 0.1, 0.5, 1.0):
            feed = feed_at(self.hub, {symbol: round(low + (high - low) * share) for symbol, (low, high) in self.sizes.items()}, seed)
            want = reference(feed)
            got = program.run({held.name: feed[held.hub_name].astype(held.dtype) for held in self.description.inputs})
            found += [_difference(got[held.name], want[held.hub_name]) for held in self.description.outputs]
        return found


def _difference(got: NDArray[np.generic], want: NDArray[np.generic]) -> float:
    assert got.shape == want.shape
    return float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-3))


def feed_at(hub: ir.Model, sizes: Mapping[str, int], seed: int = 1) -> dict[str, NDArray[np.generic]]:
    """Normal reals, integers from 0 to 7, and a "mask" that hides nothing, for the inputs at these sizes."""
    random = np.random.default_rng(seed)
    feed: dict[str, NDArray[np.generic]] = {}
    for value in hub.graph.inputs:
        shape = [size if isinstance(size, int) else sizes[str(size.value)] for size in value.shape or ()]
        is_real = value.dtype == ir.DataType.FLOAT
        feed[value.name or ""] = random.standard_normal(shape).astype(np.float32) if is_real else random.integers(0, 8, shape)
        if value.name == "mask":
            feed["mask"] = np.ones(shape, np.int64)
    return feed


def hub_of(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int | str]], constants: Mapping[str, object] = {}) -> ir.Model:
    """The canonical hub from ``inputs`` to "y", with symbols of RANGES."""
    captured = model(list(nodes), {name: list(shape) for name, shape in inputs.items()}, {"y": None}, _arrays(constants))
    random = np.random.default_rng(0)
    shapes = {name: [EXAMPLE.get(str(size), size) for size in shape] for name, shape in inputs.items()}
    return canonicalize(captured, {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}).model


def _arrays(constants: Mapping[str, object]) -> dict[str, NDArray[np.generic]]:
    return {name: held if isinstance(held, np.ndarray) else np.asarray(held, np.int64) for name, held in constants.items()}


def opened(
    hub: ir.Model, folder: Path, options: WriteOptions | None = None, ranges: Ranges = RANGES, example: Mapping[str, int] = EXAMPLE
) -> Opened:
    """The package of a hub whose symbols are all open."""
    used = {str(size.value) for value in hub.graph.inputs for size in value.shape or () if not isinstance(size, int)}
    sizes = {symbol: held for symbol, held in ranges.items() if symbol in used}
    ir.save(hub, folder / "hub.onnx")
    save_arrays(folder / "example.npz", feed_at(hub, example))
    options = with_probes(options or WriteOptions(scheme="fp32"), folder / "hub.onnx", "coreml", folder / "example.npz", sizes, folder)
    pinned = as_backend_wants(folder / "hub.onnx", "coreml", folder / "example.npz", folder)
    description = coreml.write(pinned, folder / "out", options)
    return Opened(hub, description, folder / "out" / description.file, sizes)
