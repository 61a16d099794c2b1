"""Steps of verification: run an artifact as it lies on disk, and judge what it answered."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.arrays import Arrays, load_arrays, save_arrays
from edgepack.backends.artifact import ArtifactDescription
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Limits, Progress
from edgepack.devices.runner_process import Request, artifact_feed, hub_arrays, run_local
from edgepack.errors import InputError, one_line
from edgepack.hub.canonical import plain_session
from edgepack.pack.manifest import NOTHING_MEASURED, Accuracy, Metric, Parity, SizeParity
from edgepack.quantize.constraints import Constraints
from edgepack.quantize.scheme import Scheme
from edgepack.student.load import load_function
from edgepack.targets import Target
from edgepack.verify.judge import HALF_PRECISION_DB, ParityBudget, Runs, accuracy, judge_accuracy, judge_parity, names_classes, parity
from edgepack.verify.masks import segmentation_accuracy
from edgepack.verify.sized import size_failures, size_parity
from edgepack.verify.unlabelled import agreement_with_student


class RunFacts(msgspec.Struct, frozen=True):
    """What ran an artifact: runtime with version, truth kind, what the loaded session says of itself, and parity at open sizes."""

    runtime: str
    truth: str
    session: dict[str, Any]
    size_parity: tuple[SizeParity, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """What verification found; ``failures`` is empty when the artifact passed; ``notes`` are what a reader must know besides."""

    parity: Parity
    accuracy: Accuracy | None
    metrics: tuple[Metric, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()


class MetricError(InputError):
    """A user's metric that cannot be computed."""


def run(
    artifact: Path,
    file: Path,
    golden: Path,
    seconds: float,
    memory: int,
    scheme: str,
    out: Path,
    progress: Progress,
    evaluation: Path | None = None,
    model: Path | None = None,
) -> None:
    """Run an artifact on the golden and the evaluation samples, one runner for both.

    Writes golden.npz and evaluation.npz (outputs in the student's names and layouts, samples stacked) and run.json.

    Args:
        artifact: artifact.json; file: the artifact itself.
        seconds, memory: limits of the runner, the latter in bytes.
        scheme: the artifact's; model: the hub that it was written from, which an artifact with open sizes is compared with.
    """
    described = msgspec.json.decode(artifact.read_bytes(), type=ArtifactDescription)
    sets = {"golden": Samples.open(golden)}
    if evaluation is not None:
        sets["evaluation"] = Samples.open(evaluation)
    joined = {name: np.concatenate([held.arrays[name] for held in sets.values()]) for name in sets["golden"].arrays}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_arrays(folder / "inputs.npz", artifact_feed(joined, described.inputs))
        files = {"artifact": str(file)}
        request = Request(
            "run", files, str(folder / "inputs.npz"), str(folder / "outputs.npz"), state=described.state, starts=(sets["golden"].count,)
        )
        response = run_local(described.runner, request, folder, Limits(seconds, memory), progress)
        outputs = hub_arrays(load_arrays(folder / "outputs.npz"), described.outputs)
    start = 0
    for kind, held in sets.items():
        save_arrays(out / f"{kind}.npz", {name: array[start : start + held.count] for name, array in outputs.items()})
        start += held.count
    kept = sets["golden"].arrays
    sized = _size_parity(scheme, described, file, model, kept, Limits(seconds, memory)) if described.sizes and model is not None else ()
    facts = RunFacts(f"{response.runtime} {response.version}", response.truth, response.session, sized)
    (out / "run.json").write_bytes(msgspec.json.encode(facts))


def _size_parity(
    scheme: str, described: ArtifactDescription, file: Path, model: Path, golden: Arrays, limits: Limits
) -> tuple[SizeParity, ...]:
    import onnx

    def artifact(feed: dict[str, NDArray[Any]]) -> Arrays:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            save_arrays(folder / "inputs.npz", artifact_feed({name: array[None] for name, array in feed.items()}, described.inputs))
            request = Request("run", {"artifact": str(file)}, str(folder / "inputs.npz"), str(folder / "outputs.npz"))
            run_local(described.runner, request, folder, limits)
            answers = hub_arrays(load_arrays(folder / "outputs.npz"), described.outputs)
        return {name: array[0] for name, array in answers.items()}

    return size_parity(Scheme.parse(scheme), described, golden, artifact, plain_session(onnx.load(model)))


def judge(
    run: Path,
    golden: Path,
    golden_outputs: Path,
    golden_reference: Path,
    target: dict[str, Any],
    scheme: str,
    metrics: list[str],
    out: Path,
    progress: Progress,
    by_student: bool = False,
    simulated: Path | None = None,
    constraints: Path | None = None,
    evaluation: Path | None = None,
    evaluation_outputs: Path | None = None,
    student_evaluation: Path | None = None,
) -> None:
    """Write verdict.json.

    Args:
        run: run.json; golden: the artifact's outputs on the golden samples; golden_outputs, golden_reference: the student's in its own
            precision and in float64; simulated: the quantized hub's; constraints: its encodings.
        evaluation: the evaluation samples; evaluation_outputs: the artifact's outputs on them; student_evaluation: the student's.
        target: fields of ``targets.Target``.
        metrics: "file.py:function" of the user's own metrics.
        by_student: whether the student's own classes stand in for labels.
    """
    goal = msgspec.convert(target, Target)
    facts = msgspec.json.decode(run.read_bytes(), type=RunFacts)
    own_codes = constraints is not None and msgspec.json.decode(constraints.read_bytes(), type=Constraints).adopted
    runs = Runs(load_arrays(golden_reference), load_arrays(golden_outputs), load_arrays(simulated) if simulated else None, own_codes)
    reach = HALF_PRECISION_DB if goal.constraints.scale_dtype == "float16" else math.inf
    budget = ParityBudget(goal.budgets.fp32_below_student_db, goal.budgets.quantized_below_hub_db, reach)
    found = parity(Scheme.parse(scheme), load_arrays(golden), runs, budget, facts.truth)  # type: ignore[arg-type]
    failures = judge_parity(found, goal.name, scheme) + size_failures(facts.size_parity, goal.name, scheme)
    counted: Accuracy | None = None
    measured: tuple[Metric, ...] = ()
    if evaluation and evaluation_outputs and student_evaluation:
        held = Held(Samples.open(evaluation), load_arrays(evaluation_outputs), load_arrays(student_evaluation))
        counted = _by_student(held) if by_student else _accuracy(held, metrics)
        measured = tuple(_metric(name, held) for name in metrics)
    if counted is not None:
        failures += judge_accuracy(counted, goal.budgets.drop_points(counted.metric), goal.name, scheme)
    notes = (NOTHING_MEASURED,) if evaluation and counted is None and not measured else ()
    (out / "verdict.json").write_bytes(msgspec.json.encode(Verdict(found, counted, measured, failures, notes)))
    progress(1, 1)


class Held:
    """The evaluation set with what the artifact and the student answered on it."""

    def __init__(self, samples: Samples, artifact: Arrays, student: Arrays) -> None:
        self.samples, self.artifact, self.student = samples, artifact, student


def _accuracy(held: Held, metrics: Sequence[str]) -> Accuracy | None:
    """Mean IoU where the labels are masks, else top-1 accuracy of the first output.

    None without labels, or when that output is neither a class nor one row of class scores a sample: of a single score (a logit, a
    probability, an estimate) nobody said where it parts two classes. Masks that no output fits are refused, unless the
    user has metrics of their own that may know what to do with them.
    """
    labels, name = held.samples.labels, next(iter(held.student))
    scores = held.student[name]
    if labels is None:
        return None
    if labels.ndim > 1:
        return _segmentation(held, labels, metrics)
    is_row = scores.ndim > 1 and len(scores) < scores.size == len(scores) * scores.shape[-1]
    if not is_row and not names_classes(scores):
        return None
    return accuracy(held.artifact[name], scores, labels)


def _by_student(held: Held) -> Accuracy | None:
    """Agreement of the first output with the student's own classes; MetricError when it is no row of real-valued scores a sample."""
    name, scores = next(iter(held.student.items()))
    if scores.ndim < 2 or scores.size != len(scores) * scores.shape[-1] or not np.issubdtype(scores.dtype, np.floating):
        raise MetricError(
            f"output '{name}' {scores.dtype}{list(scores.shape[1:])} names no class: no row of scores a sample",
            "leave out labels_of_student, or measure with --metric",
        )
    return agreement_with_student(held.artifact[name], scores)


def _segmentation(held: Held, masks: NDArray[Any], metrics: Sequence[str]) -> Accuracy | None:
    found = segmentation_accuracy(held.artifact, held.student, masks)
    if found is None and not metrics:
        given = ", ".join(f"{name} {array.shape[1:]}" for name, array in held.student.items())
        raise MetricError(
            f"the evaluation masks are {masks.shape[1:]} and no output has a class, or one score a class, for every pixel ({given})",
            "let the student give its scores at the masks' size, or measure with --metric",
        )
    return found


def _metric(spec: str, held: Held) -> Metric:
    """A user's function(outputs, labels) -> float on the artifact's outputs and on the student's."""
    file, _, function = spec.rpartition(":")
    measure = load_function(Path(file), function)
    values = [_number(measure, outputs, held.samples, spec) for outputs in (held.artifact, held.student)]
    return Metric(function, *values)


def _number(measure: Any, outputs: Arrays, samples: Samples, spec: str) -> float:
    try:
        value = float(measure(outputs, samples.labels))
    except Exception as error:
        raise MetricError(
            f"metric {spec} raised {one_line(error)}", "it is called with (outputs by name, labels) and returns a number"
        ) from error
    if not np.isfinite(value):
        raise MetricError(f"metric {spec} is {value}", "return a finite number")
    return value


def refuse_metrics_without_data(metrics: Sequence[str], has_evaluation: bool) -> None:
    """MetricError when metrics were asked for and there is nothing to measure them on, before any work."""
    if metrics and not has_evaluation:
        raise MetricError(f"metric {metrics[0]} needs an evaluation set", "add [evaluation] to the calibration manifest")
