"""A session on this machine: what runs, what every failure says, and that nothing is left of it whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgepack.converter.step import Limits
from edgepack.devices import session as sessions
from edgepack.devices.local import Local
from edgepack.devices.runner_process import Request, RunnerError
from edgepack.devices.session import BusyError, Session, opened
from edgepack.devices.transport import TransportError
from tests.runner.test_bundle import model

LIMITS = Limits(60, 4 * 2**30)
FEED = {"x": np.random.default_rng(0).normal(size=(3, 1, 3, 8, 8)).astype(np.float32)}
RUN = Request("run", {}, "", "")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders and the lock are this test's own."""
    monkeypatch.setattr(sessions, "RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


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
    monkeypatch.setattr(sessions, "RUNS", str(tmp_path / "file" / "runs"))
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
    with opened(lost, exclusive=False) as session, pytest.raises(TransportError, match="does not arrive whole"):
        session.run("ort", RUN, {"m": artifact}, FEED, LIMITS)


def test_the_supervisor_imports_the_standard_library_alone() -> None:
    from tests.test_imports import PACKAGE, imports

    for name in ("supervisor", "probes"):
        found = {each.partition(".")[0] for each in imports(PACKAGE / "runner" / f"{name}.py")}
        assert found - sys.stdlib_module_names - {"__future__"} <= {"edgepack"}
