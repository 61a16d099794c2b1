"""The timing loop against clocks of this file: what it records is what passed, and a clock that jumps is not believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgepack.runner import contract


class Clock:
    """Nanoseconds that pass only where a test says so: with each reading and with each query; seen in steps of ``step``."""

    def __init__(self, reading: int = 0, step: int = 1) -> None:
        self.now, self.reading, self.step, self.readings = 10**12, reading, step, 0

    def read(self) -> int:
        self.now += self.reading
        self.readings += 1
        return self.now // self.step * self.step

    def query(self, *durations: int) -> Callable[[], None]:
        """A query that takes these nanoseconds in turn."""
        left = self._endless(durations)

        def invoke() -> None:
            self.now += next(left)

        return invoke

    @staticmethod
    def _endless(durations: tuple[int, ...]) -> Iterator[int]:
        yield from durations
        while True:
            yield durations[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    held = Clock()
    monkeypatch.setattr(time, "perf_counter_ns", lambda: held.read())
    return held


def test_samples_and_starts_are_what_passed_in_the_order_taken(clock: Clock) -> None:
    starts, samples = contract.interleave([clock.query(10, 20, 30), clock.query(1, 2, 3)], 3, 0, [1, 1])
    assert [list(each) for each in samples] == [[10, 20, 30], [1, 2, 3]]
    # A 10, B 1, then B 2, A 20, then A 30, B 3.
    assert [list(each) for each in starts] == [[0, 13, 33], [10, 11, 63]]
    assert samples[0].dtype == starts[0].dtype == np.int64


def test_rounds_go_on_until_pairs_and_seconds_are_both_reached(clock: Clock) -> None:
    _, few = contract.interleave([clock.query(10**8)], 3, 1.0, [1])
    assert few[0].size == 10
    _, many = contract.interleave([clock.query(10**8)], 30, 1.0, [1])
    assert many[0].size == 30


def test_a_slow_query_is_kept_wherever_it_is(clock: Clock) -> None:
    _, (samples,) = contract.interleave([clock.query(5, 5_000_000, 5)], 50, 0, [1])
    assert sorted(samples)[-1] == 5_000_000 and samples.size == 50


def test_a_batch_is_one_sample_of_its_mean(clock: Clock) -> None:
    _, (samples,) = contract.interleave([clock.query(1, 2, 3, 4, 8)], 2, 0, [4])
    # (1 + 2 + 3 + 4) / 4 = 2.5 rounds up, (8 + 8 + 8 + 8) / 4 = 8.
    assert list(samples) == [3, 8]


@pytest.mark.parametrize("durations", [(5, 5, -7, 5), (-1,), (5, 5, 5, -(10**11), 5)])
def test_a_clock_that_goes_back_in_a_query_is_refused(clock: Clock, durations: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the clock went back \d+ ns after \d+ rounds: no time of this run can be trusted"):
        contract.interleave([clock.query(*durations), clock.query(3)], 10, 0, [1, 1])


def test_a_clock_that_goes_back_between_queries_is_refused(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0, 100, 110, 111, 105, 130, 140])
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(readings))
    with pytest.raises(ValueError, match="the clock went back 5 ns"):
        contract.interleave([lambda: None], 2, 0, [1])


def test_a_clock_that_jumps_ahead_shows_as_a_sample(clock: Clock) -> None:
    starts, (samples,) = contract.interleave([clock.query(5, 10**10, 5)], 20, 0, [1])
    assert samples.max() == 10**10 and starts[0][-1] > 10**10


@pytest.mark.parametrize("settling", [0, 7, 30, 100])
def test_warm_up_goes_on_until_times_no_longer_fall(clock: Clock, settling: int) -> None:
    falling = [1000 + 50 * (settling - i) for i in range(settling)]
    times = contract.settle(clock.query(*falling, 1000), 20, 60)
    assert contract.is_settled(times) and times[: len(falling)] == falling[: len(times)]
    # Twenty equal times in a row are needed, and looks are ten queries apart.
    assert max(20, settling) <= len(times) <= max(20, settling + 30)


def test_a_late_query_in_the_warm_up_delays_it_by_a_window_at_most(clock: Clock) -> None:
    times = contract.settle(clock.query(*[1000] * 3, 90_000, *[1000] * 16, 1000), 20, 60)
    assert contract.is_settled(times) and len(times) <= 30


def test_warm_up_stops_at_its_time_and_says_that_it_did_not_settle(clock: Clock) -> None:
    falling = [10**9 - 10**6 * i for i in range(500)]
    times = contract.settle(clock.query(*falling), 20, 30)
    assert not contract.is_settled(times) and 30 <= len(times) <= 50


def test_without_time_for_it_the_warm_up_is_exactly_the_queries_asked_for(clock: Clock) -> None:
    assert contract.settle(clock.query(7), 3, 0) == [7, 7, 7]
    assert contract.settle(clock.query(7), 20, 0) == [7] * 20


def test_settled_noise_passes_half_of_all_looks() -> None:
    rng = np.random.default_rng(0)
    passed = [contract.is_settled([int(x) for x in 1e6 * rng.lognormal(0, 0.3, 20)]) for _ in range(2000)]
    assert np.mean(passed) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("step", [100, 15_625, 1_000_000])
def test_the_step_of_a_coarse_clock_is_seen(clock: Clock, step: int) -> None:
    clock.step, clock.reading = step, 40
    assert contract.clock_step() == step


def test_a_clock_that_stands_still_is_given_up(clock: Clock) -> None:
    assert contract.clock_step() == 0 and clock.readings < 10**6


@pytest.mark.parametrize(
    "query, step, batch", [(10**6, 1, 1), (10**6, 100_000, 16), (1000, 15_000, 2048), (10_001, 100, 1), (9999, 100, 2)]
)
def test_a_batch_spans_twice_the_fifty_steps_of_the_clock_that_are_needed(clock: Clock, query: int, step: int, batch: int) -> None:
    clock.step = step
    invoke = clock.query(query)
    warm_up = contract.settle(invoke, 5, 0)
    assert contract.batch_size(invoke, warm_up, step) == batch


def test_nothing_is_batched_that_was_not_warmed_up(clock: Clock) -> None:
    assert contract.batch_size(clock.query(1), [], 1000) == 1


def test_on_this_machine_the_loop_adds_less_than_five_microseconds_to_a_query() -> None:
    """The least of many: what the machine does beside it is no overhead of the loop. The bar with real models: latency_trials.py."""
    _, (samples,) = contract.interleave([lambda: None], 2000, 0, [1])
    assert samples.min() < 5000


@pytest.mark.parametrize(
    "query, seconds, batches", [(50_000, 600, [6, 6]), (50_000, 60, [1, 1]), (50_000, 0, [1, 1]), (1000, 600, [300, 300])]
)
def test_a_long_run_of_fast_queries_is_taken_in_batches(clock: Clock, query: int, seconds: float, batches: list[int]) -> None:
    warm_up = [[query, query + 20], [query + 3]]
    assert contract.bounded([1, 1], warm_up, seconds) == batches
    assert seconds * 1e9 / sum(count * min(times) for count, times in zip(batches, warm_up, strict=True)) <= contract.MOST_ROUNDS


def test_batches_of_a_coarse_clock_grow_by_one_factor_and_nothing_is_known_without_a_warm_up() -> None:
    assert contract.bounded([2, 4], [[10**4], [5000]], 600.0) == [30, 60]
    assert contract.bounded([1, 1], [[], []], 600.0) == [1, 1]


@pytest.mark.parametrize("late", [3, 4, 8, 15, 16])
def test_a_clock_that_goes_back_is_found_wherever_slices_end(clock: Clock, monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    monkeypatch.setattr(contract, "_SLICE", 4)
    starts = np.arange(0, 340, 20)[None] + np.array([[0], [10]])
    # Every second round runs backwards.
    starts[:, 1::2] = starts[::-1, 1::2]
    ends = starts + 5
    contract._elapsed(starts, ends, np.array([1, 1]))
    starts[:, late] -= 16
    ends[:, late] -= 16
    with pytest.raises(ValueError, match="the clock went back 11 ns"):
        contract._elapsed(starts, ends, np.array([1, 1]))
