"""Running a plan: what the store holds is taken from it, the rest runs, steps beside each other as soon as their inputs are there."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from edgepack.converter.digest import Held, held_at
from edgepack.converter.keys import KeyRecord, key_of
from edgepack.converter.plan import Plan
from edgepack.converter.process import Cancelled, Place, Processes, StepFailedError, Watcher, run_step
from edgepack.converter.step import Output, Step
from edgepack.converter.store import Entry, Store, explained

# Memory that a step may be expected to need (issue bar: 2 GB): no more steps at once than fit.
_STEP_BYTES = 2 * 2**30
# An entry found damaged so often is not being damaged by accident.
_MOST_REPAIRS = 3


class DamagedError(Exception):
    """An entry of the store does not hold what was written to it. Handled here: its step runs again.

    Attributes:
        step: the name of the step it is of.
    """

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


@dataclass
class Results:
    """What the steps of a plan wrote.

    Attributes:
        entries: by step name; a step that failed, or waited for one that did, has none.
        records: the parts of the keys, by step name.
        failures: by step name, only where a plan was told to keep going. ran: the names of the steps that were not in the store.
    """

    store: Store
    entries: dict[str, Entry] = field(default_factory=dict)
    records: dict[str, KeyRecord] = field(default_factory=dict)
    failures: dict[str, StepFailedError] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def path(self, output: Output) -> Path:
        """Where an output lies, to be read only."""
        return self.store.path(self.entries[output.step], output.file)

    def held(self, output: Output) -> Held:
        """Size and digest of an output."""
        return self.entries[output.step].outputs[output.file]


@dataclass(frozen=True)
class Manner:
    """How a plan is run.

    Attributes:
        jobs: steps at once; 0 for as many as there are processors and memory for.
        keep_going: steps that do not depend on a failed one run all the same; without, the first failure ends everything.
        keep: a folder where files and logs of every step are copied to, those of a failed one too; None for nowhere.
    """

    jobs: int = 0
    keep_going: bool = False
    keep: Path | None = None


def execute(plan: Plan, store: Store, watcher: Watcher, manner: Manner = Manner(), wanted: Sequence[Output] = ()) -> Results:
    """Bring about every step's result.

    Args:
        wanted: outputs that the caller will read: their bytes are checked, and made again where they are damaged.

    Raises:
        StepFailedError: the first step that failed, unless told to keep going. StoreError: the store is full or broken.
    """
    run = _Run(plan, store, watcher, manner)
    for _ in range(_MOST_REPAIRS):
        run.finish()
        found = run.damaged(wanted)
        if not found:
            return run.results
        run.forget(found)
    raise _keeps_breaking(found[0])


def _keeps_breaking(step: str) -> StepFailedError:
    return StepFailedError(step, "what it writes to the store does not stay what it was", "check the disk, or choose another --store")


def default_jobs() -> int:
    """As many steps at once as this process has processors, and the machine memory for."""
    import psutil

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, int(psutil.virtual_memory().available) // _STEP_BYTES))


class _Run:
    """One run of a plan: what is done, what runs, what is yet to come."""

    def __init__(self, plan: Plan, store: Store, watcher: Watcher, manner: Manner) -> None:
        self._plan, self._store, self._watcher, self._manner = plan, store, _Serial(watcher), manner
        self._steps = {step.name: step for step in plan.steps}
        self._running: dict[Future[Entry], tuple[Step, KeyRecord]] = {}
        self._processes = Processes()
        self._begun = 0
        self._repairs: dict[str, int] = {}
        self._disturbed: set[str] = set()
        self.results = Results(store)

    def finish(self) -> None:
        """Run until every step is done, or failed and told to keep going."""
        jobs = self._manner.jobs or default_jobs()
        with ThreadPoolExecutor(jobs, thread_name_prefix="step") as pool:
            try:
                self._submit(pool, jobs)
                while self._running:
                    ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        self._settle(future)
                    self._submit(pool, jobs)
            except BaseException:
                # On a failure or Ctrl-C nothing may be left running, nor be waited for.
                self._processes.cancel()
                raise

    def damaged(self, wanted: Sequence[Output]) -> list[str]:
        """The steps of wanted outputs whose bytes in the store are wrong."""
        entries = self.results.entries
        return [output.step for output in wanted if output.step in entries and not self._store.check(entries[output.step], output.file)]

    def forget(self, steps: Sequence[str]) -> None:
        """Discard the results of steps, and look anew at all that follows from them."""
        for name in dict.fromkeys(steps):
            self._repairs[name] = self._repairs.get(name, 0) + 1
            if self._repairs[name] > _MOST_REPAIRS:
                raise _keeps_breaking(name)
            entry = self.results.entries.get(name)
            if entry is not None:
                self._store.discard(entry.key)
        followers = self._followers(steps)
        for name in followers:
            self.results.entries.pop(name, None)
        # Those at work may find their inputs gone.
        self._disturbed |= followers & {step.name for step, _ in self._running.values()}

    def _followers(self, steps: Sequence[str]) -> set[str]:
        """The steps and all that depend on them."""
        found = set(steps)
        for step in self._plan.steps:
            if any(isinstance(source, Output) and source.step in found for source in step.inputs.values()):
                found.add(step.name)
        return found

    def _submit(self, pool: ThreadPoolExecutor, jobs: int) -> None:
        """Settle what the store holds, start what may start. Hits make others ready, so look until nothing changes."""
        moved = True
        while moved:
            moved = False
            for step in self._ready():
                record = record_of(step, self.results)
                entry = self._store.find(record.key) if step.cached else None
                self.results.records[step.name] = record
                if entry is not None:
                    self._finished(step, entry, reused=True)
                    moved = True
                elif len(self._running) < jobs:
                    self._begin(step)
                    future = pool.submit(self._produce, step, record)
                    self._running[future] = (step, record)

    def _ready(self) -> Iterator[Step]:
        busy = {step.name for step, _ in self._running.values()}
        results = self.results
        for step in self._plan.steps:
            if step.name in results.entries or step.name in busy or step.name in results.failures:
                continue
            if all(source.step in results.entries for source in step.inputs.values() if isinstance(source, Output)):
                yield step

    def _begin(self, step: Step) -> None:
        self._watcher.started(step, self._begun, len(self._plan.steps))
        self._begun += 1

    def _finished(self, step: Step, entry: Entry, reused: bool) -> None:
        self.results.entries[step.name] = entry
        if reused:
            self._watcher.reused(step, self._begun, len(self._plan.steps))
            self._begun += 1
        if self._manner.keep is not None:
            _keep(self._manner.keep, step, {name: self._store.path(entry, name) for name in entry.outputs}, self._store.log(entry))

    def _settle(self, future: Future[Entry]) -> None:
        """Take in what a step's thread came to."""
        step, record = self._running.pop(future)
        is_disturbed = step.name in self._disturbed
        self._disturbed.discard(step.name)
        try:
            entry = future.result()
        except DamagedError as error:
            self.forget([error.step])
            return
        except StepFailedError as error:
            if is_disturbed:
                return
            if not self._manner.keep_going:
                raise
            self.results.failures[step.name] = error
            return
        if self._is_current(step, record):
            self._finished(step, entry, reused=False)

    def _is_current(self, step: Step, record: KeyRecord) -> bool:
        """Whether the inputs that a step ran on are still its inputs: one of them may have been found damaged meanwhile."""
        sources = (source for source in step.inputs.values() if isinstance(source, Output))
        return all(source.step in self.results.entries for source in sources) and record_of(step, self.results) == record

    def _produce(self, step: Step, record: KeyRecord) -> Entry:
        """In a thread: run a step, or take what another build has made of it meanwhile."""
        if not step.cached:
            return self._run(step, record)
        with self._store.claimed(record.key, self._processes.refuse_when_cancelled):
            entry = self._store.find(record.key)
            if entry is None:
                return self._run(step, record)
        self._watcher.reused(step, self._begun - 1, len(self._plan.steps))
        return entry

    def _run(self, step: Step, record: KeyRecord) -> Entry:
        inputs = {name: self._sound(source) if isinstance(source, Output) else source for name, source in step.inputs.items()}
        with self._store.scratch() as folder:
            begun = time.monotonic()
            with self._kept_on_failure(step, Place(folder)), explained(self._store.root):
                cost = run_step(step, inputs, Place(folder), self._watcher, self._processes)
                _refuse_changed(step, record)
            entry = self._store.publish(folder, step.name, record, step.outputs, cost, by_content=not step.cached)
            self.results.ran.append(step.name)
            self._watcher.finished(step, time.monotonic() - begun)
        return entry

    def _sound(self, source: Output) -> Path:
        """Where an input lies, once its bytes are known to be right."""
        entry = self.results.entries.get(source.step)
        if entry is None or not self._store.check(entry, source.file):
            raise DamagedError(source.step)
        return self._store.path(entry, source.file)

    @contextlib.contextmanager
    def _kept_on_failure(self, step: Step, place: Place) -> Iterator[None]:
        try:
            yield
        except (StepFailedError, Cancelled):
            if self._manner.keep is not None:
                _keep(self._manner.keep, step, {name: place.out / name for name in step.outputs}, place.log)
            raise


def _refuse_changed(step: Step, record: KeyRecord) -> None:
    """StepFailedError when a file from outside is no longer what the key says: what the step has read then is anybody's guess."""
    outside = {f"input {name}": source for name, source in step.inputs.items() if isinstance(source, Path)} | dict(step.reads)
    for part, path in outside.items():
        now = _given(path, step).sha256 if path.exists() else None
        if now != record.parts.get(part):
            raise StepFailedError(step.name, f"{path.name} changed while the step was reading it", "build again when nobody writes it", 2)


def record_of(step: Step, results: Results) -> KeyRecord:
    """The key of a step whose inputs are there, made of what lies on disk now.

    Raises:
        StepFailedError: a file from outside cannot be read.
    """
    inputs = {
        name: results.held(source).sha256 if isinstance(source, Output) else _given(source, step).sha256
        for name, source in step.inputs.items()
    }
    return key_of(step, inputs, {name: _given(path, step).sha256 for name, path in step.reads.items() if path.exists()})


def _given(path: Path, step: Step) -> Held:
    """The digest of an input from outside."""
    try:
        return held_at(path)
    except OSError as error:
        raise StepFailedError(step.name, f"{path} cannot be read ({error.strerror})", "restore it, or make it readable", 2) from error


def _keep(folder: Path, step: Step, files: Mapping[str, Path], log: Path) -> None:
    """Copies for the user to look at: what lies in the store must not be touched."""
    place = folder_of(folder, step.name)
    with explained(folder, "folder", "--work"):
        place.mkdir(parents=True, exist_ok=True)
        for name, source in {**files, log.name: log}.items():
            target = place / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=shutil.copyfile)
            elif source.exists():
                shutil.copyfile(source, target)


def folder_of(root: Path, step: str) -> Path:
    """The folder of a step among the kept ones."""
    return root / "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in step)


class _Serial:
    """A watcher that is told one thing at a time."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self._lock = watcher, threading.Lock()

    def started(self, step: Step, index: int, total: int) -> None:
        with self._lock:
            self._watcher.started(step, index, total)

    def reused(self, step: Step, index: int, total: int) -> None:
        with self._lock:
            self._watcher.reused(step, index, total)

    def advanced(self, step: Step, done: int, total: int) -> None:
        with self._lock:
            self._watcher.advanced(step, done, total)

    def finished(self, step: Step, seconds: float) -> None:
        with self._lock:
            self._watcher.finished(step, seconds)
