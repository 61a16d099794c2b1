"""Talking to a runner: every way a program can end, hang or lie, and how tensors get to an artifact's terms and back."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepack.backends.artifact import Binding
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import RunnerError, artifact_feed, converse, hub_arrays
from tests.devices import programs

LIMITS = Limits(30, 2**30)


def ask(program: str, *arguments: str, limits: Limits = LIMITS, seen: list[tuple[int, int]] | None = None) -> int:
    """The ``count`` a program answers."""
    steps = seen if seen is not None else []
    return converse([sys.executable, "-c", program, *arguments], "sample", limits, lambda done, total: steps.append((done, total))).count


def failure(program: str, *arguments: str, limits: Limits = LIMITS) -> RunnerError:
    with pytest.raises(RunnerError) as caught:
        ask(program, *arguments, limits=limits)
    assert caught.value.exit_code == 3 and caught.value.hint
    return caught.value


def is_gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_the_answer_is_the_last_line_whatever_libraries_print_before() -> None:
    assert ask(programs.GOOD) == 3


def test_progress_is_told_and_other_lines_are_not_taken_for_it() -> None:
    seen: list[tuple[int, int]] = []
    assert ask(programs.WITH_PROGRESS, seen=seen) == 3
    assert seen == [(1, 3)]


def test_a_runner_that_complains_at_length_is_not_blocked_by_a_full_pipe() -> None:
    assert ask(programs.LOUD) == 3


@pytest.mark.parametrize("program", [programs.SILENT, programs.GARBAGE, programs.BINARY_ANSWER], ids=["nothing", "garbage", "not UTF-8"])
def test_no_answer_is_a_crash_with_its_exit_code(program: str) -> None:
    assert failure(program).cause == "the sample runner crashed (exit code 0): it said nothing"


def test_a_runner_that_aborts_is_named_with_its_signal_and_last_words() -> None:
    assert failure(programs.ABORTS).cause == "the sample runner crashed (SIGABRT): kernel: check failed"


def test_a_reported_failure_keeps_the_runners_words() -> None:
    assert failure(programs.NOT_OK).cause == "the sample runner failed: ValueError: no input y"


def test_an_answer_in_another_schema_is_refused() -> None:
    assert failure(programs.OTHER_SCHEMA).cause == "the sample runner answers in schema 2, not 1"


def test_a_runner_that_hangs_is_ended_at_its_limit_with_what_it_started(tmp_path: Path) -> None:
    begun = time.monotonic()
    error = failure(programs.HANGS_WITH_CHILD, str(tmp_path / "pid"), limits=Limits(2, 2**30))
    assert error.cause == "the sample runner hung: no answer after 2 s" and time.monotonic() - begun < 10
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_what_a_runner_leaves_running_ends_with_it(tmp_path: Path) -> None:
    assert ask(programs.LEAVES_CHILD, str(tmp_path / "pid")) == 3
    assert is_gone(int((tmp_path / "pid").read_text()))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_runner_and_leaves_no_thread_to_wait_for() -> None:
    # Other tests of this process may have left a resource tracker of multiprocessing.
    before = {child.pid for child in psutil.Process().children()}
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        ask(programs.HANGS)
    assert {child.pid for child in psutil.Process().children()} <= before
    time.sleep(0.1)
    assert [thread.name for thread in threading.enumerate() if not thread.daemon] == [threading.main_thread().name]


@pytest.mark.parametrize("program", [programs.ALLOCATES, programs.NO_MEMORY], ids=["traceback", "answer"])
def test_a_runner_out_of_memory_says_which_option_gives_more(program: str) -> None:
    error = failure(program, limits=Limits(30, 2**28))
    assert "MemoryError" in error.cause and "--memory" in error.hint


@given(st.permutations(range(3)), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_an_artifacts_layout_and_back_is_the_identity(permutation: list[int], count: int, seed: int) -> None:
    stacked = np.random.default_rng(seed).normal(size=(count, 2, 3, 4)).astype(np.float32)
    binding = Binding("image_in", "image", "float32", (), tuple(permutation))
    fed = artifact_feed({"image": stacked}, [binding])
    for sample, transposed in zip(stacked, fed["image_in"], strict=True):
        np.testing.assert_array_equal(transposed, np.transpose(sample, permutation))
    assert fed["image_in"].flags.c_contiguous
    np.testing.assert_array_equal(hub_arrays(fed, [binding])["image"], stacked)


def test_integers_become_the_artifacts_when_they_fit_and_are_refused_when_they_do_not() -> None:
    binding = Binding("ids", "tokens", "int32", (2,))
    fed = artifact_feed({"tokens": np.array([[1, 2**31 - 1]])}, [binding])
    assert fed["ids"].dtype == np.int32 and fed["ids"].tolist() == [[1, 2**31 - 1]]
    with pytest.raises(RunnerError, match="input 'tokens' holds int64 numbers that the artifact's int32 cannot"):
        artifact_feed({"tokens": np.array([[1, 2**31]])}, [binding])
