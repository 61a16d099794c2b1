"""One step in its process: what goes well, and every way it does not. Nothing may be left running or lying about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgepack.api import Silent
from edgepack.converter.process import Cancelled, Cost, Place, Processes, StepFailedError, Watcher, run_step
from edgepack.converter.step import Limits, Step

STEPS = "tests.converter.sample_steps:"
# A worker starts in 0.1 s here; a loaded machine takes longer.
SHORT = Limits(3, 2**30)


class Recorded(Silent):
    """Remembers how far steps are."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def advanced(self, step: Step, done: int, total: int) -> None:
        self.seen.append(f"{step.name} {done}/{total}")


class Cancelling(Silent):
    """Gives the build up at the first progress."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def advanced(self, step: Step, done: int, total: int) -> None:
        self._processes.cancel()


class Impatient(Silent):
    """Presses Ctrl-C at the first progress."""

    def advanced(self, step: Step, done: int, total: int) -> None:
        raise KeyboardInterrupt


def ran(step: Step, folder: Path, watcher: Watcher | None = None, processes: Processes | None = None, **inputs: Path) -> Cost:
    """Run a step in a fresh folder."""
    folder.mkdir(exist_ok=True)
    return run_step(step, inputs, Place(folder), watcher or Silent(), processes or Processes())


def failing(function: str, folder: Path, limits: Limits = SHORT, outputs: tuple[str, ...] = (), **parameters: object) -> StepFailedError:
    """The failure of a step of one function."""
    with pytest.raises(StepFailedError) as caught:
        ran(Step("sample", STEPS + function, {}, parameters, outputs, limits), folder / "sample")
    assert caught.value.step == "sample"
    return caught.value


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """No test of this file may leave a child behind."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def is_gone(pid: int) -> bool:
    """Whether a process has ended; SIGKILL takes effect a moment after it is sent."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_step_reads_its_inputs_writes_its_outputs_and_tells_how_far_it_is(tmp_path: Path) -> None:
    record = Recorded()
    ran(Step("number", f"{STEPS}write_number", {}, {"number": 21}, ("number.txt",)), tmp_path / "a", record)
    ran(Step("twice", f"{STEPS}double", {}, {}, ("doubled.txt",)), tmp_path / "b", number=tmp_path / "a" / "out" / "number.txt")
    assert (tmp_path / "b" / "out" / "doubled.txt").read_text() == "42"
    assert record.seen == ["number 1/2", "number 2/2"]


def test_a_refusal_keeps_its_cause_hint_and_exit_code(tmp_path: Path) -> None:
    error = failing("refuse", tmp_path)
    assert (error.cause, error.hint, error.exit_code) == ("layer 'conv_3' is odd", "make it even", 2)


def test_an_exception_is_a_crash_in_one_line_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    error = failing("crash", tmp_path)
    assert error.cause == "KeyError: 'weights'" and error.exit_code == 3 and "--work" in error.hint
    assert "Traceback" in (tmp_path / "sample" / "log.txt").read_text()


@pytest.mark.parametrize("by", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_step_ended_by_a_signal_is_reported_with_it_and_its_last_words(by: str, tmp_path: Path) -> None:
    assert failing("die", tmp_path, by=by).cause == f"it crashed ({by}): kernel: check failed"


@pytest.mark.parametrize("code", [0, 5])
def test_a_step_that_leaves_without_a_word_has_crashed_even_with_exit_code_0(code: int, tmp_path: Path) -> None:
    assert failing("leave", tmp_path, code=code).cause == f"it crashed (exit code {code}): it said nothing"


def test_a_declared_output_that_was_not_written_is_named(tmp_path: Path) -> None:
    assert failing("write_nothing", tmp_path, outputs=("number.txt",)).cause == "it did not write number.txt"


def test_a_step_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    begun = time.monotonic()
    error = failing("hang", tmp_path)
    assert error.cause == "it hung: no end after 3 s" and "--timeout" in error.hint
    assert 3 <= time.monotonic() - begun < 5


def test_a_step_that_works_but_never_leaves_is_ended_at_its_limit(tmp_path: Path) -> None:
    assert "it hung" in failing("hang_at_exit", tmp_path, outputs=("number.txt",)).cause


def test_what_a_hanging_step_started_ends_with_it_sessions_of_their_own_and_temporary_files_included(tmp_path: Path) -> None:
    failing("hang_with_family", tmp_path, pids=str(tmp_path / "pids"))
    assert all(is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    assert not list((tmp_path / "sample" / "out").iterdir())
    # What it left in its folder for temporary files goes with its place, which is the caller's.
    assert {path.name for path in (tmp_path / "sample").iterdir()} == {"log.txt", "out", "tmp"}


def test_a_crash_is_noticed_at_once_though_a_child_holds_the_pipe_and_the_child_ends(tmp_path: Path) -> None:
    begun = time.monotonic()
    error = failing("leave_a_child_that_holds_the_pipe", tmp_path, Limits(60, 2**30), pids=str(tmp_path / "pids"))
    assert "SIGSEGV" in error.cause and time.monotonic() - begun < 10
    assert is_gone(int((tmp_path / "pids").read_text()))


def test_ctrl_c_ends_the_step(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ran(Step("sample", f"{STEPS}hang"), tmp_path / "sample", Impatient())
    assert time.monotonic() - begun < 10


def test_a_cancelled_build_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    processes, begun = Processes(), time.monotonic()
    with pytest.raises(Cancelled):
        ran(Step("sample", f"{STEPS}hang"), tmp_path / "a", Cancelling(processes), processes)
    with pytest.raises(Cancelled):
        ran(Step("sample", f"{STEPS}write_number", {}, {"number": 1}, ("number.txt",)), tmp_path / "b", None, processes)
    assert time.monotonic() - begun < 10
    assert not list((tmp_path / "b" / "out").iterdir())


def test_a_worker_whose_parent_is_killed_leaves(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tests.converter.test_process import ran, STEPS
from edgepack.converter.step import Step
ran(Step("sample", STEPS + "hang_with_family", {{}}, {{"pids": {str(tmp_path / "pids")!r}}}), Path({str(tmp_path / "sample")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        end = time.monotonic() + 60
        while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        (worker,) = psutil.Process(parent.pid).children()
        children = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        parent.send_signal(signal.SIGKILL)
    assert is_gone(worker.pid)
    for pid in children:
        # What a step itself starts holds no tether of ours: the runners have their own.
        os.kill(pid, signal.SIGKILL)


def test_cost_is_the_cpu_time_and_the_peak_memory_of_the_step_and_of_what_it_started(tmp_path: Path) -> None:
    """Independent of the operating system's count: a known time of work, a known size of pages written to."""
    idle = ran(Step("sample", f"{STEPS}write_number", {}, {"number": 1}, ("number.txt",)), tmp_path / "idle")
    for apart in (False, True):
        parameters = {"seconds": 0.5, "size": 300 * 2**20, "apart": apart}
        cost = ran(Step("sample", f"{STEPS}work", {}, parameters, ("number.txt",)), tmp_path / f"work {apart}")
        assert 0.5 <= cost.cpu_seconds - idle.cpu_seconds < 3
        assert 300 * 2**20 <= cost.peak_bytes < 400 * 2**20
    assert 0 < idle.peak_bytes < 200 * 2**20 and 0 < idle.cpu_seconds < 2


def test_hash_seed_language_time_zone_threads_and_mask_are_the_same_wherever_a_build_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step("sample", f"{STEPS}say_surroundings", {}, {}, ("said.txt",))
    ran(step, tmp_path / "a")
    others = {"PYTHONHASHSEED": "7", "LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "3", "PYTHONUTF8": "0"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    mask = os.umask(0o077)
    try:
        ran(step, tmp_path / "b")
    finally:
        os.umask(mask)
    said = [(tmp_path / name / "out" / "said.txt").read_text() for name in "ab"]
    assert said[0] == said[1] and "0o644" in said[0]


def test_garbage_on_the_report_pipe_is_a_reported_defect(tmp_path: Path) -> None:
    assert "what is no message" in failing("babble", tmp_path).cause


def test_memory_beyond_the_limit_is_refused_with_the_option_that_raises_it(tmp_path: Path) -> None:
    error = failing("allocate", tmp_path, Limits(30, 2**28), size=2**29)
    assert "ran out of its memory limit" in error.cause and "--memory" in error.hint
    ran(Step("sample", f"{STEPS}allocate", {}, {"size": 2**29}, ("number.txt",), Limits(30, 2**30)), tmp_path / "more")


def test_a_file_in_the_working_folder_is_not_taken_for_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('the wrong onnx')")
    monkeypatch.chdir(tmp_path)
    ran(Step("sample", f"{STEPS}say_where", {}, {}, ("where.txt",)), tmp_path / "work")
    temporary, library, telemetry = (tmp_path / "work" / "out" / "where.txt").read_text().split()
    assert Path(temporary) == tmp_path / "work" / "tmp" and not list(Path(temporary).iterdir())
    assert not Path(library).is_relative_to(tmp_path) and telemetry == "1"


def test_a_worker_that_cannot_be_started_is_not_blamed_on_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no such python"))
    error = failing("succeeds", tmp_path)
    assert error.cause.startswith("it cannot be started") and error.exit_code == 3
