"""The waterfall: every layer of an artifact against float64, and the first one at which a runtime departs from what it was given.

Three numbers say of each layer whose fault its error is. They are taken on the artifact's own values, so that an error made earlier is
not counted twice:

- ``sqnr_db``: the artifact's value against the float64 run of the student. All errors so far, the quantization's and the runtime's.
- ``own_db``: the artifact's value against what the unquantized hub makes, in float64, of the artifact's *own* inputs to this layer. This
  layer alone: rounded weights, rounded results. The layer with the smallest is where quantization costs most.
- ``runtime``: the artifact's value against what its *scheme's* hub (codes, scales and biases as written) makes of the same inputs in
  exact arithmetic. Nothing is left but the runtime and the converter. A layer departs when this exceeds what the arithmetic explains
  (``Departure``), and the first such layer is where to look for the bug.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import Arrays, load_arrays, save_arrays, stacked
from edgepack.backends.artifact import Binding
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Limits, Progress
from edgepack.devices.runner_process import Request, artifact_feed, hub_arrays, run_local
from edgepack.hub.canonical import plain_session
from edgepack.hub.reference import Float64Run
from edgepack.pack.manifest import ArtifactRecord
from edgepack.pack.run import refuse_other_files
from edgepack.quantize.scheme import Scheme
from edgepack.verify.judge import FLOAT32_ROUNDING_DB, SUMMATION_DB, WORST_DB, VerifyError
from edgepack.verify.metrics import non_finite, sqnr_db
from edgepack.verify.segments import Network, Segment, unrounded
from edgepack.verify.taps import as_on_hub, tapped

# Ten times the amplitude of what the arithmetic itself costs: kernels approximate exp, tanh or erf to about ten units in the last place.
# A wrong attribute, weight or layout costs far more (FACTS.md: a real bug showed as 80 dB where fp32 gives 112).
_MARGIN_DB = 20.0

# float16 has 13 bits of mantissa less than float32.
_FLOAT16_ROUNDING_DB = FLOAT32_ROUNDING_DB - 13 * 20 * math.log10(2)

# The nearest code is at most half a step away. Integer kernels add at most 0.4 (requantization; FACTS.md, "int8 parity"), float16
# ahead of a code of 8 bits 0.125.
_STEPS = 1.0

# What may differ among whole numbers that are no codes (indices of a maximum): ties in arithmetic that is not exact.
_UNEQUAL = 0.01


class Layer(msgspec.Struct, frozen=True):
    """One value of an artifact.

    Attributes:
        value: its name in the scheme's hub ("relu_1_quantized"); layer: the student's tensor it stands for ("relu_1"), "" for none.
        operators: what computes it from the values known before it ("Conv+Relu").
        sqnr_db, hub_sqnr_db: the artifact, and the scheme's hub simulated in float, against float64; None when exact or without reference.
        is_layer: whether every runtime has it; the others lie inside a layer that some runtimes fuse, and only their runtime is judged.
        own_db: what this layer alone costs; None when nothing, and for what is no layer.
        runtime: how far the runtime is from exact arithmetic; in "dB" (larger is better; None when exact), in code "steps" (at most half
            a step is rounding), or as the fraction of "unequal" whole numbers.
        limit: what ``runtime`` must reach, or may be.
        departs: whether it does not.
    """

    value: str
    layer: str
    operators: str
    is_layer: bool
    sqnr_db: float | None
    hub_sqnr_db: float | None
    own_db: float | None
    runtime: float | None
    unit: str
    limit: float
    departs: bool


class Waterfall(msgspec.Struct, frozen=True):
    """All layers of one artifact, in execution order.

    Attributes:
        expected: layers that the scheme's hub has for a runtime that fuses all it can; compared: of these, how many the artifact has.
        first: the first value that departs, "" when none does; costliest: the layer with the smallest ``own_db``, "" when all are exact.
    """

    target: str
    scheme: str
    runtime: str
    truth: str
    samples: int
    expected: int
    compared: int
    first: str
    costliest: str
    layers: tuple[Layer, ...]


def reference(hub: Path, golden: Path, samples: int, out: Path, progress: Progress) -> None:
    """Write 0.npz, 1.npz, ...: every value of the float hub in float64, inputs included, for each of the first golden samples."""
    network = _network(hub)
    run = Float64Run(network.with_outputs(network.values))
    for index, feed in enumerate(_feeds(golden, samples)):
        save_arrays(out / f"{index}.npz", {**feed, **run(feed)})
        progress(index + 1, samples)


def simulate(hub: Path, golden: Path, reference: Path, samples: int, out: Path, progress: Progress) -> None:
    """Write simulated.json: SQNR of every layer of a quantized hub, run node by node in float32, against ``reference``'s folder."""
    network = _network(hub)
    known = _Reference(reference.parent, samples)
    names = [name for name in network.layers if network.real_name(name, known.names)]
    run = plain_session(network.with_outputs(names))
    rows = []
    for index, feed in enumerate(_feeds(golden, samples)):
        rows.append(run(feed))
        progress(index + 1, samples)
    found = {name: _decibels(known.of(network, name), _real(network, name, array)) for name, array in stacked(rows).items()}
    (out / "simulated.json").write_bytes(msgspec.json.encode(found))


def trace(
    artifact: Path,
    float_hub: Path,
    scheme_hub: Path,
    golden: Path,
    reference: Path,
    record: dict[str, Any],
    samples: int,
    seconds: float,
    memory: int,
    out: Path,
    progress: Progress,
    simulated: Path | None = None,
) -> None:
    """Write waterfall.json: run a copy of the artifact that gives all it computes, and judge every layer.

    Args:
        artifact: its file or folder; record: fields of ``pack.manifest.ArtifactRecord``.
        scheme_hub: what the artifact was written from; ``float_hub`` itself for schemes without codes.
        reference: a file of the folder that ``reference`` wrote; simulated: what ``simulate`` wrote, for schemes with codes.
        seconds, memory: limits of the runner, the latter in bytes.
    """
    held = msgspec.convert(record, ArtifactRecord)
    refuse_other_files(artifact, held.runner)
    network = _network(scheme_hub)
    values, facts = _values_of(artifact, held, network, _first(golden, samples), Limits(seconds, memory))
    plain = network if scheme_hub == float_hub else _network(float_hub)
    known = _Reference(reference.parent, samples)
    tracer = _Tracer(network, plain, values, known, _arithmetic(held), msgspec.json.decode(simulated.read_bytes()) if simulated else {})
    layers = []
    for index, value in enumerate(values.tapped):
        layers.append(tracer.layer(value))
        progress(index + 1, len(values.tapped))
    expected = network.layers
    costs = [layer for layer in layers if layer.own_db is not None]
    waterfall = Waterfall(
        target=held.target,
        scheme=held.scheme,
        runtime=facts.runtime,
        truth=facts.truth,
        samples=samples,
        expected=len(expected),
        compared=sum(name in values.arrays for name in expected),
        first=next((layer.value for layer in layers if layer.departs), ""),
        costliest=min(costs, key=lambda layer: layer.own_db or 0.0).layer if costs else "",
        layers=tuple(layers),
    )
    (out / "waterfall.json").write_bytes(msgspec.json.encode(waterfall))


@dataclass(frozen=True)
class _Facts:
    runtime: str
    truth: str


@dataclass(frozen=True)
class _Values:
    """What is known of an artifact's run: its values and the graph's inputs by hub name, samples stacked, in the hub's layout and types.

    Attributes:
        tapped: the values that the artifact computed, in execution order.
    """

    arrays: Arrays
    tapped: tuple[str, ...]
    samples: int

    def feed(self, names: Collection[str], index: int) -> Arrays:
        """One sample of some of them."""
        return {name: self.arrays[name][index] for name in names}


class _Reference:
    """The float64 run on disk, one value at a time."""

    def __init__(self, folder: Path, samples: int) -> None:
        self._files = [np.load(folder / f"{index}.npz", allow_pickle=False) for index in range(samples)]
        self.names = frozenset(self._files[0].files)

    def of(self, network: Network, value: str) -> NDArray[Any] | None:
        """The float64 run of the tensor that ``value`` of a scheme's hub stands for, samples stacked."""
        name = network.real_name(value, self.names)
        return None if name is None else np.stack([held[name] for held in self._files])


def _network(path: Path) -> Network:
    from edgepack.hub.reading import load_model

    return Network(load_model(path))


def _first(golden: Path, samples: int) -> Arrays:
    return {name: array[:samples] for name, array in Samples.open(golden).arrays.items()}


def _feeds(golden: Path, samples: int) -> list[Arrays]:
    held = _first(golden, samples)
    return [{name: array[index] for name, array in held.items()} for index in range(samples)]


def _values_of(artifact: Path, record: ArtifactRecord, network: Network, inputs: Arrays, limits: Limits) -> tuple[_Values, _Facts]:
    """Run a tapped copy of the artifact in its runner's process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy = folder / artifact.name
        taps = tapped(record.runner, artifact, network, copy)
        save_arrays(folder / "inputs.npz", artifact_feed(inputs, record.inputs))
        request = Request("run", {"artifact": str(copy)}, str(folder / "inputs.npz"), str(folder / "outputs.npz"))
        response = run_local(record.runner, request, folder, limits)
        found = load_arrays(folder / "outputs.npz")
    values = _on_hub(network, found, taps)
    order = tuple(name for name in network.values if name in values)
    facts = _Facts(f"{response.runtime} {response.version}", response.truth)
    return _Values({**inputs, **values}, order, len(next(iter(inputs.values())))), facts


def _on_hub(network: Network, found: Mapping[str, NDArray[Any]], taps: tuple[Binding, ...]) -> Arrays:
    """What was tapped in the hub's layout and types."""
    dtypes = {name: network.dtype(name) for name in (binding.hub_name for binding in taps)}
    return {name: as_on_hub(array, dtypes[name]) for name, array in hub_arrays(found, taps).items()}


def _real(network: Network, value: str, array: NDArray[Any]) -> NDArray[Any]:
    """The real numbers of a value: codes are read with the hub's scale."""
    encoding = network.encoding(value)
    if encoding is None or array.dtype.kind == "f":
        return array
    return np.stack([encoding.dequantize(sample, "float64") for sample in array])


def _decibels(reference: NDArray[Any] | None, actual: NDArray[Any]) -> float | None:
    """SQNR as JSON holds it, where the reference is finite; None when exact, or when there is nothing to compare with."""
    if reference is None:
        return None
    if reference.shape != actual.shape:
        raise VerifyError(f"a value has shape {actual.shape[1:]} where the student has {reference.shape[1:]}", "build the pack again")
    finite = np.isfinite(reference.astype(np.float64))
    found = sqnr_db(reference[finite], actual[finite]) if finite.any() else math.inf
    return None if found == math.inf else max(found, WORST_DB)


def _arithmetic(record: ArtifactRecord) -> str:
    """What the artifact computes its reals in: "float32", or "float16" (also where only the weights are held so)."""
    activations = Scheme.parse(record.scheme).activations
    return "float16" if activations == "float16" or (record.runner == "mil" and record.scheme != "fp32") else "float32"


# SQNR that results of an arithmetic have at best, and how a segment is run in it; "dynamic": inputs of a layer in 8 bits.
_ROUGH = {
    "float32": (SUMMATION_DB, Segment.in_float32),
    "float16": (_FLOAT16_ROUNDING_DB, Segment.in_float16),
    "dynamic": (SUMMATION_DB, Segment.with_coarse_inputs),
}


@dataclass(frozen=True)
class _Judged:
    runtime: float | None
    unit: str
    limit: float
    departs: bool


class _Tracer:
    """Judges the values of one artifact."""

    def __init__(
        self,
        network: Network,
        plain: Network,
        values: _Values,
        known: _Reference,
        arithmetic: str,
        simulated: Mapping[str, float | None],
    ) -> None:
        self._network, self._plain, self._values, self._known = network, plain, values, known
        self._arithmetic, self._simulated = arithmetic, simulated
        self._layers = frozenset(network.layers)
        self._reals = self._real_layers()

    def layer(self, value: str) -> Layer:
        """Everything about one value."""
        real = _real(self._network, value, self._values.arrays[value])
        judged = self._departure(value)
        return Layer(
            value=value,
            layer=self._network.real_name(value, self._known.names) or "",
            operators=self._operators(value),
            is_layer=value in self._layers,
            sqnr_db=_decibels(self._known.of(self._network, value), real),
            hub_sqnr_db=self._simulated.get(value),
            own_db=self._own(value) if value in self._layers else None,
            runtime=judged.runtime,
            unit=judged.unit,
            limit=judged.limit,
            departs=judged.departs,
        )

    def _operators(self, value: str) -> str:
        """Of a layer as the student has it, of any other value as the scheme's hub does."""
        name = self._network.real_name(value, self._known.names)
        if value in self._layers and name is not None and name not in self._plain.inputs:
            return self._plain.segment(name, self._reals).operators
        return self._network.segment(value, self._values.arrays).operators

    def _real_layers(self) -> Arrays:
        """The layers by the float hub's names, as real numbers: what one layer hands to the next."""
        held = {name: self._values.arrays[name] for name in self._network.inputs}
        for value in self._values.tapped:
            name = self._network.real_name(value, self._known.names)
            if name is not None and value in self._layers:
                held[name] = _real(self._network, value, self._values.arrays[value])
        return held

    def _own(self, value: str) -> float | None:
        name = self._network.real_name(value, self._known.names)
        if name is None or name not in self._reals:
            return None
        if name in self._plain.inputs:
            return _decibels(self._values.arrays[name], self._reals[name])
        segment = self._plain.segment(name, self._reals)
        wanted = [segment.in_float64({key: self._reals[key][index] for key in segment.inputs}) for index in range(self._values.samples)]
        return _decibels(np.stack(wanted), self._reals[name])

    def _departure(self, value: str) -> _Judged:
        actual = self._values.arrays[value]
        encoding = self._network.encoding(value)
        if encoding is not None:
            return self._code_departure(value, actual)
        return self._real_departure(value, actual) if actual.dtype.kind == "f" else self._unequal(value, actual)

    def _code_departure(self, value: str, codes: NDArray[Any]) -> _Judged:
        """Codes lie within a step of the exact, unrounded result; each rounding inside may shift it by one more."""
        encoding, source = self._network.encoding(value), self._network.quantized_from(value)
        assert encoding is not None
        if source in self._values.arrays:
            exact, limit = self._values.arrays[source], _STEPS
        else:
            segment = self._network.segment(source, self._values.arrays)
            exact, limit = self._each(segment.in_float64, segment), _STEPS * (1 + segment.roundings)
        steps = [
            np.abs(mine - unrounded(encoding, real)).max(initial=0.0) for mine, real in zip(codes.astype(np.float64), exact, strict=True)
        ]
        worst = float(max(steps))
        return _Judged(worst, "steps", limit, worst > limit)

    def _real_departure(self, value: str, actual: NDArray[Any]) -> _Judged:
        segment = self._network.segment(value, self._values.arrays)
        exact = self._each(segment.in_float64, segment)
        found = _decibels(exact, actual)
        best, rough = _ROUGH["dynamic" if segment.is_dynamic else self._arithmetic]
        if found is None or found >= best - _MARGIN_DB:
            return _Judged(found, "dB", best - _MARGIN_DB, departs=False)
        explained = _decibels(exact, self._each(lambda feed: rough(segment, feed), segment))
        limit = max(min(best, best if explained is None else explained) - _MARGIN_DB, WORST_DB)
        overflows = non_finite(actual[np.isfinite(exact)]) > 0
        return _Judged(found, "dB", limit, overflows or (found is not None and found < limit))

    def _unequal(self, value: str, actual: NDArray[Any]) -> _Judged:
        segment = self._network.segment(value, self._values.arrays)
        exact = self._each(segment.in_float64, segment)
        fraction = float(np.mean(exact.astype(np.float64) != actual.astype(np.float64))) if actual.size else 0.0
        return _Judged(fraction, "unequal", _UNEQUAL, fraction > _UNEQUAL)

    def _each(self, run: Any, segment: Segment) -> NDArray[Any]:
        """A segment over every sample of the artifact's own values."""
        return np.stack([run(self._values.feed(segment.inputs, index)) for index in range(self._values.samples)])
