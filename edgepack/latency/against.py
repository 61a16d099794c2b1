"""The artifacts of a pack against those of an older one, on a device, interleaved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgepack.converter.step import Limits
from edgepack.devices.session import Outcome, Session
from edgepack.latency.compare import PAIRS, Pairs, compare
from edgepack.latency.on_device import Bench, OpenPack, answer
from edgepack.latency.timing import Artifacts, disturbances, made_of, time_artifacts
from edgepack.pack.files import PackError
from edgepack.pack.manifest import ArtifactRecord, Comparison, Measurement
from edgepack.runner.contract import MOST_ROUNDS

# How two packs are told apart in one run.
_NEW, _OLD = "new", "old"
# What does not tell within half an hour is left inconclusive: mlperf's five looks, of 60 s at first, are 16 minutes.
_LONGEST_SECONDS = 1800.0
# A look may take so many times as long as the one before it says: boards throttle to less than half their clock.
_SLACK = 3.0


# LiteRT's threads spin for a while after a query, waiting for the next, and then take cores from the other artifact's. On two cores and two
# threads a model of 7 us timed against itself came out at 0.73 to 2.2 times its own speed, one of 1.1 ms at 0.990 to 1.001.
_SPINNING, _SPIN_MATTERS_BELOW_NS = "litert", 1e6
_SPIN = "LiteRT's idle threads take cores from the other artifact, which queries below 1 ms do not outlast -> compare with --threads 1"


class NotComparedError(Exception):
    """Why two artifacts were not compared, in words; no failure of either."""


def counterpart(old: OpenPack, artifact: ArtifactRecord) -> ArtifactRecord | None:
    """The older pack's artifact that an artifact can be timed in turn with; None when that has none.

    Raises:
        PackError: it takes other inputs, or its file is not the one that was verified.
    """
    key = (artifact.target, artifact.scheme, artifact.runner)
    other = next((each for each in old.manifest.artifacts if (each.target, each.scheme, each.runner) == key), None)
    if other is not None and other.inputs != artifact.inputs:
        raise PackError(
            f"the older pack's {other.target} {other.scheme} takes other inputs", "compare packs of students with the same inputs"
        )
    if other is not None:
        old.file(other)
    return other


def refuse_incomparable(old: OpenPack, artifacts: Sequence[ArtifactRecord]) -> None:
    """PackError where no artifact of these has a counterpart in the older pack, or one cannot be used."""
    if not [each for each in artifacts if counterpart(old, each) is not None]:
        asked = ", ".join(f"{each.target} {each.scheme}" for each in artifacts)
        raise PackError(f"{old.folder} has nothing to compare with: no {asked}", "give --against a pack of the same targets and schemes")


def against(
    session: Session, new: OpenPack, old: OpenPack, artifact: ArtifactRecord, measured: Measurement, asked: Bench, limits: Limits
) -> Comparison:
    """An artifact against the older pack's of the same target and scheme, interleaved.

    Args:
        measured: what was found of the artifact on this device.

    Raises:
        NotComparedError: there is nothing to compare with, or one of both has no times. RunnerError, ComparisonError, TransportError:
            a runner, its samples or the connection failed.
    """
    other = counterpart(old, artifact)
    if other is None:
        raise NotComparedError(f"the older pack has no {artifact.target} {artifact.scheme}")
    if why := _why_no_times(measured):
        raise NotComparedError(why)
    answered = answer(session, old, other, asked.threads, limits, measured.unit)
    if answered.failures:
        raise NotComparedError(f"the older pack's answers wrong on this device ({answered.failures[0]})")
    rounds = Rounds(session, {_OLD: old.file(other), _NEW: new.file(artifact)}, new, asked, limits, measured.unit)
    found = compare(rounds, asked.margin, asked.threads, max(asked.profile.pairs, PAIRS))
    return found.against(other.file.sha256, tuple(rounds.spoiled))


def _why_no_times(measured: Measurement) -> str:
    if measured.failures:
        return "its own answers are wrong on this device"
    if measured.truth == "emulated":
        return "an emulator's times are no speed of either"
    return "it could not be timed" if measured.latency is None else ""


class Rounds:
    """Measures rounds of two artifacts for ``compare``, look after look, and holds what spoiled one of them.

    The first look is the profile's. Each later one is of as many rounds as all before it, so it is given time by how long those took,
    and is not begun where it would take too long or nothing it finds could count.
    """

    def __init__(self, session: Session, files: Artifacts, new: OpenPack, asked: Bench, limits: Limits, unit: str = "") -> None:
        self._session, self._files, self._golden, self._asked, self._limits = session, files, new.golden, asked, limits
        self._unit = unit
        self._taken, self._seconds, self._inner = 0, 0.0, 0
        self.spoiled: list[str] = []

    def __call__(self, pairs: int) -> Pairs | None:
        """So many rounds at least; None where they are not worth measuring."""
        expected = self._seconds * pairs / self._taken if self._taken else 0.0
        if self._taken and (self.spoiled or pairs > MOST_ROUNDS or self._seconds + expected > _LONGEST_SECONDS):
            return None
        profile = replace(self._asked.profile, pairs=pairs, seconds=0.0 if self._taken else self._asked.profile.seconds)
        allowed = Limits(self._limits.seconds + _SLACK * expected, self._limits.bytes)
        begun = time.monotonic()
        threads = self._asked.threads
        outcome = time_artifacts(self._session, self._files, self._golden, profile, allowed, threads, self._inner, self._unit)
        self._seconds += time.monotonic() - begun
        self._note(outcome)
        with made_of(outcome):
            found = Pairs(_series(outcome, _OLD), _series(outcome, _NEW))
        self._taken += found.base.size
        self._note_spinning(outcome, found)
        return found

    def _note_spinning(self, outcome: Outcome, found: Pairs) -> None:
        """onnxruntime's sessions share their threads (``edgepack.runner.ort``); LiteRT's cannot."""
        is_short = min(np.median(found.base), np.median(found.other)) < _SPIN_MATTERS_BELOW_NS
        if outcome.response.runtime == _SPINNING and self._asked.threads > 1 and is_short and _SPIN not in self.spoiled:
            self.spoiled.append(_SPIN)

    def _note(self, outcome: Outcome) -> None:
        # Batches of another size have other quantiles: all looks are taken as the first.
        self._inner = max(outcome.response.inner.values(), default=0)
        spoiled, _ = disturbances(self._session, outcome, self._asked.profile)
        self.spoiled += [line for line in spoiled if line not in self.spoiled]


def _series(outcome: Outcome, label: str) -> NDArray[np.int64]:
    """ValueError for what is no series of whole nanoseconds, KeyError where there is none."""
    samples = outcome.arrays[label]
    if samples.ndim != 1 or samples.dtype != np.int64:
        raise ValueError(f"samples of '{label}' are {samples.dtype} of shape {samples.shape}")
    return samples
