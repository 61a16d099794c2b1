"""A session on this machine: what runs, what every failure says, and that nothing is left of it whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from edgepack.converter.step import Limits
from edgepack.devices import session as sessions
from edgepack.devices.ask import AnswerError, ask
from edgepack.devices.local import Local
from edgepack.devices.probed import Facts, State
from edgepack.devices.runner_process import Request, RunnerError, respond
from edgepack.devices.sending import Files
from edgepack.devices.session import BusyError, Session, opened
from edgepack.devices.transport import OurDiskError, TransportError
from edgepack.errors import DeviceError
from edgepack.latency import timing
from edgepack.latency.protocol import profile
from edgepack.runner import probes
from edgepack.runner.supervisor import LOCK_VARIABLE
from tests.runner.test_bundle import model

LIMITS = Limits(60, 4 * 2**30)
FEED = {"x": np.random.default_rng(0).normal(size=(3, 1, 3, 8, 8)).astype(np.float32)}
RUN = Request("run", {}, "", "")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders and the lock are this test's own."""
    monkeypatch.setattr(Local, "runs", str(tmp_path / "runs"))
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return model(tmp_path / "model.onnx")


class Watched(Local):
    """Remembers the supervisor's process."""

    started: subprocess.Popen[bytes]

    def python(self, code: str) -> subprocess.Popen[bytes]:
        self.started = super().python(code)
        return self.started


def hanging(folder: Path) -> Path:
    """A runner that says nothing and never ends, as a bundle's file would be."""
    path = folder / "hang.pyz"
    path.write_text("import sys, time\nsys.stderr.write('about to hang\\n')\nsys.stderr.flush()\ntime.sleep(600)\n")
    return path


@pytest.fixture
def hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "bundle", lambda *_: hanging(tmp_path))


def is_gone(pid: int) -> bool:
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def left(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs").glob("*"))


def test_a_runner_answers_through_a_session_what_onnxruntime_answers(artifact: Path, tmp_path: Path) -> None:
    import onnxruntime

    with opened(Local(), exclusive=True) as session:
        outcome = session.run("ort", RUN, {"m": artifact}, FEED, LIMITS)
    direct = onnxruntime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])
    expected = np.stack([direct.run(None, {"x": sample})[0] for sample in FEED["x"]])
    np.testing.assert_allclose(outcome.arrays["y"], expected, rtol=1e-6, atol=1e-6)
    # Python and onnxruntime alone take more than 20 MB, and no small model takes a gigabyte.
    assert 2e7 < outcome.ending.peak_bytes < 1e9 and outcome.ending.cpu_seconds > 0
    assert len(outcome.ending.states) >= 2
    assert left(tmp_path) == []


def test_a_run_shorter_than_the_interval_is_looked_at_while_its_rounds_go_on(artifact: Path) -> None:
    with opened(Local(), exclusive=True) as session:
        outcome = session.run("ort", Request("time", {}, "", "", pairs=300, seconds=0.5), {"m": artifact}, FEED, LIMITS)
    began, ended = outcome.response.began_s, outcome.response.ended_s
    assert ended - began < 1
    assert any(began <= state.monotonic_s <= ended for state in outcome.ending.states)


def test_what_fails_on_the_device_keeps_the_runners_words(artifact: Path) -> None:
    with opened(Local(), exclusive=False) as session, pytest.raises(RunnerError, match="the ort runner failed: "):
        session.run("ort", RUN, {"m": artifact}, {"other": FEED["x"]}, LIMITS)


@pytest.mark.usefixtures("hung")
def test_a_runner_that_hangs_is_ended_and_the_session_goes_on(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(Local(), exclusive=False) as session:
        with pytest.raises(RunnerError, match="hung: no answer after 1 s"):
            session.run("ort", RUN, {"m": artifact}, FEED, Limits(1, 2**30))
        monkeypatch.undo()
        session._there = {path: name for path, name in session._there.items() if path.name != "hang.pyz"}
        assert session.run("ort", RUN, {"m": artifact}, FEED, LIMITS).response.ok


def test_two_benches_at_once_are_one_and_a_line(artifact: Path) -> None:
    with opened(Local(), exclusive=True):
        with pytest.raises(BusyError) as caught, opened(Local(), exclusive=True):
            pass
        # Not everything needs the device for itself.
        with opened(Local(), exclusive=False) as session:
            assert session.run("ort", RUN, {"m": artifact}, FEED, LIMITS).response.ok
    assert caught.value.exit_code == 4 and "another edgepack is measuring" in caught.value.cause
    with opened(Local(), exclusive=True, wait=5):
        pass


def running_children(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    for _ in range(200):
        children = psutil.Process(process.pid).children()
        if children:
            yield from children
            return
        time.sleep(0.02)


def start_job(session: Session, artifact: Path) -> None:
    """A job that goes on when this returns."""
    names = {"m": session._send(artifact)}
    program = session._send(sessions.bundle("ort", session._scratch / "ort.pyz"))
    request = {"schema": 1, "action": "run", "artifacts": names, "inputs": "", "outputs": "", "tethered": True}
    session._talk.say({"runner": program, "request": request, "site": list(session.transport.site), "seconds": 60, "memory": None})


@pytest.mark.usefixtures("hung")
def test_nothing_runs_on_and_no_folder_is_left_when_the_connection_ends(artifact: Path, tmp_path: Path) -> None:
    transport = Watched()
    with opened(transport, exclusive=True) as session:
        start_job(session, artifact)
        children = [child.pid for child in running_children(transport.started)]
    assert children and all(map(is_gone, children)) and is_gone(transport.started.pid)
    assert left(tmp_path) == []


def test_a_killed_supervisor_takes_its_runner_along_and_the_next_contact_cleans_up(artifact: Path, tmp_path: Path) -> None:
    transport = Watched()
    with pytest.raises(TransportError, match="local ended the run"), opened(transport, exclusive=True) as session:
        names = {"m": session._send(artifact)}
        program = session._send(sessions.bundle("ort", session._scratch / "ort.pyz"))
        inputs = tmp_path / "inputs.npz"
        np.savez(inputs, **FEED)  # type: ignore[arg-type]
        fields: dict[str, Any] = {"artifacts": names, "inputs": str(inputs), "outputs": "o.npz", "pairs": 10**7}
        asked = {"schema": 1, "action": "time", "warm_up": 1, "tethered": True, **fields}
        session._talk.say({"runner": program, "request": asked, "site": list(transport.site), "seconds": 60, "memory": None})
        children = [child.pid for child in running_children(transport.started)]
        os.kill(transport.started.pid, signal.SIGKILL)
        session._talk.hear(("ended",), 30)
    assert children and all(map(is_gone, children))
    assert len(left(tmp_path)) == 1
    with opened(Local(), exclusive=True):
        assert len(left(tmp_path)) == 1
    assert left(tmp_path) == []


@pytest.mark.usefixtures("hung")
@pytest.mark.parametrize("what", ["nothing", "a job"])
def test_a_host_that_is_silent_though_the_connection_holds_is_left_and_the_device_is_free(
    what: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lost network, which tells neither side."""
    monkeypatch.setattr(sessions, "_SILENCE", 1.0)
    transport = Watched()
    with opened(transport, exclusive=True) as session:
        children: list[int] = []
        if what == "a job":
            start_job(session, artifact)
            children = [child.pid for child in running_children(transport.started)]
        assert is_gone(transport.started.pid) and all(map(is_gone, children))
        assert transport.started.stdin is not None and not transport.started.stdin.closed
        assert left(tmp_path) == []
        with opened(Local(), exclusive=True):
            pass


def test_a_host_that_has_nothing_to_say_for_long_is_not_taken_for_gone(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_SILENCE", 1.5)
    monkeypatch.setattr(sessions, "_BEAT", 0.1)
    with opened(Local(), exclusive=True) as session:
        time.sleep(3)
        assert session.run("ort", RUN, {"m": artifact}, FEED, LIMITS).response.ok


def test_a_build_that_waited_in_vain_is_told_what_a_build_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_WAIT_SECONDS", 0.0)
    with opened(Local(), exclusive=True), pytest.raises(BusyError) as caught:
        timing.measure({}, {}, profile("smoke"), LIMITS)
    assert caught.value.hint == "run the same again when it has ended"


def test_who_waits_for_another_bench_is_told_for_how_long(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with (
        opened(Local(), exclusive=True),
        pytest.raises(BusyError),
        opened(Local(), exclusive=True, wait=2.5, progress=lambda *m: told.append(m)),
    ):
        pass
    assert [(what, total) for what, _, total in told] == [(sessions.WAITING, 3)] * len(told) and len(told) >= 2
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_one_lock_holds_whatever_tmpdir_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(Local(), exclusive=True):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        with pytest.raises(BusyError), opened(Local(), exclusive=True):
            pass


def test_other_files_in_the_place_of_run_folders_stay(tmp_path: Path) -> None:
    place = tmp_path / "runs"
    for name in ("run-old", "other"):
        (place / name).mkdir(parents=True)
        os.utime(place / name, (0, 0))
    (place / "edgepack-run-link").symlink_to(tmp_path)
    (place / "edgepack-run-left").mkdir()
    os.utime(place / "edgepack-run-left", (0, 0))
    with opened(Local(), exclusive=False):
        assert {each.name for each in left(tmp_path)} >= {"run-old", "other", "edgepack-run-link"}
        assert not (place / "edgepack-run-left").exists()
    assert tmp_path.is_dir()


def test_this_machine_needs_no_home(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path / "model.onnx" / "no-folder"))
    with opened(Local(), exclusive=False) as session:
        assert session.run("ort", RUN, {"m": artifact}, FEED, LIMITS).response.ok


def test_a_python_that_cannot_be_started_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(TransportError, match="cannot be started here"), opened(Local(), exclusive=False):
        pass


def test_no_place_for_temporary_files_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    why = r"a folder for temporary files cannot be written on this machine: .*nowhere"
    with pytest.raises(OurDiskError, match=why), opened(Local(), exclusive=False):
        pass


def test_what_a_login_script_prints_is_not_taken_for_an_answer(artifact: Path) -> None:
    class Chatty(Local):
        def python(self, code: str) -> subprocess.Popen[bytes]:
            return super().python("print('Welcome to your Raspberry Pi')\nprint('[1, 2]')\n" + code)

    with opened(Chatty(), exclusive=False) as session:
        assert session.run("ort", RUN, {"m": artifact}, FEED, LIMITS).response.ok


def test_a_device_whose_python_does_not_start_is_a_line() -> None:
    class Broken(Local):
        def python(self, code: str) -> subprocess.Popen[bytes]:
            return super().python("import sys; sys.exit('python3: broken install')")

    with pytest.raises(TransportError) as caught, opened(Broken(), exclusive=False):
        pass
    assert caught.value.exit_code == 4 and "broken install" in caught.value.cause


def test_a_device_on_which_nothing_can_be_written_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(Local, "runs", str(tmp_path / "file" / "runs"))
    with pytest.raises(TransportError, match=r"nothing can be run on local .*Not a directory"), opened(Local(), exclusive=True):
        pass


def test_a_device_that_falls_silent_is_given_up() -> None:
    class Silent(Local):
        def python(self, code: str) -> subprocess.Popen[bytes]:
            return super().python("import time; time.sleep(60)")

    begun = time.monotonic()
    with pytest.raises(TransportError, match="fell silent"), opened(Silent(), exclusive=False, seconds=0.5):
        pass
    assert time.monotonic() - begun < 15


def test_a_file_that_arrives_damaged_is_sent_again_and_then_refused(artifact: Path) -> None:
    class Lossy(Local):
        damaged = 1

        def send(self, local: Path, remote: str, progress: Any = None) -> None:
            super().send(local, remote)
            if self.damaged > 0:
                self.damaged -= 1
                Path(remote).write_bytes(b"noise")

    with opened(Lossy(), exclusive=False) as session:
        assert session.run("ort", RUN, {"m": artifact}, FEED, LIMITS).response.ok
    lost = Lossy()
    lost.damaged = 100
    with opened(lost, exclusive=False) as session, pytest.raises(TransportError, match="arrives damaged on local, twice"):
        session.run("ort", RUN, {"m": artifact}, FEED, LIMITS)


class Talking(Local):
    """A device that runs the supervisor's protocol by a script: what it says after each message it hears."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    def python(self, code: str) -> subprocess.Popen[bytes]:
        script = "import sys\nfor answer in sys.argv[1:]:\n sys.stdin.readline(), print(answer, flush=True)\nsys.stdin.read()"
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", script, *self.answers], stdin=pipe, stdout=pipe, stderr=pipe)


FACTS = msgspec.convert(probes.facts(), Facts)
STATE = msgspec.convert(probes.state(), State)
READY = json.dumps({"ready": {"folder": "/nowhere", "facts": msgspec.to_builtins(FACTS)}})
DEEP = "[" * 10_000 + "]" * 10_000


def test_what_the_probes_say_is_what_is_asked_of_a_device() -> None:
    assert msgspec.to_builtins(FACTS) == probes.facts() and set(msgspec.to_builtins(STATE)) == set(probes.state())


@pytest.mark.parametrize(
    "ready",
    [
        '{"ready": 5}',
        '{"ready": {"folder": "relative", "facts": {}}}',
        '{"refused": 7}',
        '{"busy": []}',
        '{"ready": ' + DEEP + "}",
        READY.replace('"board": "', '"board": ["", "'),
        json.dumps({"ready": {"folder": "/x", "facts": {**msgspec.to_builtins(FACTS), "board": []}}}),
        json.dumps({"ready": {"folder": "/x", "facts": {**msgspec.to_builtins(FACTS), "board": "x" * 10**5}}}),
    ],
    ids=["number", "folder", "refused", "busy", "deep", "json", "facts", "long"],
)
def test_a_device_that_talks_nonsense_is_a_line(ready: str) -> None:
    with pytest.raises(TransportError), opened(Talking(ready), exclusive=False, seconds=1):
        pass


def ended(**changed: Any) -> str:
    state = msgspec.to_builtins(STATE)
    held = {"code": 0, "reason": "ended", "said": "", "words": "", "peak_bytes": 1, "cpu_seconds": 1.0, "states": [state, state]}
    return json.dumps({"ended": {**held, **changed}})


@pytest.mark.parametrize(
    "changed",
    [
        {"states": []},
        {"states": [msgspec.to_builtins(STATE)]},
        {"states": [{**msgspec.to_builtins(STATE), "load": "x"}] * 2},
        {"states": [{**msgspec.to_builtins(STATE), "governors": [1]}] * 2},
        {"peak_bytes": 2**70},
        {"code": -1000},
    ],
    ids=["none", "one", "load", "governors", "memory", "code"],
)
def test_an_ending_that_is_none_is_a_line(changed: dict[str, Any]) -> None:
    device = Talking("", READY, ended(**changed))
    with opened(device, exclusive=False) as session, pytest.raises(TransportError, match="answers what is no answer"):
        session._start("x", RUN, LIMITS, "ort")


@pytest.mark.parametrize("progress", ["5", '["a", "b"]', "[1]", "[-1, 3]", DEEP])
def test_progress_that_is_none_is_no_progress(progress: str) -> None:
    told: list[object] = []
    said = f'{{"progress": {progress}}}\n{ended(code=-33)}'
    with opened(Talking("", READY, said), exclusive=False, progress=lambda *message: told.append(message)) as session:
        ending = session._start("x", RUN, LIMITS, "ort")
        with pytest.raises(RunnerError, match=r"crashed \(signal 33\)"):
            respond(ending.said, ending.words, ending.code, "ort")
    assert told == []


def test_a_version_longer_than_any_is_none() -> None:
    said = json.dumps({"schema": 1, "ok": True, "runtime": "ort", "version": "1" * 10**4, "truth": "host"})
    with pytest.raises(RunnerError):
        respond(said, "", 0, "ort")


def test_a_message_without_an_end_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_LONGEST", 1000)
    with pytest.raises(TransportError, match="answers without an end"), opened(Talking("", "x" * 2000), exclusive=False):
        pass


@pytest.mark.parametrize("digests", ['{"digests": []}', '{"digests": [3]}', '{"digests": {}}', '{"digests": ["", ""]}'])
def test_digests_of_other_files_than_were_asked_for_are_a_line(digests: str, artifact: Path) -> None:
    with opened(Talking("", READY, digests), exclusive=False) as session, pytest.raises(DeviceError):
        session._send(artifact)


def test_a_device_may_say_more_than_memory_holds() -> None:
    class Loud(Local):
        def python(self, code: str) -> subprocess.Popen[bytes]:
            loud = "import sys\nfor _ in range(400): print('x' * 10**4); print('y' * 10**4, file=sys.stderr)\n"
            return super().python(loud + code)

    assert ask(Loud(), "files", {"paths": [str(Path.cwd() / "no file")], "digest": True}, Files).sizes == [-1]
    with opened(Loud(), exclusive=False) as session:
        assert session.facts.cores > 0


def test_an_answer_too_deep_to_read_is_a_line() -> None:
    class Deep(Local):
        def python(self, code: str) -> subprocess.Popen[bytes]:
            return super().python(f"print('[' * {10**4} + ']' * {10**4})")

    with pytest.raises(AnswerError, match="what is no answer"):
        ask(Deep(), "files", {"paths": ["/x"]}, Files)


def test_the_supervisor_imports_the_standard_library_alone() -> None:
    from tests.test_imports import PACKAGE, imports

    for name in ("supervisor", "probes"):
        found = {each.partition(".")[0] for each in imports(PACKAGE / "runner" / f"{name}.py")}
        assert found - sys.stdlib_module_names - {"__future__"} <= {"edgepack"}
