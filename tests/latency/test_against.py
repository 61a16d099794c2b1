"""A comparison on a simulated device: how long each look may take, when there is no other, what spoils it, and what never gets that far."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgepack.backends.artifact import ArtifactDescription
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Response, RunnerError
from edgepack.latency import against
from edgepack.latency.against import Rounds, refuse_incomparable
from edgepack.latency.compare import compare
from edgepack.latency.on_device import Bench, OpenPack
from edgepack.latency.protocol import profile
from edgepack.pack.files import PackError
from edgepack.runner.contract import MOST_ROUNDS
from tests.latency.test_environment import PI, at
from tests.pack.test_report import sample_pack

FILES = {label: (Path(f"{label}.onnx"), ArtifactDescription(f"{label}.onnx", (), (), "ort")) for label in ("old", "new")}


class Device:
    """Takes ``second`` a round and gives ``times`` of old and new; notes what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, second: float, states: Any = (), **arrays: Any) -> None:
        self.now, self.second, self.arrays, self.facts = 1000.0, second, arrays, PI
        self.states = list(states) or [at(0), at(1), at(2)]
        self.asked: list[tuple[int, float, int, float]] = []
        monkeypatch.setattr(against, "time", SimpleNamespace(monotonic=lambda: self.now))

    def run(self, runner: str, request: Any, artifacts: Any, feed: Any, limits: Limits) -> Any:
        self.asked.append((request.pairs, request.seconds, request.inner, limits.seconds))
        rounds = max(request.pairs, round(request.seconds / self.second))
        self.now += rounds * self.second
        rng = np.random.default_rng(len(self.asked))
        # So wide that no look tells.
        noisy = {label: (1e6 * rng.lognormal(0, 2, rounds)).astype(np.int64) for label in ("old", "new")}
        response = Response(1, True, "sample", "1", "host", inner={"old": 3, "new": 3})
        return SimpleNamespace(response=response, arrays=self.arrays or noisy, ending=SimpleNamespace(states=self.states))

    def rounds(self, name: str = "quick", **changes: Any) -> Rounds:
        asked = Bench(profile(name, changes.get("seconds")))
        return Rounds(self, FILES, SimpleNamespace(golden={}), asked, Limits(60.0))  # type: ignore[arg-type]


def test_each_look_has_the_time_that_the_one_before_it_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model: 0.2 s a round, a minute the first look and eight the last; --timeout is one minute."""
    device = Device(monkeypatch, 0.2)
    found = compare(device.rounds(), pairs=300)
    assert [(pairs, inner) for pairs, _, inner, _ in device.asked] == [(300, 0), (300, 3), (600, 3), (1200, 3), (2400, 3)]
    assert [seconds for _, seconds, _, _ in device.asked] == [1.0, 0, 0, 0, 0]
    for pairs, _, _, limit in device.asked[1:]:
        assert limit >= 60 + 2 * pairs * device.second
    assert found.verdict == "inconclusive" and found.pairs == 4800


def test_a_comparison_that_would_take_too_long_stays_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, 1.0)
    found = compare(device.rounds(), pairs=300)
    assert [pairs for pairs, *_ in device.asked] == [300, 300, 600] and found.verdict == "inconclusive"
    sustained = Device(monkeypatch, 0.2)
    assert compare(sustained.rounds("sustained")).verdict == "inconclusive"
    assert [(pairs, seconds) for pairs, seconds, _, _ in sustained.asked] == [(300, 600.0), (3000, 0.0)]


def test_no_look_has_more_rounds_than_a_run_may(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, 1e-5)
    rounds = device.rounds()
    assert rounds(300) is not None and rounds(MOST_ROUNDS + 1) is None


def test_what_spoils_a_look_ends_the_comparison_and_is_in_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, 0.01, [at(0), at(1, throttled=4), at(2)])
    rounds = device.rounds()
    found = compare(rounds, pairs=300).against("ab" * 32, tuple(rounds.spoiled))
    assert len(device.asked) == 1
    assert found.invalid and found.invalid[0].startswith("it was throttled")


@pytest.mark.parametrize(
    "arrays",
    [
        {"new": np.ones(300, np.int64)},
        {"old": np.ones(300, np.int64), "new": np.array(["x"] * 300)},
        {"old": np.ones(300, np.int64), "new": np.full(300, np.nan)},
        {"old": np.ones(300, np.int64), "new": np.ones((300, 1), np.int64)},
    ],
)
def test_samples_that_are_none_are_a_failed_runner(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunnerError, match="nothing can be made of what the sample runner answered"):
        compare(Device(monkeypatch, 0.01, **arrays).rounds())


def test_a_pack_without_any_counterpart_is_refused_and_one_with_some_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenPack, "file", lambda *_: None)
    pack = sample_pack()
    pis = [each for each in pack.artifacts if each.target == "raspberry-pi-5"]
    refuse_incomparable(OpenPack(Path("old"), replace(pack, artifacts=(pis[0],)), {}, {}), pis)
    for others in ((), (replace(pis[0], scheme="fp16"),), (replace(pis[0], runner="litert"),)):
        with pytest.raises(PackError, match="old has nothing to compare with: no raspberry-pi-5 fp32, raspberry-pi-5 w8a8"):
            refuse_incomparable(OpenPack(Path("old"), replace(pack, artifacts=others), {}, {}), pis)
