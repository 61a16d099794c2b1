"""From tensors to what the manifest records, and from the record to failures. Pure: no files, no runs.

Every function takes outputs as ``name -> array``, samples stacked on the first axis, in the student's names and layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import GateError
from edgepack.pack.manifest import Accuracy, OutputParity, Parity, Truth
from edgepack.quantize.scheme import Scheme
from edgepack.verify.metrics import NO_CLASS, agreement, cosine, gap_standard_error, max_abs_error, non_finite, sqnr_db, top1
from edgepack.verify.statistics import paired_drop, wilson_interval

Outputs = Mapping[str, NDArray[Any]]

# The manifest is JSON, which has no infinity: "infinitely far" is written as these. No output of finite float32 numbers comes near -999 dB
# unless the reference is all zero.
WORST_DB = -999.0
WORST_ERROR = float(np.finfo(np.float32).max)

# What storing an exact result as float32 costs: mantissas m uniform in [1, 2), error uniform within half an ulp 2^-24,
# 10 log10(E m^2 / var) = 10 log10((7/3) / (2^-48 / 3)) = 153 dB. A run that equals float64 exactly is not asked for more than that.
FLOAT32_ROUNDING_DB = 153.0

# What any fp32 runtime may cost in a layer: it adds products in an order of its own, and the rounding errors of K partial sums add up as a
# random walk (Higham & Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis"), 10 log10 K dB. With K = 512, a 3x3
# convolution over 57 channels, 153 - 27 = 126 dB.
SUMMATION_DB = 126.0

# And in a network: of ten such layers, one behind the other, each adds its own, 10 log10 10 = 10 dB. A run that was luckier than that, by
# few terms or a kind order, sets no floor for other orders.
NETWORK_DB = SUMMATION_DB - 10.0


# Further from its own float64 run no fp32 network is (FACTS: 65 dB and more): the reference itself is wrong, or the student is a coin toss.
LOWEST_STUDENT_DB = 40.0

# Below this a quantized output is no longer the student's, however well the artifact repeats the quantized hub: 6 dB is an error of
# half the signal's amplitude. The worst network that still classified (FACTS: EfficientNet-Lite0, min-max, 0.77 of top-1) had 13 dB.
LOWEST_QUANTIZED_DB = 6.0

# What a network computed in fp16 keeps (FACTS: 50 to 62 dB against float64), for targets whose static schemes compute in it.
HALF_PRECISION_DB = 50.0

# Two runtimes of one quantized network (FACTS: TFLite against ORT, whole networks with ties): what a student that carries its own codes is
# held to, since there the rounding of codes is no loss but the model itself, and only codes that fall the other way differ.
OWN_CODES_DB = 32.0

# Weight-only schemes compute the very function their hub was simulated with; the order of their fp32 sums is counted apart. 0.5 dB more is
# noise 9 dB below that of the weight codes: 10 log10(1 + 10^-0.9) = 0.5. A wrong scale or channel costs tens of dB.
WEIGHTS_BELOW_HUB_DB = 0.5

# Decisions (a class, an index, a truth value) may turn on the last bits of what they were made from. Noise of twice the size (6 dB) turns
# twice as many; of fp32's 1e-6 it turns about as small a share, so one in a thousand is room enough, and a wrong axis turns most.
_TURNED, _TURNED_SHARE = 2, 1e-3

# A difference that one printed decimal does not show.
_UNSAID_DB = 0.05

# One-sided 95 % of a normal distribution, in standard errors.
_CHANCE = 1.645


class VerifyError(GateError):
    """Outputs that cannot be judged: one is missing, has another shape, or the student itself gives NaN."""


@dataclass(frozen=True)
class ParityBudget:
    """How far an artifact may fall behind, from the target's ``[budgets]``.

    Attributes:
        fp32_below_student_db: fp32 artifacts, below the student's own fp32 run, both against float64.
        quantized_below_hub_db: int8 artifacts with coded activations, below the quantized hub itself, both against float64.
        quantized_reach_db: what the arithmetic of an int8 scheme reaches by itself; its noise adds to the quantized hub's.
    """

    fp32_below_student_db: float
    quantized_below_hub_db: float
    quantized_reach_db: float = inf


@dataclass(frozen=True)
class Runs:
    """The same golden samples through everything that is compared.

    Attributes:
        reference: the student in float64.
        student: the student in float32.
        hub: what the scheme's rounding alone leaves, simulated in float: the quantized hub as written (activations of w8d8 through codes),
            or the fp32 hub rounded to fp16; None when the scheme has no simulation.
        own_codes: whether the student itself rounds to codes, so that every run of it, its own included, rounds some of them the other way.
    """

    reference: Outputs
    student: Outputs
    hub: Outputs | None = None
    own_codes: bool = False


def parity(scheme: Scheme, artifact: Outputs, runs: Runs, budget: ParityBudget, truth: Truth) -> Parity:
    """Every output of the student, compared with the artifact's.

    Raises:
        VerifyError: an output is missing, has another shape than the reference, or the reference is not finite.
    """
    outputs = tuple(output_parity(name, scheme, artifact, runs, budget) for name in runs.reference)
    if not outputs:
        raise VerifyError("the student has no output to compare", "give the student at least one named output")
    return Parity(truth, min(len(array) for array in runs.reference.values()), outputs)


def output_parity(name: str, scheme: Scheme, artifact: Outputs, runs: Runs, budget: ParityBudget) -> OutputParity:
    """One output against the float64 run, with the floor its scheme sets.

    fp32 is held to the student's own fp32 run, fp16 and the 8-bit schemes to what their rounding alone leaves, so that the converter is
    judged and not the quantization; any other scheme has no floor and is judged by its accuracy. Of integers and truth values it counts
    how many differ, not how far. Errors as ``parity``.
    """
    reference = _finite(name, "the student's float64 run", _take(name, "the student's float64 run", runs.reference))
    actual = _take(name, "the artifact", artifact, reference.shape)
    student = _take(name, "the student's fp32 run", runs.student, reference.shape)
    student_db = sqnr_db(reference, student)
    floor, reason = _floor(name, scheme, runs, budget, student_db, reference, actual)
    return OutputParity(
        name=name,
        sqnr_db=_recorded(sqnr_db(reference, actual)),
        max_abs_error=min(max_abs_error(reference, actual), WORST_ERROR),
        cosine=cosine(reference, actual),
        student_sqnr_db=_recorded(student_db),
        to_student_sqnr_db=_recorded(sqnr_db(_finite(name, "the student's fp32 run", student), actual)),
        floor_db=floor,
        floor_reason=reason,
        non_finite=non_finite(actual),
    )


def judge_parity(parity: Parity, target: str, scheme: str) -> tuple[str, ...]:
    """One line for each output that is not finite or is below its floor; empty when all hold."""
    return tuple(line for output in parity.outputs if (line := _parity_failure(output, f"{target} {scheme}: output '{output.name}'")))


def accuracy(artifact: NDArray[Any], student: NDArray[Any], labels: NDArray[Any]) -> Accuracy:
    """Top-1 accuracy of an artifact, and what it loses against the student on the same samples.

    Args:
        artifact, student: class scores of the evaluation set, (samples, classes); axes of size 1 between the two are dropped. Or, of a
            student that names the class itself, one integer a sample.
        labels: (samples,) integers, the right classes.

    Raises:
        VerifyError: the shapes do not fit, or a label names no class.
    """
    if names_classes(student):
        classes, classes_student = artifact.reshape(-1), student.reshape(-1)
        truth = _labels(labels, len(student), None)
    else:
        scores, scores_student = class_scores(artifact, student)
        truth = _labels(labels, *scores.shape)
        classes, classes_student = top1(scores), top1(scores_student)
    right, right_student = classes == truth, classes_student == truth
    return Accuracy(
        samples=len(truth),
        value=wilson_interval(int(right.sum()), len(truth)),
        student=float(right_student.mean()),
        drop=paired_drop(right_student, right),
        agreement=agreement(classes, classes_student),
    )


def judge_accuracy(accuracy: Accuracy, allowed_drop_points: float, target: str, scheme: str) -> tuple[str, ...]:
    """One line when the artifact lost more than ``allowed_drop_points`` (hundredths of 1) on this evaluation set, else empty.

    The measured drop is judged, not an end of its interval: what was promised is this figure on these samples. The interval is said so
    that a reader sees whether the set was large enough to tell.
    """
    points, low, high = (100 * x for x in (accuracy.drop.value, accuracy.drop.low, accuracy.drop.high))
    # Differences of counts over n are decimals that float64 does not hold exactly: 0.5 points of 1000 samples must equal 0.5.
    if points <= allowed_drop_points + 1e-9:
        return ()
    drop, allowed = _told_apart(points, allowed_drop_points)
    metric = "accuracy" if accuracy.metric == "top-1" else accuracy.metric
    return (
        f"{target} {scheme}: {metric} is {drop} points below the student's {100 * accuracy.student:.1f} %, more than the {allowed} allowed"
        f" (95 % interval {low:.1f} to {high:.1f} points, {accuracy.samples} samples)",
    )


def _floor(
    name: str, scheme: Scheme, runs: Runs, budget: ParityBudget, student_db: float, reference: NDArray[Any], actual: NDArray[Any]
) -> tuple[float | None, str]:
    if not np.issubdtype(reference.dtype, np.floating):
        is_simulated = scheme.name != "fp32" and runs.hub is not None
        by_itself = _take(name, "the quantized hub", runs.hub or {}, reference.shape) if is_simulated else runs.student[name]
        return _decisions_floor(reference, by_itself, actual, "quantized hub" if is_simulated else "student's own fp32")
    if runs.own_codes:
        return _own_codes_floor(budget, student_db)
    if reference.any() and student_db < LOWEST_STUDENT_DB:
        return LOWEST_STUDENT_DB, f"the student's own fp32 run is only {max(student_db, WORST_DB):.1f} dB from it: one of the two is wrong"
    if scheme.name == "fp32":
        return _below(student_db, budget.fp32_below_student_db, "student's own fp32")
    if scheme.name not in _SIMULATED:
        return None, f"{scheme.name} has no floor: judged by its accuracy"
    if runs.hub is None:
        raise VerifyError(f"{scheme.name} has no run of the quantized hub to compare with", "simulate the quantized hub before verifying")
    hub = _finite(name, "the quantized hub", _take(name, "the quantized hub", runs.hub, reference.shape))
    return _quantized_floor(reference, hub, actual, _SIMULATED[scheme.name](budget, student_db))


def _decisions_floor(reference: NDArray[Any], by_itself: NDArray[Any], actual: NDArray[Any], what: str) -> tuple[float | None, str]:
    """For integers and truth values: how many may differ from the reference, said in dB as if each differed as those of ``actual`` do.

    Args:
        by_itself: the run whose rounding alone the artifact may have, and ``what`` it is.
    """
    turned, differing = int((by_itself != reference).sum()), int((actual != reference).sum())
    allowed = max(_TURNED * turned + math.floor(_TURNED_SHARE * reference.size), 1)
    reason = f"{differing} of {reference.size} numbers differ, {turned} in the {what}, {allowed} allowed"
    measured = sqnr_db(reference, actual)
    if not math.isfinite(measured):
        return (None if differing <= allowed else LOWEST_QUANTIZED_DB), reason
    return max(measured + 10 * math.log10(differing / allowed), WORST_DB), reason


def _own_codes_floor(budget: ParityBudget, student_db: float) -> tuple[float, str]:
    """What runtimes of one quantized network keep, or, where its own fp32 run falls short of that, as much below it as fp32 may."""
    floor = min(OWN_CODES_DB, student_db - budget.fp32_below_student_db)
    return max(floor, WORST_DB), f"the student's own codes, {max(min(student_db, FLOAT32_ROUNDING_DB), WORST_DB):.1f} dB in fp32"


@dataclass(frozen=True)
class _Allowance:
    """How far below its simulation an artifact may fall: ``below_db`` under the sum of the simulation's noise and the arithmetic's."""

    what: str
    below_db: float
    reach_db: float
    hint: str = ""


def _static(budget: ParityBudget, student_db: float) -> _Allowance:
    return _Allowance("quantized hub", budget.quantized_below_hub_db, budget.quantized_reach_db, ", try --ranges mse")


def _dynamic(budget: ParityBudget, student_db: float) -> _Allowance:
    """The simulation ranges whole tensors; a runtime that rounds each row by its own range errs elsewhere, but no more."""
    return _Allowance("quantized hub", budget.quantized_below_hub_db, _fp32_noise_db(budget, student_db))


def _weights_only(budget: ParityBudget, student_db: float) -> _Allowance:
    """fp32 sums in an order of their own; where a target computes in fp16, whose reach is a rule of thumb, the int8 budget besides."""
    if budget.quantized_reach_db < inf:
        return _Allowance("quantized hub", budget.quantized_below_hub_db, budget.quantized_reach_db)
    return _Allowance("quantized hub", WEIGHTS_BELOW_HUB_DB, _fp32_noise_db(budget, student_db))


def _half(budget: ParityBudget, student_db: float) -> _Allowance:
    """A runtime spells an operator in several that each round, or sums in another order: errors of twice the size, as for fp32."""
    return _Allowance("hub rounded to fp16", budget.fp32_below_student_db, _fp32_noise_db(budget, student_db))


def _fp32_noise_db(budget: ParityBudget, student_db: float) -> float:
    """What an fp32 artifact of this student would be allowed."""
    return min(student_db, NETWORK_DB) - budget.fp32_below_student_db


_SIMULATED: dict[str, Callable[[ParityBudget, float], _Allowance]] = {
    "w8a8": _static,
    "w8d8": _dynamic,
    "w8": _weights_only,
    "fp16": _half,
}


def _quantized_floor(reference: NDArray[Any], hub: NDArray[Any], actual: NDArray[Any], allowance: _Allowance) -> tuple[float, str]:
    """Below the simulation by what is allowed, and by what chance explains on so few samples, which is never more than that again.

    A runtime that rounds a code the other way errs as much as the hub, but elsewhere: on few samples the two differ by luck alone.
    """
    hub_db, allowed = sqnr_db(reference, hub), allowance.below_db
    if reference.any() and hub_db < LOWEST_QUANTIZED_DB:
        reason = f"{allowance.what} only {max(hub_db, WORST_DB):.1f} dB: this scheme does not hold the student{allowance.hint}"
        return LOWEST_QUANTIZED_DB, reason
    floor, reason = _below(*_expected(hub_db, allowance))
    chance = min(_CHANCE * gap_standard_error(reference, hub, actual), allowed)
    return (floor - chance, f"{reason} - {chance:.1f} dB of chance over {len(reference)} samples") if chance >= 0.05 else (floor, reason)


def _expected(hub_db: float, allowance: _Allowance) -> tuple[float, float, str]:
    """What ``_below`` takes for a simulation computed in arithmetic that reaches so far: independent noises add in power."""
    what, allowed, reach_db = allowance.what, allowance.below_db, allowance.reach_db
    if reach_db == inf:
        return hub_db, allowed, what
    joint_db = float(-10 * np.log10(10 ** (-min(hub_db, FLOAT32_ROUNDING_DB) / 10) + 10 ** (-reach_db / 10)))
    if hub_db - joint_db < _UNSAID_DB:
        return joint_db, allowed, what
    return joint_db, allowed, f"{what} {min(hub_db, FLOAT32_ROUNDING_DB):.1f} dB and the arithmetic's {reach_db:.0f} dB, together"


def _below(measured: float, allowed: float, what: str) -> tuple[float, str]:
    """``allowed`` dB under what ``what`` reaches, and the words for it."""
    if measured > NETWORK_DB:
        reached = "exact" if measured > FLOAT32_ROUNDING_DB else f"{measured:.1f} dB"
        return NETWORK_DB - allowed, f"{what} {reached}, taken as {NETWORK_DB:.0f} dB of fp32 summation - {allowed:g} dB"
    return max(measured - allowed, WORST_DB), f"{what} {max(measured, WORST_DB):.1f} dB - {allowed:g} dB"


def _parity_failure(output: OutputParity, subject: str) -> str:
    if output.non_finite:
        return f"{subject} holds {output.non_finite} NaN or infinite values"
    if output.sqnr_db is None or output.floor_db is None or output.sqnr_db >= output.floor_db:
        return ""
    reached, floor = _told_apart(output.sqnr_db, output.floor_db)
    return f"{subject} is {reached} dB from the float64 student, below its floor of {floor} dB ({output.floor_reason})"


def _recorded(decibels: float) -> float | None:
    """As the manifest holds it: None for exact, never an infinity."""
    return None if decibels == inf else max(decibels, WORST_DB)


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Both with as few decimals as show that they differ, one at least."""
    pairs = ((f"{a:.{digits}f}", f"{b:.{digits}f}") for digits in range(1, 7))
    return next((pair for pair in pairs if pair[0] != pair[1]), (repr(a), repr(b)))


def _take(name: str, source: str, outputs: Outputs, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """One output by name; ``shape`` is what it must have."""
    if name not in outputs:
        raise VerifyError(f"{source} has no output '{name}' (it has {', '.join(outputs) or 'none'})", "check the artifact's output names")
    array = outputs[name]
    if array.size == 0 or shape not in (None, array.shape):
        wanted = f", not {shape}" if shape else ": nothing to compare"
        raise VerifyError(f"output '{name}' of {source} has shape {array.shape}{wanted}", "check the artifact's output shapes and layouts")
    return array


def _finite(name: str, source: str, array: NDArray[Any]) -> NDArray[Any]:
    count = non_finite(array)
    if count:
        raise VerifyError(
            f"output '{name}' of {source} holds {count} NaN or infinite values", "look at the student and the golden samples first"
        )
    return array


def class_scores(artifact: NDArray[Any], student: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as (samples, classes); VerifyError when one is no row of scores a sample or the two differ in shape."""
    scores, wanted = _scores("the artifact", artifact), _scores("the student", student)
    if scores.shape != wanted.shape:
        raise VerifyError(f"the artifact gives scores {scores.shape}, the student {wanted.shape}", "build the artifact again")
    return scores, wanted


def _scores(source: str, array: NDArray[Any]) -> NDArray[Any]:
    """(samples, classes) from (samples, 1, ..., classes)."""
    if array.ndim < 2 or array.size == 0 or any(size != 1 for size in array.shape[1:-1]):
        raise VerifyError(f"{source} gives scores of shape {array.shape}, not (samples, classes)", "name an output with one score a class")
    return array.reshape(len(array), array.shape[-1])


def names_classes(student: NDArray[Any]) -> bool:
    """Whether an output is one integer a sample: the class itself, not scores."""
    return np.issubdtype(student.dtype, np.integer) and student.size == len(student)


def _labels(labels: NDArray[Any], samples: int, classes: int | None) -> NDArray[np.int64]:
    """The labels as int64 (samples,); ``classes`` None where their number is not known."""
    if labels.shape != (samples,) or not np.issubdtype(labels.dtype, np.integer):
        raise VerifyError(
            f"labels are {labels.dtype} of shape {labels.shape}, not integers of ({samples},)", "give one class index a sample"
        )
    if labels.min() <= NO_CLASS or (classes is not None and labels.max() >= classes):
        raise VerifyError(f"labels span {labels.min()}..{labels.max()}, outside the {classes} classes", "check the evaluation set's labels")
    return labels.astype(np.int64)
