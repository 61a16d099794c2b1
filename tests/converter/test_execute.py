"""Steps in their processes: what goes well, and every way it does not. Nothing may be left running or lying about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from edgepack.converter.execute import StepFailedError, Workspace, execute, run_step
from edgepack.converter.plan import Plan
from edgepack.converter.step import Limits, Step

STEPS = "tests.converter.sample_steps:"
# A worker starts in 0.1 s here; a loaded machine takes longer.
SHORT = Limits(3, 2**30)


@dataclass
class Record:
    """A watcher that remembers."""

    seen: list[str] = field(default_factory=list)

    def started(self, step: Step, index: int, total: int) -> None:
        self.seen.append(f"{step.name} {index}/{total}")

    def advanced(self, step: Step, done: int, total: int) -> None:
        self.seen.append(f"{done}/{total}")

    def finished(self, step: Step, seconds: float) -> None:
        assert seconds > 0
        self.seen.append(f"{step.name} ended")


class Impatient(Record):
    """Presses Ctrl-C at the first progress."""

    def advanced(self, step: Step, done: int, total: int) -> None:
        raise KeyboardInterrupt


def failing(function: str, folder: Path, limits: Limits = SHORT, outputs: tuple[str, ...] = (), **parameters: object) -> StepFailedError:
    """The failure of a step of one function."""
    with pytest.raises(StepFailedError) as caught:
        run_step(Step("sample", STEPS + function, {}, parameters, outputs, limits), Workspace(folder), Record())
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


def test_files_flow_from_step_to_step_and_the_watcher_sees_it(tmp_path: Path) -> None:
    number = Step("a number", f"{STEPS}write_number", {}, {"number": 21}, ("number.txt",))
    twice = Step("twice", f"{STEPS}double", {"number": number["number.txt"]}, {}, ("doubled.txt",))
    record = Record()
    execute(Plan.of([twice, number]), Workspace(tmp_path), record)
    assert (tmp_path / "twice" / "doubled.txt").read_text() == "42"
    assert record.seen == ["a number 0/2", "1/2", "2/2", "a number ended", "twice 1/2", "twice ended"]


def test_a_refusal_keeps_its_cause_hint_and_exit_code(tmp_path: Path) -> None:
    error = failing("refuse", tmp_path)
    assert (error.cause, error.hint, error.exit_code) == ("layer 'conv_3' is odd", "make it even", 2)


def test_an_exception_is_a_crash_in_one_line_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    error = failing("crash", tmp_path)
    assert error.cause == "KeyError: 'weights'" and error.exit_code == 3 and "--work" in error.hint
    assert "Traceback" in (tmp_path / "sample" / "log.txt").read_text()


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_step_ended_by_a_signal_is_reported_with_it_and_its_last_words(signal: str, tmp_path: Path) -> None:
    assert failing("die", tmp_path, by=signal).cause == f"it crashed ({signal}): kernel: check failed"


@pytest.mark.parametrize("code", [0, 5])
def test_a_step_that_leaves_without_a_word_has_crashed_even_with_exit_code_0(code: int, tmp_path: Path) -> None:
    assert failing("leave", tmp_path, code=code).cause == f"it crashed (exit code {code}): it said nothing"


def test_a_declared_output_that_was_not_written_is_named(tmp_path: Path) -> None:
    assert failing("write_nothing", tmp_path, outputs=("number.txt",)).cause == "it did not write number.txt"


def test_an_output_of_an_earlier_build_in_a_kept_workspace_does_not_pass_for_this_ones(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "number.txt").write_text("old")
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
    assert [path.name for path in (tmp_path / "sample").iterdir()] == ["log.txt"]


def test_a_crash_is_noticed_at_once_though_a_child_holds_the_pipe_and_the_child_ends(tmp_path: Path) -> None:
    begun = time.monotonic()
    error = failing("leave_a_child_that_holds_the_pipe", tmp_path, Limits(60, 2**30), pids=str(tmp_path / "pids"))
    assert "SIGSEGV" in error.cause and time.monotonic() - begun < 10
    assert is_gone(int((tmp_path / "pids").read_text()))


def test_ctrl_c_ends_the_step(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_step(Step("sample", f"{STEPS}hang"), Workspace(tmp_path), Impatient())
    assert time.monotonic() - begun < 10


def test_garbage_on_the_report_pipe_is_a_reported_defect(tmp_path: Path) -> None:
    assert "what is no message" in failing("babble", tmp_path).cause


def test_memory_beyond_the_limit_is_refused_with_the_option_that_raises_it(tmp_path: Path) -> None:
    error = failing("allocate", tmp_path, Limits(30, 2**28), size=2**29)
    assert "ran out of its memory limit" in error.cause and "--memory" in error.hint
    run_step(Step("sample", f"{STEPS}allocate", {}, {"size": 2**29}, ("number.txt",), Limits(30, 2**30)), Workspace(tmp_path), Record())


def test_a_file_in_the_working_folder_is_not_taken_for_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('the wrong onnx')")
    monkeypatch.chdir(tmp_path)
    run_step(Step("sample", f"{STEPS}say_where", {}, {}, ("where.txt",)), Workspace(tmp_path / "work"), Record())
    temporary, library, telemetry = (tmp_path / "work" / "sample" / "where.txt").read_text().split()
    assert Path(temporary).is_relative_to(tmp_path / "work") and not Path(temporary).exists()
    assert not Path(library).is_relative_to(tmp_path) and telemetry == "1"
