"""A phone behind the real adb: answers equal to this machine's, exit codes and words that come back, and every way in which it can go."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ai_edge_litert
import numpy as np
import onnxruntime
import pytest

from edgepack.arrays import Arrays, load_arrays, save_arrays
from edgepack.converter.step import Limits
from edgepack.devices import adb as adb_module
from edgepack.devices import adb_run, adb_session
from edgepack.devices.adb import Attached, Phone, attached, listed
from edgepack.devices.adb_session import AdbSession, Runtime, opened
from edgepack.devices.adb_words import PulledError, explained
from edgepack.devices.address import parse
from edgepack.devices.native import NativeError
from edgepack.devices.phone import PhoneState
from edgepack.devices.runner_process import Request, RunnerError, run_local
from edgepack.devices.session import BusyError
from edgepack.devices.transport import TransportError
from edgepack.errors import InputError
from edgepack.runner.contract import START
from tests.backends.tflite.models import convert, single
from tests.fakes.adbd import FakePhone, adb

LIMITS = Limits(120, 2**31)
RUN = Request("run", {}, "", "")


@pytest.fixture
def litert(adb_phone: FakePhone) -> Runtime:
    """The runtime that the emulated aarch64 Linux has: LiteRT's C interface, of the wheel."""
    return Runtime(adb_phone.board.userland.site / "ai_edge_litert" / "libLiteRt.so")


@pytest.fixture
def ort(adb_phone: FakePhone) -> Runtime:
    return Runtime(next((adb_phone.board.userland.site / "onnxruntime" / "capi").glob("libonnxruntime.so*")))


@pytest.fixture
def session(adb_phone: FakePhone, litert: Runtime) -> Iterator[AdbSession]:
    with opened(parse(adb_phone.address), litert) as opened_session:
        yield opened_session


def convolution(folder: Path) -> tuple[Path, Path, Arrays]:
    """A .tflite and the .onnx it came from, and four samples in the .tflite's layout."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((4, 1, 3, 8, 8)).astype(np.float32)
    convert(single("Conv", samples[0], weights={"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}), folder)
    return folder / "model.tflite", folder / "hub.onnx", {"x0": samples.transpose(0, 1, 3, 4, 2)}


def here(runner: str, artifact: Path, feed: Arrays, folder: Path) -> Arrays:
    """What the Python runner on this machine answers."""
    save_arrays(folder / "in.npz", feed)
    run_local(runner, Request("run", {"a": str(artifact)}, str(folder / "in.npz"), str(folder / "out.npz")), folder, Limits(120, 2**40))
    return load_arrays(folder / "out.npz")


@pytest.mark.parametrize("runner", ["litert", "tflite_runtime"])
def test_a_float_network_answers_as_it_does_here(runner: str, session: AdbSession, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    heard: list[tuple[str, int, int]] = []
    session._progress = lambda *told: heard.append(told)
    outcome = session.run(runner, RUN, {"a": artifact}, feed, LIMITS)
    expected = here("litert", artifact, feed, tmp_path)
    assert outcome.response.ok and outcome.response.count == 4 and outcome.response.machine == "aarch64"
    assert outcome.response.session["fully_delegated"] and outcome.ending.code == 0 and outcome.ending.peak_bytes > 0
    np.testing.assert_allclose(outcome.arrays["y"], expected["y"], rtol=1e-5, atol=1e-5)
    assert ("run", 4, 4) in heard and ("sending model.tflite", artifact.stat().st_size, artifact.stat().st_size) in heard


def test_the_same_runner_runs_onnxruntime(adb_phone: FakePhone, ort: Runtime, tmp_path: Path) -> None:
    _, model, feed = convolution(tmp_path)
    stacked = {"x0": np.ascontiguousarray(feed["x0"].transpose(0, 1, 4, 2, 3))}
    with opened(parse(adb_phone.address), ort) as session:
        outcome = session.run("ort", RUN, {"a": model}, stacked, LIMITS)
    assert (outcome.response.runtime, outcome.response.version) == ("onnxruntime", onnxruntime.__version__)
    np.testing.assert_allclose(outcome.arrays["y"], here("ort", model, stacked, tmp_path)["y"], rtol=1e-5, atol=1e-5)


def test_artifacts_are_timed_in_turn(session: AdbSession, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    one = {"x0": feed["x0"][:1]}
    asked = Request("time", {}, "", "", warm_up=3, pairs=20, warm_up_seconds=0.2)
    other = tmp_path / "other.tflite"
    other.write_bytes(artifact.read_bytes())
    outcome = session.run("litert", asked, {"new": artifact, "old": other}, one, LIMITS)
    starts = np.stack([outcome.arrays["new" + START], outcome.arrays["old" + START]])
    order = np.argsort(starts.T, axis=1)
    assert outcome.response.count == 20 and starts.min() == 0
    assert [tuple(row) for row in order] == [(0, 1), (1, 0)] * 10
    assert all((outcome.arrays[label] > 0).all() and outcome.arrays[label].dtype == np.int64 for label in ("new", "old"))
    assert all(len(times) >= 3 for times in outcome.response.warm_up_ns.values()) and outcome.response.tick_ns > 0


def test_batches_are_as_large_as_asked(session: AdbSession, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    asked = Request("time", {}, "", "", warm_up=1, pairs=2, inner=7)
    assert session.run("litert", asked, {"a": artifact}, {"x0": feed["x0"][:1]}, LIMITS).response.inner == {"a": 7}


def test_what_the_phone_is_and_how_it_does(session: AdbSession, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    states = session.run("litert", RUN, {"a": artifact}, feed, LIMITS).ending.states
    assert session.facts.board == "Fake Phone One" and session.facts.processor == "Fakecomm FK1000"
    assert session.facts.system == "Android 15 (API 35)" and session.facts.machine == "aarch64"
    assert session.transport.emulated and session.facts.page_bytes == 4096
    before = states[0]
    assert isinstance(before, PhoneState) and (before.temperature_c, before.thermal_status, before.battery_saver) == (43.0, 0, False)
    assert states[-1].monotonic_s > states[0].monotonic_s


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"wrong": np.zeros((1, 1, 8, 8, 3), np.float32)}, "no input wrong"),
        ({"x0": np.zeros((1, 1, 3, 8, 8), np.float32)}, "shape"),
        ({"x0": np.zeros((1, 1, 8, 8, 3), np.int8)}, "int8"),
        ({"x0": np.zeros((1, 1, 8, 8, 3), np.complex64)}, "complex64"),
    ],
)
def test_inputs_that_are_not_the_artifacts_are_refused(session: AdbSession, feed: Arrays, said: str, tmp_path: Path) -> None:
    artifact, _, _ = convolution(tmp_path)
    with pytest.raises(RunnerError, match=said):
        session.run("litert", RUN, {"a": artifact}, feed, LIMITS)


def test_a_damaged_artifact_is_the_runners_failure_with_its_words(session: AdbSession, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    artifact.write_bytes(b"TFL3" * 100)
    with pytest.raises(RunnerError, match="LiteRT: reading the artifact failed"):
        session.run("litert", RUN, {"a": artifact}, feed, LIMITS)


def test_exit_codes_and_both_streams_come_back(adb_phone: FakePhone) -> None:
    phone = Phone.open(parse(adb_phone.address))
    done = phone.shell("echo out; echo err >&2; exit 7")
    assert (done.code, done.said, done.words) == (7, "out\n", "err\n")


def test_a_runner_that_dies_of_a_signal_is_told_by_its_number(session: AdbSession, adb_phone: FakePhone, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)

    def kill() -> None:
        for process in adb_phone.running()[1:]:
            process.send_signal(11)

    with pytest.raises(RunnerError, match=r"SIGSEGV|signal 11"):
        _during(lambda: session.run("litert", _LONG, {"a": artifact}, {"x0": feed["x0"][:1]}, LIMITS), session, kill)


_LONG = Request("time", {}, "", "", warm_up=1, pairs=1, seconds=60)


def _during(run: Callable[[], object], session: AdbSession, act: Callable[[], None]) -> None:
    """Do something half a second after the run has begun to measure."""
    timer: list[threading.Timer] = []

    def told(what: str, done: int, total: int) -> None:
        if what == "time" and not timer:
            timer.append(threading.Timer(0.5, act))
            timer[0].start()

    session._progress = told
    run()


def test_a_cable_that_is_pulled_in_mid_run_is_one_line_and_leaves_nothing(adb_phone: FakePhone, litert: Runtime, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    started = time.monotonic()
    with pytest.raises(PulledError, match="broke while it ran") as caught, opened(parse(adb_phone.address), litert) as session:
        assert len(adb_phone.folders()) == 1
        run = lambda: session.run("litert", _LONG, {"a": artifact}, {"x0": feed["x0"][:1]}, LIMITS)  # noqa: E731
        _during(run, session, adb_phone.pull_cable)
    assert caught.value.exit_code == 4 and time.monotonic() - started < 30
    deadline = time.monotonic() + 5
    while (adb_phone.running() or adb_phone.folders()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not adb_phone.running() and not adb_phone.folders()


def test_a_phone_that_leaves_its_network_without_a_word_is_missed_and_lets_go(
    adb_phone: FakePhone, litert: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"LOOKING": 1.0, "INTERVAL": 0.2, "BEAT": 0.5, "SILENCE": 3.0}.items():
        monkeypatch.setattr(adb_run, name, seconds)
    monkeypatch.setattr(adb_session, "_CLEANING", 1.0)
    artifact, _, feed = convolution(tmp_path)
    with pytest.raises(PulledError, match="broke while it ran"), opened(parse(adb_phone.address), litert) as session:
        run = lambda: session.run("litert", _LONG, {"a": artifact}, {"x0": feed["x0"][:1]}, LIMITS)  # noqa: E731
        _during(run, session, adb_phone.leave_network)
    deadline = time.monotonic() + 10
    while (_computing(adb_phone) or adb_phone.folders()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _computing(adb_phone) and not adb_phone.folders()


def _computing(phone: FakePhone) -> list[subprocess.Popen[bytes]]:
    """Programs of ours; a look that came too late may still wait for somebody to read it."""
    return [process for process in phone.running() if " answer " in str(process.args) or " hold " in str(process.args)]


def test_a_runner_that_hangs_is_given_up_and_the_session_goes_on(session: AdbSession, adb_phone: FakePhone, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    with pytest.raises(RunnerError, match="hung"):
        session.run("litert", _LONG, {"a": artifact}, {"x0": feed["x0"][:1]}, Limits(3, 2**31))
    assert session.run("litert", RUN, {"a": artifact}, feed, LIMITS).response.ok
    assert len(adb_phone.running()) == 1


def test_the_runner_and_runtime_are_kept_and_everything_else_goes(adb_phone: FakePhone, litert: Runtime, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    with opened(parse(adb_phone.address), litert) as session:
        session.run("litert", RUN, {"a": artifact}, feed, LIMITS)
        folder = Path(session.folder)
        assert any(path.suffix == ".tflite" for path in folder.iterdir())
    kept = {path.name.partition("-")[2] for path in (adb_phone.folder / "cache").iterdir()}
    assert kept == {"edgepack-runner", "libLiteRt.so"} and not adb_phone.folders()
    before = [path.stat().st_mtime_ns for path in (adb_phone.folder / "cache").iterdir()]
    with opened(parse(adb_phone.address), litert):
        assert [path.stat().st_mtime_ns for path in (adb_phone.folder / "cache").iterdir()] == before


def test_folders_of_sessions_that_were_killed_go_with_the_next(adb_phone: FakePhone, litert: Runtime) -> None:
    left = adb_phone.folder / "run-left"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").write_bytes(b"1")
    with opened(parse(adb_phone.address), litert):
        assert not left.exists()


def test_one_session_at_a_time(adb_phone: FakePhone, litert: Runtime) -> None:
    with (
        opened(parse(adb_phone.address), litert),
        pytest.raises(BusyError, match="another edgepack"),
        opened(parse(adb_phone.address), litert),
    ):
        pass


def test_a_file_that_arrives_damaged_is_sent_again(adb_phone: FakePhone, litert: Runtime, tmp_path: Path) -> None:
    artifact, _, feed = convolution(tmp_path)
    with opened(parse(adb_phone.address), litert) as session:
        adb_phone.damaged = 1
        assert session.run("litert", RUN, {"a": artifact}, feed, LIMITS).response.ok
        adb_phone.damaged = 2
        with pytest.raises(TransportError, match="does not arrive whole"):
            session.run("litert", RUN, {"other": _copy(artifact)}, feed, LIMITS)


def _copy(path: Path) -> Path:
    copy = path.with_name("copy.tflite")
    copy.write_bytes(path.read_bytes())
    return copy


def test_a_full_phone_says_so(adb_phone: FakePhone, litert: Runtime) -> None:
    adb_phone.room = 1000
    with pytest.raises(TransportError, match="no room left") as caught, opened(parse(adb_phone.address), litert):
        pass
    assert "free some space" in caught.value.hint and not any((adb_phone.folder / "cache").iterdir())


def test_artifacts_of_another_runtime_are_refused(session: AdbSession, tmp_path: Path) -> None:
    _, model, feed = convolution(tmp_path)
    with pytest.raises(InputError, match="runs no ort artifacts"):
        session.run("ort", RUN, {"a": model}, feed, LIMITS)


def test_a_runtime_of_another_machine_is_refused(adb_phone: FakePhone) -> None:
    library = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"
    with pytest.raises(NativeError, match="not made for arm64-v8a"), opened(parse(adb_phone.address), Runtime(library)):
        pass


def test_a_phone_without_exit_codes_is_refused(
    adb_server: dict[str, str], pi5_board: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", adb_server["ANDROID_ADB_SERVER_PORT"])
    phone = FakePhone(tmp_path / "old", pi5_board, features="cmd")  # type: ignore[arg-type]
    phone.start()
    adb("connect", phone.serial)
    try:
        with pytest.raises(TransportError, match="older than 7"):
            Phone.open(parse(phone.address))
    finally:
        adb("disconnect", phone.serial)
        phone.stop()


def test_phones_are_listed_with_their_state(adb_phone: FakePhone) -> None:
    assert attached() == [Attached(adb_phone.serial, "device", "Fake Phone")]


def test_the_only_phone_needs_no_name(adb_phone: FakePhone) -> None:
    assert str(Phone.open(parse("adb://")).address) == adb_phone.address


def test_a_phone_that_is_not_there(adb_phone: FakePhone) -> None:
    with pytest.raises(TransportError, match="not connected") as caught:
        Phone.open(parse("adb://R5CT123"))
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


# What adb 29.0.6 and 36.0.0 print, from their sources (adb.cpp, transport.cpp, adb_client.cpp, commandline.cpp).
LINES = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
R5CT123\tunauthorized usb:1-4 transport_id:3
0123456789ABCDEF       no permissions (user in plugdev group; are your udev rules wrong?); see [http://developer.android.com] usb:1-2
emulator-5554          device product:sdk_gphone64 model:sdk_gphone64_x86_64 device:emu64x transport_id:1
192.168.1.7:5555       offline transport_id:9
"""


def test_lines_of_adb_are_read() -> None:
    assert [(each.serial, each.state.partition(" (")[0], each.model) for each in listed(LINES)] == [
        ("R5CT123", "unauthorized", ""),
        ("0123456789ABCDEF", "no permissions", ""),
        ("emulator-5554", "device", "sdk gphone64 x86 64"),
        ("192.168.1.7:5555", "offline", ""),
    ]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n", "does not trust this computer"),
        ("error: device offline", "is offline"),
        ("error: device 'R5' not found", "is not connected"),
        ("adb: no devices/emulators found", "no phone is connected"),
        ("error: more than one device/emulator", "several phones"),
        ("error: cannot connect to daemon at tcp:5037: Connection refused", "server does not start"),
        ("error: closed", "broke"),
        ("error: protocol fault (couldn't read status): Connection reset by peer", "broke"),
        ("adb: error: failed to copy 'a' to 'b': remote No space left on device", "no room left"),
        ("no permissions (user in plugdev group; are your udev rules wrong?)", "may not open"),
    ],
)
def test_every_failure_of_adb_has_its_line_and_its_hint(words: str, cause: str) -> None:
    found = explained("adb://R5", words)
    assert found is not None and cause in found.cause and found.hint and "\n" not in str(found) and found.exit_code == 4


def test_words_of_a_started_server_are_no_failure() -> None:
    assert explained("adb://R5", "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n") is None


@pytest.mark.parametrize(
    ("listing", "address", "cause"),
    [
        ("", "adb", "no phone is connected"),
        ("A\tdevice\nB\tdevice\n", "adb", "several phones are connected: adb://A, adb://B"),
        ("A\tunauthorized\n", "adb://A", "does not trust"),
        ("A\toffline\n", "adb://A", "offline"),
        ("A\tauthorizing\n", "adb://A", "not ready"),
        ("A\trecovery\n", "adb://A", "in the state 'recovery'"),
        ("A\tdevice\n", "adb://B", "not connected"),
    ],
)
def test_phones_that_cannot_be_used(listing: str, address: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_adb(tmp_path, monkeypatch, f"printf 'List of devices attached\\n{listing}\\n'".replace("\t", "\\t").replace("\n", "\\n"))
    with pytest.raises(TransportError) as caught:
        Phone.open(parse(address))
    assert cause in caught.value.cause and caught.value.hint


def test_without_adb_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransportError, match="no adb on this computer"):
        attached()


def test_an_adb_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_adb(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(adb_module, "SECONDS", 0.3)
    with pytest.raises(TransportError, match="does not answer"):
        attached(0.3)


def _fake_adb(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An adb that does as the script says."""
    program = folder / "adb"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("text", ["adb://-s", "adb://a b", "adb://$(id)", "adb://a;b", "adb://a/b"])
def test_serials_that_are_none(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_the_folder_is_where_adbs_user_may_write() -> None:
    assert adb_module.ROOT.startswith("/data/local/tmp/")
