"""Whether a pack keeps its budgets, from what it records and what was measured of it. Pure: no files, no clocks.

Only a number of truth "measured" can hold a budget of time or memory, and only where the device is the target's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgepack.errors import GateError, InputError
from edgepack.latency.protocol import SUSTAINED
from edgepack.latency.roofline import beaten
from edgepack.pack.manifest import ArtifactRecord, Estimate, Latency, Measurement, Pack, Parity
from edgepack.targets import MOST, Budgets, Hardware, Target
from edgepack.verify.judge import judge_accuracy, judge_parity

Name = Literal["latency p90", "size", "memory", "accuracy", "parity", "older pack"]
Status = Literal["pass", "fail", "not measured", "invalid", "no budget"]

# Fields of ``targets.Budgets`` that can be given beside a pack's own. The others set floors while a pack is built.
BUDGETS = ("latency_p90_ms", "size_bytes", "memory_peak_bytes", "accuracy_drop_points", "miou_drop_points", "agreement_drop_points")
# What devices say of themselves when they are none.
EMULATED = "(emulated)"
_BENCH = "edgepack bench"


class Check(msgspec.Struct, frozen=True):
    """One budget of one artifact; ``words`` gives the figures, or why there are none."""

    target: str
    scheme: str
    name: Name
    status: Status
    words: str

    @property
    def subject(self) -> str:
        """As every list names the artifact."""
        return f"{self.target} {self.scheme}"

    def fails(self, require_measured: bool) -> bool:
        """Whether a release must stop here."""
        return self.status in ("fail", "invalid") or (require_measured and self.status == "not measured")


class Checks(tuple[Check, ...]):
    """Every check of a pack, artifact by artifact."""

    __slots__ = ()

    def failing(self, require_measured: bool = False) -> list[Check]:
        """Those that fail or are invalid, and with ``require_measured`` those without a measurement."""
        return [check for check in self if check.fails(require_measured)]

    def demand(self, require_measured: bool = False) -> None:
        """GateError (exit code 1) that names the first failing check."""
        failing = self.failing(require_measured)
        if not failing:
            return
        first = failing[0]
        more = f" (and {len(failing) - 1} more)" if len(failing) > 1 else ""
        raise GateError(f"{first.subject}: {first.name}: {first.status}: {first.words}{more}", _NEXT[first.status])


_NEXT: Mapping[Status, str] = {
    "fail": "ship another artifact, or change the budget",
    "invalid": f"see what spoiled the measurement and take it again with {_BENCH}",
    "not measured": f"measure on the target's own device with {_BENCH}",
}


def matches(hardware: Hardware | None, device: Mapping[str, str]) -> bool:
    """Whether a device is the one that a target stands for, by what it says of itself (``edgepack.latency.environment.words``).

    An emulated board never is, nor any device for a target that names none. The model must end where a word does: a Raspberry Pi 500 is
    no Raspberry Pi 5.
    """
    board = device.get("board", "")
    if hardware is None or EMULATED in board or device.get("architecture") != hardware.machine:
        return False
    return f"{board} ".startswith(f"{hardware.model} ")


def checks(pack: Pack, measurements: Sequence[Measurement], budgets: Mapping[str, float] | None = None) -> Checks:
    """Every budget of every artifact.

    Args:
        measurements: of this pack, newest first (``edgepack.pack.measurements.held``).
        budgets: in place of the pack's own, by name ("latency_p90_ms"), or for one target alone ("raspberry-pi-5:latency_p90_ms").

    Raises:
        InputError: a budget of no such name, of no such target, or that is no finite number or too large for one.
    """
    asked = dict(budgets or {})
    for key, limit in asked.items():
        _refuse_unknown(key, limit, pack)
    found = (_Case.of(artifact, pack, measurements, asked) for artifact in pack.artifacts)
    return Checks(check for case in found for check in _checks(case))


def compared(measurement: Measurement, why_not: str = "") -> Check | None:
    """What a comparison with an older pack says. An inconclusive one decides nothing.

    Args:
        why_not: why there was none; "" where nobody asked for one, and then there is no check.
    """
    found, subject = measurement.comparison, (measurement.target, measurement.scheme)
    if found is None:
        return Check(*subject, "older pack", "not measured", f"not compared: {why_not}") if why_not else None
    p90 = "" if found.p90_ratio is None else f", p90 {found.p90_ratio:.3f}"
    interval = f"{found.ratio.value:.3f} [{found.ratio.low:.3f}, {found.ratio.high:.3f}]"
    how = f"{found.pairs} pairs, margin {100 * found.margin:g} %"
    words = f"{found.verdict}: {interval} times the older pack's p{100 * found.quantile:.0f}{p90} ({how})"
    if found.invalid:
        return Check(*subject, "older pack", "invalid", f"{found.invalid[0]}; {words}")
    status: Mapping[str, Status] = {"regression": "fail", "inconclusive": "not measured"}
    return Check(*subject, "older pack", status.get(found.verdict, "pass"), words)


def _refuse_unknown(key: str, limit: float, pack: Pack) -> None:
    target, _, name = key.rpartition(":")
    if name not in BUDGETS:
        raise InputError(f"'{name}' is no budget that can be given here", f"use {', '.join(BUDGETS)}")
    if target and target not in {artifact.target for artifact in pack.artifacts}:
        held = ", ".join(dict.fromkeys(artifact.target for artifact in pack.artifacts))
        raise InputError(f"the pack has no target '{target}'", f"it has {held or 'none'}")
    if not math.isfinite(limit):
        raise InputError(f"budget {name} is {limit}", "give a finite number")
    if abs(limit) >= MOST:
        raise InputError(f"budget {name} is {limit:g}, which nothing can miss", "give a number below 2^63, or leave it out")


@dataclass(frozen=True)
class _Case:
    """One artifact with all that is known of it.

    Attributes:
        target: as the pack holds it; None in a pack that says nothing of it. own: its budgets when it was built; budgets: those of now.
        measurements: of this artifact on this target, newest first; measured: those of them on the target's own device.
    """

    artifact: ArtifactRecord
    target: Target | None
    own: Budgets
    budgets: Budgets
    measurements: tuple[Measurement, ...]
    measured: tuple[Measurement, ...]

    @classmethod
    def of(cls, artifact: ArtifactRecord, pack: Pack, measurements: Sequence[Measurement], asked: Mapping[str, float]) -> _Case:
        """What of a pack and its measurements is about this artifact."""
        target = next((held for held in pack.targets if held.name == artifact.target), None)
        own = target.budgets if target else Budgets()
        # Two targets may have one artifact, byte for byte, and two devices.
        about = (artifact.target, artifact.scheme, artifact.file.sha256)
        held = tuple(each for each in measurements if (each.target, each.scheme, each.artifact) == about)
        hardware = target.hardware if target else None
        measured = tuple(each for each in held if each.truth == "measured" and matches(hardware, each.device))
        return cls(artifact, target, own, _with(own, artifact.target, asked), held, measured)


def _with(budgets: Budgets, target: str, asked: Mapping[str, float]) -> Budgets:
    """Budgets with those asked for in their place; one for this target alone wins."""
    general = {key: limit for key, limit in asked.items() if ":" not in key}
    special = {key.rpartition(":")[2]: limit for key, limit in asked.items() if key.rpartition(":")[0] == target}
    changed = {name: int(limit) if name.endswith("_bytes") else limit for name, limit in {**general, **special}.items()}
    return msgspec.structs.replace(budgets, **changed)


def _checks(case: _Case) -> Iterator[Check]:
    for name, look in _LOOKS.items():
        status, words = look(case)
        yield Check(case.artifact.target, case.artifact.scheme, name, status, words)


def _latency(case: _Case) -> tuple[Status, str]:
    budget, found = case.budgets.latency_p90_ms, _newest_with_p90(case)
    latency = found.latency if found else None
    if found is None or latency is None or latency.p90 is None:
        return ("no budget" if budget is None else "not measured"), _why_no_p90(case)
    spoiled = beaten(latency) or next(iter(latency.invalid), "")
    words = f"{_p90_words(latency.p90)}{_how_taken(latency, found.unit)}"
    if budget is None:
        return "no budget", spoiled or words
    if spoiled:
        return "invalid", spoiled
    status: Status = "pass" if latency.p90.high < budget else "fail"
    return status, f"{words}; the upper end must be below {budget:g} ms"


def _newest_with_p90(case: _Case) -> Measurement | None:
    """On as many threads as the budget is of; a sustained run, whose device changes, counts only where no other was made.

    An app asks its runtime for one compute unit or delegate, so that of the newest runs on each the fastest sound one counts.
    """
    found = [each for each in case.measured if not each.failures and _fits(each.latency, case)]
    newest: dict[str, Measurement] = {}
    for each in sorted(found, key=lambda each: _profile_of(each) == SUSTAINED):
        newest.setdefault(each.unit, each)
    return min(newest.values(), key=_rank, default=None)


def _fits(latency: Latency | None, case: _Case) -> bool:
    if latency is None or latency.p90 is None:
        return False
    return latency.truth == "measured" and latency.threads == case.budgets.latency_threads


def _profile_of(measurement: Measurement) -> str:
    return measurement.latency.profile if measurement.latency else ""


def _rank(measurement: Measurement) -> tuple[bool, float]:
    """Sound ones first, then by the upper end of p90."""
    latency = measurement.latency
    assert latency is not None and latency.p90 is not None
    return bool(latency.invalid), latency.p90.high


def _why_no_p90(case: _Case) -> str:
    if not case.measured:
        return _why_not_measured(case)
    newest = case.measured[0]
    if newest.failures:
        return "its outputs were wrong on the device, so no time of it counts"
    if newest.latency is None:
        return "the newest measurement on the device timed nothing"
    if newest.latency.threads != case.budgets.latency_threads:
        return f"it was timed on {_threads(newest.latency.threads)}, and the budget is of {_threads(case.budgets.latency_threads)}"
    profile = f"profile {newest.latency.profile}" if newest.latency.profile else "it"
    return f"no p90: {profile} took {newest.latency.samples} samples; 100 are needed, as profile quick takes"


def _why_not_measured(case: _Case) -> str:
    """Why nothing of truth "measured" is known of this artifact."""
    if case.target is None or case.target.hardware is None:
        return f"{case.artifact.target} names no hardware, so no device is known to be it"
    if not case.measurements:
        return f"nothing was measured on a {case.target.hardware.model}"
    newest = case.measurements[0]
    if newest.truth != "measured":
        return f"the newest measurement is {newest.truth}, not of a {case.target.hardware.model} itself"
    return f"the newest measurement is of '{newest.device.get('board', 'a board without a name')}', no {case.target.hardware.model}"


def _p90_words(p90: Estimate) -> str:
    return f"p90 is {p90.value:.4g} ms (95 % interval {p90.low:.4g} to {p90.high:.4g} ms)"


def _how_taken(latency: Latency, unit: str) -> str:
    sustained = ", in a sustained run" if latency.profile == SUSTAINED else ""
    return f" on {unit or _threads(latency.threads)}{sustained}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _size(case: _Case) -> tuple[Status, str]:
    return _at_most(case.artifact.file.bytes, case.budgets.size_bytes)


def _memory(case: _Case) -> tuple[Status, str]:
    """Of the process that ran it on the device: qemu's own memory says nothing of a Pi's."""
    peak = next((each.memory_peak_bytes for each in case.measured if each.memory_peak_bytes is not None), None)
    if peak is not None:
        return _at_most(peak, case.budgets.memory_peak_bytes)
    why = "no measurement on the device tells its memory" if case.measured else _why_not_measured(case)
    return ("no budget" if case.budgets.memory_peak_bytes is None else "not measured"), why


def _at_most(held: int, budget: int | None) -> tuple[Status, str]:
    if budget is None:
        return "no budget", f"{held:,} bytes"
    return ("pass" if held <= budget else "fail"), f"{held:,} bytes, {budget:,} allowed"


def _accuracy(case: _Case) -> tuple[Status, str]:
    """As the pack records it, against the drop that is allowed now."""
    found = case.artifact.accuracy
    if found is None:
        return "not measured", "the pack was built without an evaluation set that has labels"
    allowed = case.budgets.drop_points(found.metric)
    failure = _accuracy_failures(case.artifact, case.budgets)
    if failure:
        return "fail", _without_subject(failure[0], case)
    words = f"{found.metric} {100 * found.value.value:.1f} %, {100 * found.drop.value:.1f} points below the student, {allowed:g} allowed"
    return "pass", words


def _accuracy_failures(artifact: ArtifactRecord, budgets: Budgets) -> tuple[str, ...]:
    found = artifact.accuracy
    return judge_accuracy(found, budgets.drop_points(found.metric), artifact.target, artifact.scheme) if found else ()


def _parity(case: _Case) -> tuple[Status, str]:
    """The pack's own record, and the newest run of each kind of truth and unit: a device answers wrong whatever an emulation said since."""
    artifact = case.artifact
    of_accuracy = _accuracy_failures(artifact, case.own)
    recorded = [*judge_parity(artifact.parity, artifact.target, artifact.scheme), *artifact.failures]
    failures = [f"{artifact.parity.truth}: {line}" for line in dict.fromkeys(recorded) if line not in of_accuracy]
    newest = {(each.truth, each.unit): each for each in reversed(case.measurements)}.values()
    failures += [f"{each.truth}{_on(each)}: {line}" for each in newest for line in _device_failures(each)]
    if failures:
        return "fail", _without_subject(failures[0], case)
    told = [_parity_words(artifact.parity, artifact.parity.truth)]
    told += [
        _parity_words(each.parity, f"{each.truth}, {each.device.get('board', 'a device without a name')}{_on(each)}") for each in newest
    ]
    return "pass", "; ".join(told)


def _on(measurement: Measurement) -> str:
    return f" on {measurement.unit}" if measurement.unit else ""


def _device_failures(measurement: Measurement) -> Sequence[str]:
    judged = judge_parity(measurement.parity, measurement.target, measurement.scheme)
    return list(dict.fromkeys((*measurement.failures, *judged)))


def _parity_words(parity: Parity, where: str) -> str:
    finite = [output.sqnr_db for output in parity.outputs if output.sqnr_db is not None]
    return f"{min(finite):.1f} dB ({where})" if finite else f"exact ({where})"


def _without_subject(line: str, case: _Case) -> str:
    """A failure as a check words it, which names the artifact already."""
    return line.replace(f"{case.artifact.target} {case.artifact.scheme}: ", "", 1)


_LOOKS: Mapping[Name, Callable[[_Case], tuple[Status, str]]] = {
    "latency p90": _latency,
    "size": _size,
    "memory": _memory,
    "accuracy": _accuracy,
    "parity": _parity,
}
