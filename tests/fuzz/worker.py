"""What happens to one drawn graph, in processes that share no framework: hub (onnxruntime), tflite, coreml and ort (the artifacts)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.conformance.worker import PASS, REFUSED, WRONG, Arrays, Result, booleans_as_int32, computed
from tests.fuzz.builder import Graph
from tests.fuzz.operators import graph_of
from tests.fuzz.oracle import DisagreementError, Expected, difference, expected, expected_codes

DISCARDED, DISPUTED = "discarded", "disputed"
SCHEMES = ("fp32", "w8a8")
# Samples that ranges are taken over, the feed among them.
_SAMPLES = 6
# The arithmetic of a format under w8a8, which is what its scales are rounded to as well.
ARITHMETIC = {"tflite": "float32", "tflite@2.14": "float32", "ort": "float32", "coreml": "float16"}


@dataclass(frozen=True)
class Job:
    """A graph to draw or, where ``model`` is given, one to take as it is.

    Attributes:
        folder: where the hub and the artifacts go.
        seed: what is drawn.
    """

    folder: str
    scheme: str
    seed: tuple[int, ...] = ()
    model: bytes = field(default=b"", repr=False)
    feed: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Prepared:
    """A graph brought to the hub: what it is, whether it got there, and what it should give each format."""

    result: Result
    job: Job
    operators: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter, repr=False)
    expected: dict[str, Expected] = field(default_factory=dict, repr=False)


def prepare(job: Job) -> Prepared:
    """Draw the graph, find what it should give, and write the hub. A crash of our own code is a Result, as for a format."""
    graph = Graph(onnx.load_from_string(job.model), job.feed) if job.model else graph_of(job.seed, job.scheme == "w8a8")
    if graph is None:
        return Prepared(Result(DISCARDED, "nothing to compute"), job)
    kept = Job(job.folder, job.scheme, job.seed, graph.model.SerializeToString(), graph.feed)
    try:
        onnx.checker.check_model(graph.model, full_check=True)
        wanted = expected(graph.model, graph.feed)
    except DisagreementError as error:
        return Prepared(Result(DISPUTED, str(error)), kept, tuple(graph.operators), graph.left_out)
    except Exception as error:
        return Prepared(Result(DISCARDED, f"{type(error).__name__}: {error}"[:300]), kept, tuple(graph.operators), graph.left_out)
    result, by_format = _guarded(graph, wanted, kept)
    return Prepared(result, kept, tuple(graph.operators), graph.left_out, by_format)


def _guarded(graph: Graph, wanted: Expected, job: Job) -> tuple[Result, dict[str, Expected]]:
    from tests.conformance.worker import answer

    found: dict[str, Expected] = {}

    def work(_: Job) -> Result:
        found.update(_static(graph, job) if job.scheme == "w8a8" else _real(graph, wanted, job))
        return Result(PASS)

    return answer(work, job), found


def _real(graph: Graph, wanted: Expected, job: Job) -> dict[str, Expected]:
    """hub.onnx, and hub_int32.onnx with booleans at its ends as int32."""
    import onnx_ir as ir

    from edgepack.hub.canonical import canonicalize

    model = ir.to_proto(canonicalize(graph.model, graph.feed).model)
    _save(model, job, "hub.onnx")
    _save(booleans_as_int32(model), job, "hub_int32.onnx")
    return dict.fromkeys(ARITHMETIC, wanted)


def _static(graph: Graph, job: Job) -> dict[str, Expected]:
    """The hub calibrated and quantized by our own rooms, once with float32 and once with float16 scales."""
    import onnx_ir as ir

    from edgepack.calibration.observe import observe
    from edgepack.calibration.readers import Samples
    from edgepack.hub.canonical import canonicalize
    from edgepack.quantize.apply import quantize_static
    from edgepack.quantize.constraints import Demands

    hub = canonicalize(graph.model, graph.feed).model
    random = np.random.default_rng(0)
    arrays = {
        name: np.stack([array, *(array.std() * random.standard_normal((_SAMPLES - 1, *array.shape))).astype(array.dtype)])
        for name, array in graph.feed.items()
    }
    ranges = observe(ir.to_proto(hub), Samples(arrays), lambda done, total: None)
    found: dict[str, Expected] = {}
    for arithmetic in dict.fromkeys(ARITHMETIC.values()):
        quantized, _ = quantize_static(hub, ranges, Demands(arithmetic))
        model = ir.to_proto(quantized)
        onnx.checker.check_model(model, full_check=True)
        _save(model, job, f"hub_{arithmetic}.onnx")
        wanted = expected_codes(model, graph.feed, arithmetic)
        found.update({name: wanted for name, held in ARITHMETIC.items() if held == arithmetic})
    return found


def _save(model: onnx.ModelProto, job: Job, name: str) -> None:
    onnx.save(model, Path(job.folder) / name)


@dataclass(frozen=True)
class Trial:
    """One prepared graph and one format to try it in."""

    job: Job
    expected: Expected


def _try(trial: Trial, format_name: str, backend: Any, load: Any, runtime: str = "") -> Result:
    scheme = trial.job.scheme
    boundary = "hub_int32.onnx" if format_name == "coreml" else "hub.onnx"
    hub = boundary if scheme == "fp32" else f"hub_{ARITHMETIC[format_name]}.onnx"
    given = computed(Path(trial.job.folder), hub, trial.job.feed, backend, load, scheme, runtime)
    return given if isinstance(given, Result) else judge(given.outputs, trial.expected)


def judge(given: Arrays, wanted: Expected) -> Result:
    """Pass, or wrong with the first output that differs."""
    reasons = (f"{name}: {why}" for name, held in wanted.outputs.items() if (why := difference(given[name], held, wanted.tolerance[name])))
    reason = next(reasons, "")
    return Result(WRONG, reason) if reason else Result(PASS)


def tflite(trial: Trial) -> Result:
    """The graph as a .tflite file in LiteRT."""
    from edgepack.backends import tflite as backend
    from edgepack.runner.litert import LiteRTSession

    return _try(trial, "tflite", backend, lambda path: LiteRTSession(path, 1))


def tflite_2_14(trial: Trial) -> Result:
    """The graph as a .tflite file for TensorFlow Lite 2.14, in that."""
    from edgepack.backends import tflite as backend
    from tests.old_runtime import RUNTIME, OldSession

    return _try(trial, "tflite@2.14", backend, OldSession, RUNTIME)


def coreml(trial: Trial) -> Result:
    """The graph as an .mlpackage in the MIL interpreter."""
    from edgepack.backends import coreml as backend
    from edgepack.runner.mil import MilSession

    return _try(trial, "coreml", backend, MilSession)


def ort(trial: Trial) -> Result:
    """The graph as an .onnx artifact in onnxruntime with its optimizations.

    A build gives no fp32 artifact of a student with codes of its own. Onnxruntime's would be the student itself, and its optimizer (1.32)
    breaks some: it makes int8 codes uint8 when it moves a DequantizeLinear, and leaves a QuantizeLinear that says int8.
    """
    import onnx_ir as ir

    from edgepack.backends.ort import write as backend
    from edgepack.quantize.placement import carries_codes
    from edgepack.runner.ort import OrtSession

    if trial.job.scheme == "fp32" and carries_codes(ir.load(Path(trial.job.folder) / "hub.onnx").graph):
        return Result(REFUSED, "the student carries codes of its own")
    return _try(trial, "ort", backend, lambda path: OrtSession(path, 1))


WORK = {"tflite": tflite, "coreml": coreml, "ort": ort, "tflite@2.14": tflite_2_14}
# Those that every machine can have.
FORMATS = tuple(name for name in WORK if "@" not in name)
