"""The waterfalls of a pack: which steps they take, each in a process of its own; one that fails does not end the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgepack.arrays import load_arrays
from edgepack.converter.execute import Manner, Results, execute
from edgepack.converter.plan import Plan
from edgepack.converter.process import StepFailedError, Watcher
from edgepack.converter.step import Limits, Output, Step
from edgepack.converter.store import opened
from edgepack.pack.digest import intact
from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import ArtifactRecord, Pack
from edgepack.verify.waterfall import Waterfall

# Waiting for a runner that has the limits itself takes a little longer than the limits.
_REPORTING = 30


@dataclass(frozen=True)
class Traced:
    """One artifact.

    Attributes:
        waterfall: what was found; None when ``failure`` says why nothing was.
        as_verified: whether its file is still the one that the pack recorded.
    """

    artifact: ArtifactRecord
    waterfall: Waterfall | None
    failure: StepFailedError | None
    as_verified: bool

    @property
    def departs(self) -> bool:
        """Whether a layer departs."""
        return self.waterfall is not None and bool(self.waterfall.first)


def trace_pack(
    folder: Path, pack: Pack, artifacts: Sequence[ArtifactRecord], samples: int, limits: Limits, watcher: Watcher
) -> list[Traced]:
    """Trace artifacts of a pack on its first golden samples.

    Args:
        samples: at least 1; the golden samples bound it.

    Raises:
        PackError: the pack lacks a hub or its golden inputs. StepFailedError: the float64 run itself failed.
    """
    golden = inside(folder, pack.golden_inputs.path)
    count = min(samples, max(map(len, load_arrays(golden).values())))
    hubs = {record.scheme: inside(folder, record.file.path) for record in pack.hubs}
    if "fp32" not in hubs:
        raise PackError("the pack holds no fp32 hub", "build the pack again")
    exact = _reference(hubs["fp32"], golden, count, limits)
    schemes = dict.fromkeys(artifact.scheme for artifact in artifacts if artifact.scheme in hubs and artifact.scheme != "fp32")
    simulated = {scheme: _simulate(scheme, hubs[scheme], golden, exact, count, limits) for scheme in schemes}
    traces = [_trace(folder, each, hubs, golden, exact, simulated.get(each.scheme), count, limits) for each in artifacts]
    with opened(None) as store:
        results = execute(Plan.of([exact, *simulated.values(), *traces]), store, watcher, Manner(keep_going=True))
        for name in (exact.name, *(step.name for step in simulated.values())):
            if name in results.failures:
                raise results.failures[name]
        return [_traced(step, artifact, folder, results) for step, artifact in zip(traces, artifacts, strict=True)]


def _reference(hub: Path, golden: Path, samples: int, limits: Limits) -> Step:
    outputs = tuple(f"{index}.npz" for index in range(samples))
    inputs = {"hub": hub, "golden": golden}
    return Step("float64", "edgepack.verify.waterfall:reference", inputs, {"samples": samples}, outputs, limits)


def _simulate(scheme: str, hub: Path, golden: Path, exact: Step, samples: int, limits: Limits) -> Step:
    inputs: dict[str, Output | Path] = {"hub": hub, "golden": golden, "reference": exact["0.npz"]}
    return Step(f"simulate {scheme}", "edgepack.verify.waterfall:simulate", inputs, {"samples": samples}, ("simulated.json",), limits)


def _trace(
    folder: Path,
    artifact: ArtifactRecord,
    hubs: dict[str, Path],
    golden: Path,
    exact: Step,
    simulated: Step | None,
    samples: int,
    limits: Limits,
) -> Step:
    inputs: dict[str, Output | Path] = {
        "artifact": inside(folder, artifact.file.path),
        "float_hub": hubs["fp32"],
        "scheme_hub": hubs.get(artifact.scheme, hubs["fp32"]),
        "golden": golden,
        "reference": exact["0.npz"],
        **({"simulated": simulated["simulated.json"]} if simulated else {}),
    }
    parameters = {"record": msgspec.to_builtins(artifact), "samples": samples, "seconds": limits.seconds, "memory": limits.bytes}
    waiting = Limits(limits.seconds + _REPORTING, limits.bytes)
    name = f"{artifact.target} {artifact.scheme}"
    return Step(name, "edgepack.verify.waterfall:trace", inputs, parameters, ("waterfall.json",), waiting)


def _traced(step: Step, artifact: ArtifactRecord, folder: Path, results: Results) -> Traced:
    """One artifact; a step that failed is what was found out about it."""
    as_verified, failure = _is_intact(folder, artifact), results.failures.get(step.name)
    if failure is not None:
        return Traced(artifact, None, failure, as_verified)
    held = results.path(step["waterfall.json"]).read_bytes()
    return Traced(artifact, msgspec.json.decode(held, type=Waterfall), None, as_verified)


def _is_intact(folder: Path, artifact: ArtifactRecord) -> bool:
    try:
        intact(folder, artifact.file)
    except PackError:
        return False
    return True
