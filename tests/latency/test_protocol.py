"""From a runner's nanoseconds to the manifest, with a real runner's response and with broken ones."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgepack.errors import InputError
from edgepack.latency.protocol import PROFILES, LatencyError, profile, summarize
from edgepack.latency.statistics import fewest_samples
from edgepack.pack.manifest import Latency
from edgepack.runner import contract

RESPONSE: dict[str, Any] = {
    "ok": True,
    "threads": 1,
    "warm_up_ns": {"fp32": [90_000_000, 2_000_000, 2_000_000, 2_000_000], "w8a8": [40_000_000, 1_000_000, 1_000_000, 1_000_000]},
    "load_average": 0.4,
    "timer_resolution_ns": 1.0,
}


def _samples(n: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "fp32": (2e6 * rng.lognormal(0, 0.03, n)).astype(np.int64),
        "w8a8": (1e6 * rng.lognormal(0, 0.03, n)).astype(np.int64),
    }


def _latency(samples: dict[str, np.ndarray] | None = None, label: str = "w8a8", baseline: str | None = "fp32", **changed: Any) -> Latency:
    response = {**RESPONSE, **changed}
    return summarize(samples or _samples(), response, label=label, baseline=baseline, truth="host", environment={"kernel": "Linux"})


def test_a_clean_run_is_milliseconds_with_intervals_and_no_warning() -> None:
    found = _latency()
    assert found.p50 is not None
    assert found.p50.value == pytest.approx(1.0, rel=0.02)
    assert found.p50.low < found.p50.value < found.p50.high
    assert found.ratio_to_fp32 is not None
    assert found.ratio_to_fp32.value == pytest.approx(0.5, rel=0.02)
    assert (found.samples, found.threads, found.warm_up, found.truth, found.warnings) == (300, 1, 4, "host", ())
    assert found.p99 is None
    assert sum(found.histogram_counts) == 300


def test_the_fp32_artifact_has_no_ratio_to_itself_and_no_warning_about_it() -> None:
    found = _latency(label="fp32", baseline=None)
    assert found.ratio_to_fp32 is None
    assert found.warnings == ()


def test_the_record_survives_json() -> None:
    found = _latency()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Latency) == found


@pytest.mark.parametrize(
    "samples, changed, warning",
    [
        (_samples(30), {}, "30 samples: p90 needs 100"),
        (_samples(30), {}, "no ratio to fp32: too few samples (30)"),
        (None, {"warm_up_ns": {"w8a8": [9_000_000] * 4}}, "warm-up of 4 queries had not settled"),
        (None, {"warm_up_ns": {}}, "no warm-up"),
        (None, {"load_average": 3.5}, "other load: load average 3.5 with 1 thread(s)"),
        ({name: (each * np.linspace(1, 1.3, 300)).astype(np.int64) for name, each in _samples().items()}, {}, "neighbouring samples"),
    ],
)
def test_what_a_reader_must_know_is_said(samples: dict[str, np.ndarray] | None, changed: dict[str, Any], warning: str) -> None:
    assert any(line.startswith(warning) for line in _latency(samples, **changed).warnings)


def _disturbed(by: np.ndarray) -> dict[str, np.ndarray]:
    return {name: (each * by).astype(np.int64) for name, each in _samples(len(by)).items()}


_SCATTERED = np.where(np.random.default_rng(1).random(300) < 0.1, 1.5, 1.0)
_BURST = np.where((np.arange(300) >= 200) & (np.arange(300) < 230), 1.5, 1.0)


@pytest.mark.parametrize(
    "samples, changed, what, to_do",
    [
        ({name: each // 100_000 * 100_000 for name, each in _samples().items()}, {}, "coarse timer: the shortest sample is ", "inner"),
        (None, {"timer_resolution_ns": 1e6}, "coarse timer", "inner"),
        (None, {"tick_ns": 1e6, "inner": {"w8a8": 10}}, "coarse timer: the shortest sample is 9 ticks", "inner"),
        (_disturbed(np.linspace(1, 1.3, 300)), {}, "drift: p25 of the last third", "steady temperature"),
        (_disturbed(np.where(np.arange(300) < 180, 1, 1.1)), {}, "step: after 60% of the queries times were 1.10 times", "measure again"),
        (_disturbed(np.where(np.arange(300) < 90, 1.1, 1)), {}, "step: after 30% of the queries times were 0.91 times", "measure again"),
        (_disturbed(_BURST), {}, "throttled: 1", "cool the device"),
        (_disturbed(_SCATTERED), {}, "throttled: ", "stop other programs"),
    ],
)
def test_what_spoils_a_measurement_makes_it_invalid_and_says_what_to_do(
    samples: dict[str, np.ndarray] | None, changed: dict[str, Any], what: str, to_do: str
) -> None:
    (line,) = _latency(samples, **changed).invalid
    assert line.startswith(what)
    assert to_do in line.partition(" -> ")[2]


def test_an_undisturbed_run_is_valid_and_so_is_a_batched_one() -> None:
    assert _latency().invalid == ()
    assert _latency(tick_ns=1e6, inner={"w8a8": 64}).invalid == ()


def test_a_sustained_run_shows_its_throttling_as_a_curve_and_is_no_less_valid() -> None:
    hot = np.where(np.arange(1200) < 600, 1, 1.5)
    samples = _disturbed(hot)
    starts = np.cumsum(samples["w8a8"] + samples["fp32"])
    timed = samples | {"w8a8@start": starts - starts[0], "fp32@start": starts - starts[0] + 1_000_000}
    found = summarize(timed, RESPONSE, label="w8a8", baseline="fp32", truth="host", environment={}, profile="sustained")
    assert (found.profile, found.invalid) == ("sustained", ())
    assert any(line.startswith("step: after 50%") for line in found.warnings)
    assert len(found.curve) == 60 and found.curve[0].seconds == 0
    assert [point.seconds for point in found.curve] == sorted(point.seconds for point in found.curve)
    assert {round(point.p50_ms, 1) for point in found.curve} == {1.0, 1.5}
    assert found.curve[-1].seconds == pytest.approx(timed["w8a8@start"][-20] / 1e9)


def test_start_times_are_no_label_and_other_profiles_have_no_curve() -> None:
    starts = np.arange(300) * 10_000_000
    found = _latency(_samples() | {"w8a8@start": starts, "fp32@start": starts + 5_000_000})
    assert found.curve == () and found.samples == 300
    with pytest.raises(LatencyError, match=r"no samples of 'w8a8@start' \(it has fp32, w8a8\)"):
        _latency(_samples() | {"w8a8@start": starts}, label="w8a8@start")


def test_spikes_stay_in_the_samples() -> None:
    samples = _samples()
    samples["w8a8"][100] = 500_000_000
    found = _latency(samples)
    assert (found.samples, sum(found.histogram_counts), found.histogram_edges_ms[-1]) == (300, 300, pytest.approx(500))


@pytest.mark.parametrize(
    "samples, response, message",
    [
        ({"fp32": np.ones(5, np.int64)}, RESPONSE, "no samples of 'w8a8'"),
        ({"w8a8": np.zeros(0, np.int64), "fp32": np.zeros(0, np.int64)}, RESPONSE, "shape \\(0,\\)"),
        ({"w8a8": np.array([-5]), "fp32": np.array([5])}, RESPONSE, "negative"),
        ({"w8a8": np.ones(5, np.int64), "fp32": np.ones(6, np.int64)}, RESPONSE, "different numbers"),
        (_samples() | {"w8a8@start": np.arange(300) * 500_000}, RESPONSE, "the clock went back"),
        (_samples() | {"w8a8@start": np.arange(300)[::-1] * 9_000_000}, RESPONSE, "the clock went back"),
        (_samples() | {"w8a8@start": np.arange(299)}, RESPONSE, "299 start times for 300 samples"),
        (_samples(), {"ok": True}, "no timing response"),
        (_samples(), {**RESPONSE, "threads": "four"}, "no timing response"),
    ],
)
def test_an_answer_without_a_latency_is_refused(samples: dict[str, np.ndarray], response: dict[str, Any], message: str) -> None:
    with pytest.raises(LatencyError, match=message):
        summarize(samples, response, label="w8a8", baseline="fp32", truth="host", environment={})


def test_profiles_give_the_quantiles_they_promise() -> None:
    assert PROFILES["smoke"].pairs >= fewest_samples(0.5)
    assert PROFILES["quick"].pairs >= fewest_samples(0.9)
    assert PROFILES["mlperf"].pairs >= max(1024, fewest_samples(0.99))
    assert PROFILES["mlperf"].seconds >= 60
    assert PROFILES["sustained"].seconds == 600
    assert profile("quick") is PROFILES["quick"]
    assert (profile("sustained", 30).seconds, profile("sustained", 30).pairs) == (30, PROFILES["sustained"].pairs)
    with pytest.raises(InputError, match="cannot go on for"):
        profile("sustained", 0)
    with pytest.raises(InputError, match="'fast' is not known"):
        profile("fast")


class _Sleeper:
    """A session whose query is a matrix product of a size the artifact's name gives."""

    def __init__(self, artifact: str) -> None:
        self._matrix = np.ones((int(artifact), int(artifact)), np.float32)

    def set_inputs(self, feed: Any) -> None:
        self._feed = feed

    def invoke(self) -> None:
        self._matrix @ self._matrix

    def outputs(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


class _Products:
    name, version, truth = "products", "1", "host"

    def load(self, artifact: str, threads: int) -> _Sleeper:
        return _Sleeper(artifact)


def test_a_real_answer_of_the_runner_contract_becomes_a_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 1), np.float32))
    request = {
        "schema": contract.SCHEMA,
        "action": "time",
        "artifacts": {"small": "96", "large": "256"},
        "inputs": str(tmp_path / "in.npz"),
        "outputs": str(tmp_path / "out.npz"),
        "warm_up": PROFILES["quick"].warm_up,
        "warm_up_seconds": PROFILES["quick"].warm_up_seconds,
        "pairs": 100,
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    answer = io.StringIO()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with redirect_stdout(answer):
        assert contract.main(_Products(), [str(tmp_path / "request.json")]) == 0
    with np.load(tmp_path / "out.npz") as samples:
        found = summarize(
            dict(samples),
            json.loads(answer.getvalue().splitlines()[-1]),
            label="small",
            baseline="large",
            truth="host",
            environment={},
        )
    assert found.samples == 100
    assert found.warm_up >= PROFILES["quick"].warm_up
    assert found.ratio_to_fp32 is not None
    assert found.ratio_to_fp32.high < 1
