"""What happens to one architecture, in kinds of process that share no framework: captured (torch), hub (onnxruntime), tflite, coreml."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.conformance.worker import CRASH, PASS, WRONG, Arrays, Result, computed

# A conversion may differ from onnxruntime's own fp32 by a reordered sum, 3 dB of power, or be as exact as fp32 gets over a few layers.
FP32_BELOW_ORT_DB = 3.0
FP32_EXACT_DB = 110.0
# Core ML in fp16: 11 significant bits are 66 dB an operation, less the growth over a network (FACTS: 50 to 62 dB).
FP16_DB = 40.0


@dataclass(frozen=True)
class Job:
    """One architecture in a folder; ``scheme`` says in which precision it is written, ``minimum_os`` for which system ("" for any)."""

    name: str
    folder: str
    scheme: str = "fp32"
    minimum_os: str = ""


@dataclass(frozen=True)
class Outcome(Result):
    """A result with the lowest SQNR in dB over outputs and both inputs, None where nothing ran.

    Attributes:
        attentions: how many are one operation of Core ML (iOS 18).
    """

    sqnr_db: float | None = None
    attentions: int = 0


@dataclass(frozen=True)
class Hub(Result):
    """What a hub is: its operators, and onnxruntime's own lowest SQNR against float64."""

    operators: tuple[str, ...] = ()
    sqnr_db: float | None = None
    truths: list[dict[str, Any]] = field(default_factory=list, repr=False)


def capture(job: Job) -> Result:
    """Write captured.onnx and feeds.pkl through the product's own capture."""
    import torch

    from edgepack.student.program import Student
    from tests.zoo.registry import architecture

    made = architecture(job.name).made()
    example = tuple(torch.from_numpy(array) for array in made.feeds[0].values())
    student = Student(made.module, example, inputs=list(made.feeds[0]))
    folder = Path(job.folder)
    student.program.capture(folder / "captured.onnx")
    (folder / "feeds.pkl").write_bytes(pickle.dumps(made.feeds))
    return Result(PASS)


def prepare(job: Job) -> Hub:
    """Write hub.onnx and, for the other processes, the float64 truth and onnxruntime's answers."""
    import onnx
    import onnx_ir as ir

    from edgepack.hub.canonical import canonicalize, run_plain
    from edgepack.hub.reference import Float64Run

    folder = Path(job.folder)
    feeds = pickle.loads((folder / "feeds.pkl").read_bytes())
    captured = onnx.load(folder / "captured.onnx")
    hub = canonicalize(captured, feeds[0]).model
    onnx.save(ir.to_proto(hub), folder / "hub.onnx")
    truth = Float64Run(captured)
    truths = [truth(feed) for feed in feeds]
    quality = min(_quality(wanted, run_plain(captured, feed)) for wanted, feed in zip(truths, feeds, strict=True))
    (folder / "truths.pkl").write_bytes(pickle.dumps(truths))
    return Hub(PASS, "", tuple(sorted({node.op_type for node in hub.graph})), quality)


def tflite(job: Job) -> Result:
    """The hub as a .tflite file in LiteRT."""
    from edgepack.backends import tflite as backend
    from edgepack.runner.litert import LiteRTSession

    return _tried(job, backend, lambda path: LiteRTSession(path, 1))


def coreml(job: Job) -> Result:
    """The hub as an .mlpackage in our interpreter of MIL."""
    from edgepack.backends import coreml as backend
    from edgepack.runner.mil import MilSession

    result = _tried(job, backend, MilSession)
    if not isinstance(result, Outcome):
        return result
    operations = MilSession(str(Path(job.folder) / "model.mlpackage")).describe()["operations"]
    return replace(result, attentions=operations.get("scaled_dot_product_attention", 0))


def _tried(job: Job, backend: Any, load: Any) -> Result:
    folder = Path(job.folder)
    feeds, truths = (pickle.loads((folder / name).read_bytes()) for name in ("feeds.pkl", "truths.pkl"))
    qualities = []
    for feed, wanted in zip(feeds, truths, strict=True):
        given = computed(folder, "hub.onnx", feed, backend, load, job.scheme, minimum_os=job.minimum_os)
        if isinstance(given, Result):
            return given
        qualities.append(_quality(wanted, given.outputs))
    return Outcome(PASS, "", min(qualities))


def _quality(wanted: Arrays, given: Arrays) -> float:
    from edgepack.verify.metrics import sqnr_db

    return min(sqnr_db(truth, given[name]) for name, truth in wanted.items())


def judged(outcome: Result, scheme: str, ort_db: float) -> Result:
    """Whether what was computed is within the bar of its precision."""
    if not isinstance(outcome, Outcome) or outcome.sqnr_db is None:
        return outcome
    floor = FP16_DB if scheme == "fp16" else min(ort_db - FP32_BELOW_ORT_DB, FP32_EXACT_DB)
    if math.isfinite(outcome.sqnr_db) or outcome.sqnr_db > 0:
        reason = "" if outcome.sqnr_db >= floor else f"{outcome.sqnr_db:.1f} dB, {floor:.1f} dB needed"
        return replace(outcome, outcome=WRONG if reason else PASS, reason=reason)
    return Outcome(WRONG, "not finite", outcome.sqnr_db)


__all__ = ["CRASH", "Hub", "Job", "Outcome", "capture", "coreml", "judged", "prepare", "tflite"]
