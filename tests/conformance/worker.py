"""What happens to one case, in three kinds of process that share no framework: hub (onnxruntime), tflite (LiteRT), coreml (coremltools).

A worker serves many cases; the driver ends it when a case exceeds its time and starts another when it dies.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import EdgepackError, one_line

PASS, REFUSED, WRONG, CRASH = "pass", "refused", "wrong", "crash"
OUTCOMES = (PASS, REFUSED, WRONG, CRASH)
LOG = "log"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """One form of one case.

    Attributes:
        folder: holds model.onnx; the hub and the artifacts go there.
        feed: run-time inputs by name.
        expected: the case's own outputs by name.
    """

    name: str
    folder: str
    rtol: float
    atol: float
    feed: dict[str, NDArray[Any]] = field(repr=False)
    expected: dict[str, NDArray[Any]] = field(repr=False)


@dataclass(frozen=True)
class Result:
    """What became of a job: one of ``OUTCOMES`` and, unless it passed, why in one line."""

    outcome: str
    reason: str = ""


def serve(work: Callable[[Any], Any], folder: str, connection: Connection) -> None:
    """Answer jobs until the driver closes the pipe. What frameworks print goes to ``log`` in the folder, as do their temporary files."""
    os.environ.update(ORT_DISABLE_TELEMETRY="1", OMP_NUM_THREADS="1", TMPDIR=folder)
    tempfile.tempdir = folder
    sink = os.open(Path(folder) / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(answer(work, job))


def answer(work: Callable[[Any], Any], job: Any) -> Any:
    """A refusal is an EdgepackError from writing; every other exception is a crash."""
    try:
        return work(job)
    except EdgepackError as error:
        return Result(REFUSED, error.cause)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Result(CRASH, f"{one_line(error)} ({Path(frame.filename).name}:{frame.lineno})")


def prepare(job: Job) -> Result:
    """Bring model.onnx to the hub's canonical form: hub.onnx, and hub_int32.onnx with every boolean input and output as int32."""
    import onnx
    import onnx_ir as ir

    from edgepack.hub.canonical import canonicalize

    folder = Path(job.folder)
    hub = canonicalize(onnx.load(folder / "model.onnx"), job.feed)
    model = ir.to_proto(hub.model)
    onnx.save(model, folder / "hub.onnx")
    onnx.save(booleans_as_int32(model), folder / "hub_int32.onnx")
    return Result(PASS)


def booleans_as_int32(model: Any) -> Any:
    """A copy whose boolean inputs and outputs are int32, cast just inside the boundary."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    ends = [(value, value in list(graph.input)) for value in (*graph.input, *graph.output)]
    booleans = [(value, is_input) for value, is_input in ends if value.type.tensor_type.elem_type == TensorProto.BOOL]
    inner = {value.name: f"{value.name}/bool" for value, _ in booleans}
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    for value, is_input in booleans:
        held = graph.value_info.add()
        held.CopyFrom(value)
        held.name = inner[value.name]
        value.type.tensor_type.elem_type = TensorProto.INT32
        if is_input:
            graph.node.insert(0, helper.make_node("Cast", [value.name], [held.name], f"in/{value.name}", to=TensorProto.BOOL))
        else:
            graph.node.append(helper.make_node("Cast", [held.name], [value.name], f"out/{value.name}", to=TensorProto.INT32))
    return copy


def convert(job: Job, hub: str, backend: Any, load: Callable[[str], Any], runtime: str = "") -> Result:
    """Write an artifact, lint it, read it back, run it and compare with the case's own outputs."""
    given = computed(Path(job.folder), hub, job.feed, backend, load, runtime=runtime)
    if isinstance(given, Result):
        return given
    expected = {name: _without_infinities(wanted) if given.clamps else wanted for name, wanted in job.expected.items()}
    reasons = [_difference(name, given.outputs[name], wanted, job) for name, wanted in expected.items()]
    if any(reasons) and not given.clamps and _is_nearer_to_float64(given.outputs, job):
        return Result(PASS)
    return next((Result(WRONG, reason) for reason in reasons if reason), Result(PASS))


# A sum of 2^8 float32 numbers is off by at most 2^8 * 2^-24 = 1.5e-5 of the largest; expected outputs further from float64 are no rounding.
_ROUNDING = 1e-5


def _is_nearer_to_float64(outputs: Arrays, job: Job) -> bool:
    """Whether the case's own output is float64's but for rounding, and what was given is float64's within the case's tolerance.

    An output that is exactly 0 holds in a case what float32 left of a sum (1.9e-7), which no other order of adding leaves.
    """
    import onnx

    from edgepack.hub.reference import Float64Run

    try:
        truth = Float64Run(onnx.load(Path(job.folder) / "model.onnx"))(job.feed)
    except EdgepackError:
        return False
    is_rounding = all(np.allclose(wanted, truth[name], 0, _ROUNDING * np.abs(truth[name]).max()) for name, wanted in job.expected.items())
    return is_rounding and all(not _difference(name, outputs[name], truth[name], job) for name in job.expected)


@dataclass(frozen=True)
class Computed:
    """What an artifact answers, by hub output name, and whether it says that it clamps infinities."""

    outputs: dict[str, NDArray[Any]]
    clamps: bool


def computed(
    folder: Path,
    hub: str,
    feed: Arrays,
    backend: Any,
    load: Callable[[str], Any],
    scheme: str = "fp32",
    runtime: str = "",
    minimum_os: str = "",
) -> Computed | Result:
    """Write an artifact of ``folder / hub``, lint it, read it back and run it; a Result when that fails after writing."""
    from edgepack.backends.artifact import WriteOptions

    described = backend.write(folder / hub, folder, WriteOptions(scheme, minimum_os=minimum_os, runtime=runtime))
    try:
        findings = [finding for finding in backend.lint(folder / described.file) if finding.level == "error"]
        if findings:
            return Result(WRONG, f"lint: {findings[0].where}: {findings[0].message}")
        session = load(str(folder / described.file))
        session.set_inputs({held.name: feed[held.hub_name].astype(held.dtype) for held in described.inputs})
        session.invoke()
        results = session.outputs()
    except EdgepackError as error:
        # Only writing may refuse: what was written must run.
        return Result(CRASH, f"written, then: {error.cause}")
    outputs = {held.hub_name: results[held.name] for held in described.outputs}
    return Computed(outputs, any(_CLAMPED in note for note in described.notes))


# How an artifact's notes say that an infinite mask was stored as the largest number (Core ML: infinite constants become NaN in kernels).
_CLAMPED = "clamped to"


def _without_infinities(wanted: NDArray[Any]) -> NDArray[Any]:
    """What a clamped mask gives where the case has an infinity."""
    if wanted.dtype.kind != "f":
        return wanted
    limit = np.finfo(wanted.dtype).max
    return np.asarray(np.where(np.isinf(wanted), np.copysign(limit, wanted), wanted), wanted.dtype)


def _difference(name: str, given: NDArray[Any], wanted: NDArray[Any], job: Job) -> str:
    """How a result differs from the expected one, "" when it is within the case's tolerance; whole numbers and booleans must be equal."""
    if given.shape != wanted.shape:
        return f"{name} has shape {given.shape}, not {wanted.shape}"
    if wanted.dtype.kind != "f":
        count = int(np.sum(given.astype(np.int64) != wanted.astype(np.int64)))
        return f"{name}: {count} of {wanted.size} differ" if count else ""
    close = np.isclose(given, wanted, rtol=job.rtol, atol=job.atol, equal_nan=True)
    if close.all():
        return ""
    at = int(np.flatnonzero(~close.ravel())[0])
    return f"{name}: {int((~close).sum())} of {wanted.size} differ, first {given.ravel()[at]!s} for {wanted.ravel()[at]!s}"


def tflite(job: Job) -> Result:
    from edgepack.backends import tflite as backend
    from edgepack.runner.litert import LiteRTSession

    return convert(job, "hub.onnx", backend, lambda path: LiteRTSession(path, 1))


def tflite_2_14(job: Job) -> Result:
    from edgepack.backends import tflite as backend
    from tests.old_runtime import RUNTIME, OldSession

    return convert(job, "hub.onnx", backend, OldSession, RUNTIME)


def coreml(job: Job) -> Result:
    from edgepack.backends import coreml as backend
    from edgepack.runner.mil import MilSession

    return convert(job, "hub_int32.onnx", backend, MilSession)


WORK: dict[str, Callable[[Job], Result]] = {"hub": prepare, "tflite": tflite, "tflite@2.14": tflite_2_14, "coreml": coreml}
