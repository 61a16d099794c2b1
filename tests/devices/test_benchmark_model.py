"""Google's benchmark_model: driven on the phone, read, held against our own times. The tool here is a script that prints what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepack.devices.adb_session import Runtime, opened
from edgepack.devices.address import parse
from edgepack.devices.benchmark_model import BenchmarkModel, benchmark_model, cross_check, read
from edgepack.devices.runner_process import RunnerError
from tests.backends.tflite.models import convert, single
from tests.fakes.adbd import FakePhone

TOOL = Path(__file__).parents[1] / "fakes" / "benchmark_model"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    import numpy as np

    convert(single("Relu", np.ones((1, 4), np.float32)), tmp_path)
    return tmp_path / "model.tflite"


def test_it_runs_on_the_phone_and_its_figures_are_read(adb_phone: FakePhone, artifact: Path) -> None:
    runtime = Runtime(adb_phone.board.userland.site / "ai_edge_litert" / "libLiteRt.so")
    with opened(parse(adb_phone.address), runtime) as session:
        found = benchmark_model(session, TOOL, artifact, "emulated", threads=2)
    assert found == BenchmarkModel("emulated", 2.345, 3.32, 1.66042, 1.63377, 612, 1.59, 2.101, 1.625, 2.5)
    assert found.typical_ms == 1.625


def test_its_failure_is_one_line_with_its_words(adb_phone: FakePhone, artifact: Path, tmp_path: Path) -> None:
    broken = tmp_path / "benchmark_model"
    broken.write_text("#!/bin/sh\necho 'ERROR: Op type not registered' >&2\nexit 1\n")
    broken.chmod(0o755)
    runtime = Runtime(adb_phone.board.userland.site / "ai_edge_litert" / "libLiteRt.so")
    with opened(parse(adb_phone.address), runtime) as session, pytest.raises(RunnerError, match="Op type not registered"):
        benchmark_model(session, broken, artifact, "emulated")


OLD = """INFO: count=50 first=79449 curr=81350 min=77385 max=88213 avg=79732 std=1929
INFO: Inference timings in us: Init: 38467, First inference: 1e+05, Warmup (avg): 83235, Inference (avg): 79760.9
"""


def test_a_tool_without_medians_is_read_by_its_mean() -> None:
    found = read(OLD, "measured")
    assert found.median_ms is None and found.typical_ms == pytest.approx(79.7609) and found.memory_mb is None and found.first_ms == 100


@pytest.mark.parametrize(
    "said",
    [
        "",
        "INFO: STARTING!\n",
        OLD.replace("min=77385 ", ""),
        OLD.replace("Init: 38467", "Init: 1.2.3"),
        OLD.replace("count=50", "count=none"),
        OLD.replace("79760.9", "1e99"),
    ],
)
def test_what_is_no_result_is_refused(said: str) -> None:
    with pytest.raises(RunnerError, match="benchmark_model says"):
        read(said, "host")


@pytest.mark.parametrize(("ours", "words"), [(80.0, "agrees"), (40.0, "does not agree"), (0.0, "does not agree")])
def test_it_is_held_against_our_median_with_its_kind_of_truth(ours: float, words: str) -> None:
    line = cross_check(read(OLD, "measured"), ours)
    assert words in line and "measured" in line and "50 queries" in line and "\n" not in line
