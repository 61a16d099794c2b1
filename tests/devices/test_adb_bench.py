"""``edgepack bench`` on a phone: a pack's Android artifacts through adb, and operators of FACTS' int8 table."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgepack.backends import tflite
from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.converter.step import Limits
from edgepack.devices.adb_session import AdbSession, Runtime, opened
from edgepack.devices.adb_words import PulledError
from edgepack.devices.address import parse
from edgepack.devices.listing import listed
from edgepack.devices.runner_process import Request, artifact_feed, hub_arrays
from edgepack.errors import InputError
from edgepack.latency.bench import bench
from edgepack.latency.on_device import truth_of
from edgepack.pack.files import load_pack
from tests.backends import test_int8_isolation as isolation
from tests.backends.int8_cases import CASES, Array, Arrays, Quantized
from tests.devices.test_benchmark_model import TOOL
from tests.fakes.adbd import FakePhone
from tests.runner.test_bundle import model
from tests.system.program import edgepack, failure


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pack with one artifact for Android and one for a Raspberry Pi."""
    folder = tmp_path_factory.mktemp("pack")
    named = ("-t", "android", "-t", "raspberry-pi-5", "-s", "fp32")
    made = edgepack("build", model(folder / "model.onnx"), *named, "-o", "pack", "--latency", "none", cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder / "pack"


@pytest.fixture
def litert(adb_phone: FakePhone) -> Path:
    return adb_phone.board.userland.site / "ai_edge_litert" / "libLiteRt.so"


def test_a_packs_android_artifacts_answer_right_and_are_timed_as_emulated(pack: Path, adb_phone: FakePhone, litert: Path) -> None:
    told: list[str] = []
    result = bench(pack, adb_phone.address, runtime=litert, profile="smoke", save=False, tell=lambda what, *_: told.append(what))
    (found,) = result.measurements
    assert result.passed and (found.target, found.scheme, found.truth) == ("android", "fp32", "emulated")
    assert found.latency is not None and found.latency.truth == "emulated" and found.parity.outputs[0].non_finite == 0
    assert found.device["board"] == "Fake Phone One" and found.device["system"] == "Android 15 (API 35)"
    assert found.device["thermal status"] == "none" and found.device["runtime"].startswith("litert sha256 ")
    assert {"run", "time", "sending libLiteRt.so"} <= set(told)


def test_onnxruntime_runs_the_packs_other_artifact(pack: Path, adb_phone: FakePhone) -> None:
    library = next((adb_phone.board.userland.site / "onnxruntime" / "capi").glob("libonnxruntime.so*"))
    result = bench(pack, adb_phone.address, targets=["raspberry-pi-5"], runtime=library, profile="smoke", save=False)
    assert result.passed and [each.target for each in result.measurements] == ["raspberry-pi-5"]


def test_benchmark_model_is_a_remark_beside_our_times(pack: Path, adb_phone: FakePhone, litert: Path) -> None:
    result = bench(pack, adb_phone.address, runtime=litert, benchmark_model=TOOL, profile="quick", seconds=0.2, save=False)
    (found,) = result.measurements
    assert found.latency is not None
    (line,) = [each for each in found.latency.warnings if each.startswith("benchmark_model")]
    assert "1.62 ms over 612 queries" in line and "(emulated)" in line


def test_a_benchmark_model_that_fails_ends_nothing_else(pack: Path, adb_phone: FakePhone, litert: Path, tmp_path: Path) -> None:
    broken = tmp_path / "benchmark_model"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    result = bench(pack, adb_phone.address, runtime=litert, benchmark_model=broken, profile="quick", seconds=0.2, save=False)
    assert len(result.measurements) == 1 and [each.scheme for each in result.failures] == ["fp32 by benchmark_model"]


def test_a_cable_that_is_pulled_ends_the_bench_with_exit_code_4(pack: Path, adb_phone: FakePhone, litert: Path) -> None:
    def tell(what: str, done: int, total: int) -> None:
        if what == "time" and adb_phone.is_there:
            adb_phone.pull_cable()

    with pytest.raises(PulledError) as caught:
        bench(pack, adb_phone.address, runtime=litert, profile="quick", seconds=60, save=False, tell=tell)
    assert caught.value.exit_code == 4


def test_a_real_phone_measures_and_androids_emulator_does_not(pack: Path, adb_phone: FakePhone, litert: Path) -> None:
    target = next(each for each in load_pack(pack).targets if each.name == "android")
    with opened(parse(adb_phone.address), Runtime(litert)) as session:
        device = {"system": "Android 15 (API 35)", "architecture": "aarch64"}
        assert truth_of(session, device, target) == "emulated"
        session._phone.emulated = False
        assert truth_of(session, device, target) == "measured"
        assert truth_of(session, {"system": "Debian"}, target) == "host"


def test_phones_are_among_the_devices(adb_phone: FakePhone) -> None:
    (found,) = [each for each in listed(3) if each.device.address == adb_phone.address]
    assert found.state == "emulated" and found.device.model == "Fake Phone One, Android 15 (API 35)" and found.device.machine == "arm64-v8a"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--device", "adb://R5CT123"), 2, "--runtime"),
        (("--device", "adb://R5CT123", "--runtime", "libLiteRt.so"), 4, "not connected"),
        (("--device", "local", "--runtime", "libLiteRt.so"), 2, "leave --runtime out"),
        (("--device", "local", "--benchmark-model", "benchmark_model"), 2, "is for phones"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    pack: Path, adb_server: dict[str, str], options: tuple[str, ...], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", adb_server["ANDROID_ADB_SERVER_PORT"])
    ended = edgepack("bench", pack, "--profile", "smoke", "--no-save", *options, cwd=pack)
    assert ended.returncode == code and words in failure(ended)


def test_a_phone_needs_no_setup(tmp_path: Path) -> None:
    ended = edgepack("device", "setup", "adb://R5CT123", cwd=tmp_path)
    assert ended.returncode == 2 and "needs no setup" in failure(ended)


def test_devices_lists_phones_as_data(adb_phone: FakePhone) -> None:
    ended = edgepack("devices", "--json", cwd=adb_phone.root)
    assert adb_phone.address in {each["address"] for each in json.loads(ended.stdout)}


def test_a_runtime_that_is_none_is_refused(pack: Path, adb_phone: FakePhone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runtime"):
        bench(pack, adb_phone.address, runtime=tmp_path / "absent.so", profile="smoke", save=False)


# A row of the table each: products, moved codes, ties, generic scales, bounded functions, and the two with bars of their own.
NAMES = ("conv", "depthwise", "gemm_relu", "max_pool", "average_pool_even", "concat", "add", "sigmoid", "hard_swish", "resize_linear")


def test_int8_codes_on_the_phone_meet_the_table(
    adb_phone: FakePhone, litert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(parse(adb_phone.address), Runtime(litert)) as session:
        on_the_phone(session, NAMES, tmp_path, monkeypatch, 1)


@pytest.mark.slow
def test_int8_codes_of_every_operator_on_the_phone_meet_the_table(
    adb_phone: FakePhone, litert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(parse(adb_phone.address), Runtime(litert)) as session:
        on_the_phone(session, tuple(CASES), tmp_path, monkeypatch, 3)


def on_the_phone(session: AdbSession, names: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The claims of tests/backends/test_int8_isolation.py, answered by the phone."""
    monkeypatch.setitem(isolation.RUNS, "phone", partial(_written, session))
    monkeypatch.setitem(isolation.SCALE_DTYPES, "phone", "float32")
    for name in names:
        place = folder / name
        place.mkdir()
        isolation.demand(CASES[name].bar, isolation.measured(name, "phone", count, 1, place))


def _written(session: AdbSession, folder: Path, quantized: Quantized) -> isolation.Run:
    images = {held.name: "NCHW" for held in quantized.model.graph.input if len(held.type.tensor_type.shape.dim) == 4}
    ends = {held.name: "NCHW" for held in quantized.model.graph.output if len(held.type.tensor_type.shape.dim) == 4}
    description = tflite.write(folder / "hub.onnx", folder, WriteOptions("w8a8", images, ends))
    copy = folder / f"{len(list(folder.iterdir()))}.tflite"
    copy.write_bytes((folder / description.file).read_bytes())
    return partial(_answered, session, description, copy)


def _answered(session: AdbSession, description: ArtifactDescription, artifact: Path, feed: Arrays) -> Array:
    stacked = artifact_feed({name: array[np.newaxis] for name, array in feed.items()}, description.inputs)
    outcome = session.run("litert", Request("run", {}, "", ""), {"a": artifact}, stacked, Limits(120, 2**31))
    found: Array = hub_arrays(outcome.arrays, description.outputs)["y"][0]
    return found
