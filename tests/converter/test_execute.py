"""Plans run beside each other and only where they must: reuse, early cut-off, damage, failures, two builds at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgepack.api import Silent
from edgepack.converter.execute import Manner, Results, default_jobs, execute, folder_of
from edgepack.converter.plan import Plan
from edgepack.converter.process import StepFailedError
from edgepack.converter.step import Output, Step
from edgepack.converter.store import Store, StoreError, opened

STEPS = "tests.converter.sample_steps:"
LOG = frozenset({"log"})


class Record(Silent):
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.reused_steps: list[str] = []

    def started(self, step: Step, index: int, total: int) -> None:
        self.seen.append(f"{step.name} {index}/{total}")

    def reused(self, step: Step, index: int, total: int) -> None:
        self.seen.append(f"{step.name} {index}/{total} held")

    def advanced(self, step: Step, done: int, total: int) -> None:
        self.seen.append(f"{done}/{total}")

    def finished(self, step: Step, seconds: float) -> None:
        assert seconds > 0
        self.seen.append(f"{step.name} ended")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "store") as held:
        yield held


def number(value: int) -> Step:
    return Step("number", f"{STEPS}write_number", {}, {"number": value}, ("number.txt",))


def added(name: str, source: Output | Path, more: int, log: Path) -> Step:
    return Step(name, f"{STEPS}add", {"number": source}, {"more": more, "log": str(log)}, ("sum.txt",), unkeyed=LOG)


def chain(log: Path, start: int = 1, more: int = 1, by: int = 10) -> Plan:
    """A number, the remainder of it, and a sum on top of that."""
    first = number(start)
    middle = Step("middle", f"{STEPS}remainder", {"number": first["number.txt"]}, {"by": by, "log": str(log)}, ("sum.txt",), unkeyed=LOG)
    return Plan.of([first, middle, added("last", middle["sum.txt"], more, log)])


def run(plan: Plan, store: Store, **manner: object) -> Results:
    """As a build of its own, which has checked nothing yet."""
    return execute(plan, Store(store.root, None), Silent(), Manner(**manner))  # type: ignore[arg-type]


def text(results: Results, step: str, file: str = "sum.txt") -> str:
    return results.path(Output(step, file)).read_text()


def damage(path: Path) -> None:
    """Another byte, the same size."""
    path.chmod(0o644)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


# ---- what runs


def test_files_flow_from_step_to_step_and_the_watcher_sees_it(store: Store) -> None:
    first = number(21)
    twice = Step("twice", f"{STEPS}double", {"number": first["number.txt"]}, {}, ("doubled.txt",))
    record = Record()
    results = execute(Plan.of([twice, first]), store, record)
    assert text(results, "twice", "doubled.txt") == "42" and results.ran == ["number", "twice"]
    assert record.seen == ["number 0/2", "1/2", "2/2", "number ended", "twice 1/2", "twice ended"]
    record = Record()
    execute(Plan.of([twice, first]), store, record)
    assert record.seen == ["number 0/2 held", "twice 1/2 held"]


def test_steps_that_do_not_wait_for_each_other_run_at_once(store: Store, tmp_path: Path) -> None:
    """Each ends only when the other has begun."""
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    plan = Plan.of([Step(here, f"{STEPS}meet", {}, {"here": here, "there": there}, ("number.txt",)) for here, there in ((a, b), (b, a))])
    assert sorted(execute(plan, store, Silent(), Manner(jobs=2)).ran) == [a, b]


def test_one_job_runs_one_step_at_a_time(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    parameters = [{"name": name, "log": str(log)} for name in "abc"]
    plan = Plan.of([Step(each["name"], f"{STEPS}take_time", {}, each, ("number.txt",), unkeyed=LOG) for each in parameters])
    execute(plan, store, Silent(), Manner(jobs=1))
    lines = log.read_text().splitlines()
    assert sorted(lines[::2]) == ["begin a", "begin b", "begin c"]
    assert all(end == begin.replace("begin", "end") for begin, end in zip(lines[::2], lines[1::2], strict=True))


def test_there_are_as_many_jobs_as_processors_and_memory_for_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 5 * 2**30

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert default_jobs() == 2
    Memory.available = 2**20
    assert default_jobs() == 1
    Memory.available = 2**40
    assert default_jobs() == 8


# ---- what does not run again


def test_a_plan_run_again_runs_nothing_and_its_results_are_the_same(store: Store, tmp_path: Path) -> None:
    first, again = run(chain(tmp_path / "log"), store), run(chain(tmp_path / "other log"), store)
    assert first.ran == ["number", "middle", "last"] and again.ran == []
    assert again.entries == first.entries and text(again, "last") == "2"
    assert not (tmp_path / "other log").exists()


def test_a_changed_parameter_runs_its_step_and_what_follows(store: Store, tmp_path: Path) -> None:
    run(chain(tmp_path / "log"), store)
    assert run(chain(tmp_path / "log", more=5), store).ran == ["last"]
    changed = run(chain(tmp_path / "log", start=2, more=5), store)
    assert changed.ran == ["number", "middle", "last"] and text(changed, "last") == "7"
    assert changed.records["last"].changes_since(run(chain(tmp_path / "log"), store).records["last"].parts) == [
        "input number changed",
        "parameter more changed from 1 to 5",
    ]


def test_a_step_that_writes_the_same_as_before_does_not_run_what_follows(store: Store, tmp_path: Path) -> None:
    run(chain(tmp_path / "log", start=1), store)
    assert run(chain(tmp_path / "log", start=11), store).ran == ["number", "middle"]


def test_a_file_from_outside_counts_by_its_bytes(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "given.txt"
    path.write_text("1")
    plan = Plan.of([added("sum", path, 1, tmp_path / "log")])
    assert [len(run(plan, store).ran) for _ in range(2)] == [1, 0]
    path.write_text("2")
    results = run(plan, store)
    assert results.ran == ["sum"] and text(results, "sum") == "3"
    (tmp_path / "moved.txt").write_text("2")
    assert run(Plan.of([added("sum", tmp_path / "moved.txt", 1, tmp_path / "log")]), store).ran == []


def test_a_file_from_outside_that_vanished_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "given.txt").touch()
    plan = Plan.of([added("sum", tmp_path / "given.txt", 1, tmp_path / "log")])
    (tmp_path / "given.txt").unlink()
    with pytest.raises(StepFailedError, match=r"given.txt cannot be read \(No such file"):
        run(plan, store)


def test_a_step_that_nobody_can_foresee_runs_each_time_and_what_follows_only_after_a_change(store: Store, tmp_path: Path) -> None:
    path, log = tmp_path / "undeclared.txt", tmp_path / "log"
    look = Step("look", f"{STEPS}look_around", {}, {"path": str(path), "log": str(log)}, ("sum.txt",), unkeyed=LOG, cached=False)
    plan = Plan.of([look, added("sum", look["sum.txt"], 1, log)])
    path.write_text("1")
    assert [run(plan, store).ran for _ in range(2)] == [["look", "sum"], ["look"]]
    path.write_text("2")
    changed = run(plan, store)
    assert changed.ran == ["look", "sum"] and text(changed, "sum") == "3"
    path.write_text("1")
    back = run(plan, store)
    assert back.ran == ["look"] and text(back, "sum") == "2"


def test_two_steps_of_one_kind_under_two_names_run_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_text("1")
    plan = Plan.of([added(name, tmp_path / "given.txt", 1, tmp_path / "log") for name in ("a", "b")])
    record = Record()
    results = execute(plan, store, record, Manner(jobs=2))
    assert (tmp_path / "log").read_text() == "add 1\n" and text(results, "a") == text(results, "b") == "2"
    # The one that waited has ended for whoever watches, too.
    assert {"a ended", "b ended"} <= set(record.seen) or any(line.endswith("held") for line in record.seen)


# ---- damage


def test_a_damaged_input_is_made_again_in_the_middle_of_a_plan(store: Store, tmp_path: Path) -> None:
    before = run(chain(tmp_path / "log"), store)
    damage(before.path(Output("middle", "sum.txt")))
    after = run(chain(tmp_path / "log", more=5), store)
    assert after.ran == ["middle", "last"] and text(after, "last") == "6"


def test_damage_all_the_way_up_is_made_good(store: Store, tmp_path: Path) -> None:
    before = run(chain(tmp_path / "log"), store)
    for step, file in (("number", "number.txt"), ("middle", "sum.txt")):
        damage(before.path(Output(step, file)))
    after = run(chain(tmp_path / "log", more=5), store)
    assert after.ran == ["number", "middle", "last"] and text(after, "last") == "6"


def test_what_the_caller_will_read_is_checked_and_made_again(store: Store, tmp_path: Path) -> None:
    plan = chain(tmp_path / "log")
    damage(run(plan, store).path(Output("last", "sum.txt")))
    assert execute(plan, Store(store.root, None), Silent()).ran == []
    after = execute(plan, Store(store.root, None), Silent(), wanted=[Output("last", "sum.txt")])
    assert after.ran == ["last"] and text(after, "last") == "2"


def test_a_damaged_result_of_a_step_that_always_runs_is_replaced(store: Store, tmp_path: Path) -> None:
    path, log = tmp_path / "undeclared.txt", tmp_path / "log"
    path.write_text("1")
    look = Step("look", f"{STEPS}look_around", {}, {"path": str(path), "log": str(log)}, ("sum.txt",), unkeyed=LOG, cached=False)
    before = run(Plan.of([look]), store)
    damage(before.path(Output("look", "sum.txt")))
    after = run(Plan.of([look, added("sum", look["sum.txt"], 1, log)]), store)
    assert text(after, "look") == "1" and text(after, "sum") == "2"


@pytest.mark.parametrize("name", ["weight.bin", "weights.bin"], ids=["another byte", "renamed"])
def test_a_damaged_folder_is_made_again(name: str, store: Store) -> None:
    package = Step("package", f"{STEPS}write_package", {}, {}, ("model.mlpackage",))
    data = run(Plan.of([package]), store).path(package["model.mlpackage"]) / "Data"
    damage(data / "weight.bin")
    (data / "weight.bin").rename(data / name)
    reader = Step("reader", f"{STEPS}read_package", {"package": package["model.mlpackage"]}, {}, ("sum.txt",))
    results = run(Plan.of([package, reader]), store)
    assert results.ran == ["package", "reader"] and text(results, "reader") == "100"


def test_a_disk_that_does_not_keep_what_is_written_is_said_to_be_one(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "check", lambda *_: False)
    with pytest.raises(StepFailedError, match="does not stay what it was -> next: check the disk"):
        run(chain(tmp_path / "log"), store)


# ---- failures


def failing_plan(log: Path, tmp_path: Path) -> Plan:
    """Steps: bad, one that needs it, and two that do not."""
    (tmp_path / "given.txt").write_text("1")
    bad = Step("bad", f"{STEPS}refuse", {}, {}, ("sum.txt",))
    good = added("good", tmp_path / "given.txt", 1, log)
    return Plan.of([bad, added("after bad", bad["sum.txt"], 2, log), good, added("after good", good["sum.txt"], 3, log)])


def test_the_first_failure_ends_the_plan_and_what_was_finished_is_kept(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match="layer 'conv_3' is odd") as caught:
        run(failing_plan(tmp_path / "log", tmp_path), store, jobs=1)
    assert caught.value.step == "bad" and not list((store.root / "tmp").iterdir())


def test_told_to_keep_going_a_failure_costs_only_what_depends_on_it(store: Store, tmp_path: Path) -> None:
    results = run(failing_plan(tmp_path / "log", tmp_path), store, keep_going=True)
    assert set(results.entries) == {"good", "after good"} and list(results.failures) == ["bad"]
    again = run(failing_plan(tmp_path / "log", tmp_path), store, keep_going=True)
    assert again.ran == [] and list(again.failures) == ["bad"]


def _workers() -> list[psutil.Process]:
    """The workers of steps that this process has running; other tests may have left children of other kinds."""
    return [child for child in psutil.Process().children(recursive=True) if "edgepack.converter.worker" in child.cmdline()]


def test_a_failure_ends_what_runs_beside_it(store: Store) -> None:
    begun = time.monotonic()
    plan = Plan.of([Step("hang", f"{STEPS}hang"), Step("bad", f"{STEPS}refuse")])
    with pytest.raises(StepFailedError, match="odd"):
        run(plan, store, jobs=2)
    assert time.monotonic() - begun < 60
    assert not _workers() and not list((store.root / "tmp").iterdir())


class Impatient(Silent):
    """Presses Ctrl-C at the first progress."""

    def advanced(self, step: Step, done: int, total: int) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_ends_all_steps_and_leaves_nothing_half_done(store: Store) -> None:
    plan = Plan.of([Step(name, f"{STEPS}hang", {}, {}, (f"{name}.txt",)) for name in "ab"])
    with pytest.raises(KeyboardInterrupt):
        execute(plan, store, Impatient(), Manner(jobs=2))
    assert not _workers()
    assert not list((store.root / "tmp").iterdir()) and store.entries() == []


# ---- copies for the user


def test_a_kept_step_has_its_files_and_its_log_whether_it_ran_was_held_or_failed(store: Store, tmp_path: Path) -> None:
    for folder in ("ran", "held"):
        run(chain(tmp_path / "log"), store, keep=tmp_path / folder)
        assert (folder_of(tmp_path / folder, "last") / "sum.txt").read_text() == "2"
        assert (folder_of(tmp_path / folder, "last") / "log.txt").is_file()
        (folder_of(tmp_path / folder, "last") / "sum.txt").write_text("a copy can be changed")
    assert text(run(chain(tmp_path / "log"), store), "last") == "2"
    with pytest.raises(StepFailedError):
        run(Plan.of([Step("a: bad", f"{STEPS}crash")]), store, keep=tmp_path / "failed")
    assert "Traceback" in (tmp_path / "failed" / "a__bad" / "log.txt").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file cannot be written"):
        run(chain(tmp_path / "log"), store, keep=tmp_path / "file")


# ---- cost, and two builds


def test_an_entry_says_what_its_step_took(store: Store) -> None:
    parameters = {"seconds": 0.4, "size": 200 * 2**20, "apart": False}
    results = run(Plan.of([number(1), Step("work", f"{STEPS}work", {}, parameters, ("number.txt",))]), store)
    work, idle = results.entries["work"].cost, results.entries["number"].cost
    assert work.cpu_seconds >= idle.cpu_seconds + 0.4 and work.peak_bytes >= idle.peak_bytes + 150 * 2**20


TWO = """
import sys
from pathlib import Path
from edgepack.api import Silent
from edgepack.converter.execute import execute
from edgepack.converter.plan import Plan
from edgepack.converter.step import Step
from edgepack.converter.store import opened
from tests.converter.sample_steps import take_time
root, log = Path(sys.argv[1]), sys.argv[2]
function = "tests.converter.sample_steps:take_time"
steps = [Step(n, function, {}, {"name": n, "log": log}, ("number.txt",), unkeyed=frozenset({"log"})) for n in "abcd"]
last = Step("e", "tests.converter.sample_steps:double", {"number": steps[0]["number.txt"]}, {}, ("doubled.txt",))
with opened(root) as store:
    results = execute(Plan.of(steps), store, Silent())
    print(*sorted(results.ran), sep="", end=" ")
    print(*(results.path(step["number.txt"]).read_text() for step in steps), sep="")
"""


def test_two_builds_at_once_run_each_step_once_and_both_get_every_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "store"), str(tmp_path / "log")]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [build.communicate(timeout=120)[0].split() for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    begun = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("begin")]
    assert sorted(begun) == ["begin a", "begin b", "begin c", "begin d"]
    # Who ran nothing says one word.
    assert all(words[-1] == "abcd" for words in said)
    assert "".join(sorted("".join(words[0] for words in said if len(words) == 2))) == "abcd"
