"""What a manifest says of itself that cannot be true together. Pure: no files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgepack.backends.artifact import Binding
from edgepack.pack.manifest import Accuracy, ArtifactRecord, Estimate, FileRecord, Latency, Measurement, Pack
from edgepack.student.spec import ImagePreprocessing, TensorSpec

_RUNNERS = frozenset({"ort", "litert", "tflite_runtime", "mil"})
# Numbers a sample of pixels may have: 3344 x 3344 in RGB, 134 MB as float32.
_LARGEST_SAMPLE = 2**25
# No file is larger; integers of JSON have no end.
_MOST_BYTES = 2**63


def contradictions(pack: Pack) -> Iterator[str]:
    """Each as a phrase; none for a manifest that edgepack wrote."""
    student = pack.student
    if not student.inputs or not student.outputs:
        yield "the student has no input or no output"
    yield from _tensors(student.inputs, "input")
    yield from _tensors(student.outputs, "output")
    for symbol, (low, high) in (*student.sizes.items(), *(held for artifact in pack.artifacts for held in artifact.sizes.items())):
        if not 1 <= low <= high < _MOST_BYTES:
            yield f"size '{symbol}' is open from {low} to {high}"
    if student.preprocessing is not None:
        yield from _preprocessing(student.preprocessing)
    for record in (pack.golden_inputs, pack.golden_outputs, pack.golden_reference, *(hub.file for hub in pack.hubs)):
        yield from _file(record)
    for artifact in pack.artifacts:
        yield from _artifact(artifact, pack)


def contradictions_of_measurement(measurement: Measurement) -> Iterator[str]:
    """The same of one measurement."""
    if not measurement.parity.outputs:
        yield "it was compared in no output"
    if not 0 <= (measurement.memory_peak_bytes or 0) < _MOST_BYTES:
        yield "its memory is no number of bytes"
    latency = measurement.latency
    if latency is None:
        return
    if not (0 < latency.samples < _MOST_BYTES and 0 < latency.threads < _MOST_BYTES):
        yield "its latency is of no samples, or of no threads"
    yield from _latency(latency, "its latency")
    for estimate in (latency.p50, latency.p90, latency.p99):
        if estimate is not None and not _is_time(estimate):
            yield "its latency has an interval that does not hold its value"


def _is_time(held: Estimate) -> bool:
    return 0 <= held.low <= held.value <= held.high


def _tensors(specs: Sequence[TensorSpec], kind: str) -> Iterator[str]:
    if len({spec.name for spec in specs}) < len(specs):
        yield f"two {kind}s of the student have one name"
    for spec in specs:
        if not _is_dtype(spec.dtype or "float32"):
            yield f"{kind} '{spec.name}' of the student is of type '{spec.dtype}'"
        if any(isinstance(size, int) and size < 0 for size in spec.shape or ()):
            yield f"{kind} '{spec.name}' of the student has a negative size"


def _preprocessing(held: ImagePreprocessing) -> Iterator[str]:
    if held.height * held.width * held.channels > _LARGEST_SAMPLE:
        yield f"images become {held.height} x {held.width} pixels, too many for a student"
    if not all(map(math.isfinite, (*held.mean, *held.std))):
        yield "its mean or std is not finite"


def _file(record: FileRecord) -> Iterator[str]:
    if not 0 <= record.bytes < _MOST_BYTES or not record.path:
        yield f"file '{record.path}' has {record.bytes} bytes"


def _artifact(artifact: ArtifactRecord, pack: Pack) -> Iterator[str]:
    name = f"artifact {artifact.target} {artifact.scheme}"
    yield from _file(artifact.file)
    if artifact.runner not in _RUNNERS:
        yield f"{name} has runner '{artifact.runner}'"
    yield from _ports(artifact.inputs, pack.student.inputs, f"{name}, inputs")
    yield from _ports(artifact.outputs, pack.student.outputs, f"{name}, outputs")
    if not artifact.parity.outputs:
        yield f"{name} was compared in no output"
    if artifact.accuracy is not None:
        yield from _accuracy(artifact.accuracy, name)
    if artifact.latency is not None:
        yield from _latency(artifact.latency, name)


def _ports(bindings: Sequence[Binding], specs: Sequence[TensorSpec], where: str) -> Iterator[str]:
    if sorted(held.hub_name for held in bindings) != sorted(spec.name for spec in specs):
        yield f"{where}: they are not the student's"
    if len({held.name for held in bindings}) < len(bindings):
        yield f"{where}: two have one name"
    for held in bindings:
        if not _is_dtype(held.dtype):
            yield f"{where}: '{held.name}' is of type '{held.dtype}'"
        rank = next((len(spec.shape or ()) for spec in specs if spec.name == held.hub_name), 0)
        if held.permutation and sorted(held.permutation) != list(range(rank)):
            yield f"{where}: '{held.name}' permutes axes {list(held.permutation)} of {rank}"


def _is_dtype(name: str) -> bool:
    """Whether it is numpy's own name of a type of numbers."""
    return name in _DTYPES


_DTYPES = frozenset(np.dtype(code).name for code in "?bBhHiIqQefd")


def _accuracy(held: Accuracy, name: str) -> Iterator[str]:
    """Fractions of 1."""
    fractions = (held.value.value, held.value.low, held.value.high, held.student, held.agreement)
    if not all(0 <= each <= 1 for each in fractions):
        yield f"{name}: an accuracy is no fraction of 1"


def _latency(held: Latency, name: str) -> Iterator[str]:
    edges = held.histogram_edges_ms
    if held.histogram_counts and (len(edges) != len(held.histogram_counts) + 1 or any(count < 0 for count in held.histogram_counts)):
        yield f"{name}: its histogram has {len(edges)} edges for {len(held.histogram_counts)} counts"
    if any(not math.isfinite(edge) for edge in edges) or list(edges) != sorted(edges):
        yield f"{name}: the edges of its histogram do not rise"
