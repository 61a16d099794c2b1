"""What a build would do: which steps the store holds, which would run, and what changed since the last build that makes them."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgepack.converter.execute import Manner, Results, execute, record_of
from edgepack.converter.keys import KeyRecord
from edgepack.converter.plan import Plan
from edgepack.converter.process import Cost, Watcher
from edgepack.converter.step import Output, Step
from edgepack.converter.store import BuildRecord, Store
from edgepack.student.identity import Identity


class Forecast(msgspec.Struct, frozen=True):
    """One step of a plan.

    Attributes:
        state: "held" by the store; "runs"; "always" runs, being the user's Python; "waits" for what another step gives, which may be what
            it gave before.
        after: the steps it reads from. why: what changed since the last build, most telling first; empty for "held".
        cost: of the result that the store holds.
    """

    step: str
    state: Literal["held", "runs", "always", "waits"]
    after: tuple[str, ...]
    why: tuple[str, ...] = ()
    cost: Cost | None = None


def forecast(plan: Plan, store: Store, before: BuildRecord, watcher: Watcher, manner: Manner) -> list[Forecast]:
    """What running ``plan`` would do now. Only a student of Python is looked at for it, which cannot be foretold.

    Raises:
        StepFailedError: the student cannot be made, or a file cannot be read.
    """
    first = [step for step in plan.steps if not step.cached and not after(step)]
    results = execute(Plan.of(first), store, watcher, manner)
    return [_foretold(step, results, store, before) for step in plan.steps]


def parts_of(step: str, results: Results) -> dict[str, str]:
    """The parts of a step's key; of a student of Python also what it is made of."""
    parts = dict(results.records[step].parts)
    if "identity.json" in results.entries[step].outputs:
        parts |= msgspec.json.decode(results.path(Output(step, "identity.json")).read_bytes(), type=Identity).parts
    return parts


def after(step: Step) -> tuple[str, ...]:
    """The steps that a step reads from."""
    return tuple(dict.fromkeys(source.step for source in step.inputs.values() if isinstance(source, Output)))


def _foretold(step: Step, results: Results, store: Store, before: BuildRecord) -> Forecast:
    """One step; what is held goes into ``results``, so that the steps after it can be foretold."""
    earlier, sources = before.steps.get(step.name), after(step)
    if not step.cached:
        parts = parts_of(step.name, results) if step.name in results.entries and earlier is not None else {}
        changed = KeyRecord(parts).changes_since(earlier or {}) if parts else []
        return Forecast(step.name, "always", sources, tuple(changed) or ("it runs the user's Python",))
    unknown = [name for name in sources if name not in results.entries]
    if unknown:
        return Forecast(step.name, "waits", sources, (f"for {', '.join(unknown)}",))
    record = record_of(step, results)
    entry = store.find(record.key)
    if entry is not None:
        results.entries[step.name] = entry
        return Forecast(step.name, "held", sources, (), entry.cost)
    if earlier is None:
        return Forecast(step.name, "runs", sources, ("it was never built here",))
    return Forecast(step.name, "runs", sources, tuple(record.changes_since(earlier)) or ("the store holds its result no longer",))
