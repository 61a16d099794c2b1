"""``edgepack bench`` over a real ssh server when things go wrong: one line, the right exit code, no process and no run folder left.

The device behind the server is this machine with a home and a python3 of its own.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from edgepack.devices.address import parse
from edgepack.devices.session import opened
from edgepack.devices.setup import RECORD
from edgepack.devices.ssh import Ssh
from edgepack.devices.transport import TransportError
from edgepack.devices.wheels import NEEDS, wanted
from tests.fakes.sshd import Server
from tests.runner.test_bundle import model
from tests.system.program import edgepack, failure

DEVICE = "ssh://device"
LIBRARIES = ("onnxruntime", "numpy", "numpy.libs", "ai_edge_litert", "flatbuffers", "google", "packaging", "backports")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pack with one artifact for a Raspberry Pi."""
    folder = tmp_path_factory.mktemp("pack")
    made = edgepack("build", model(folder / "model.onnx"), "-t", "raspberry-pi-5", "-o", "pack", "--latency", "none", cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder / "pack"


@pytest.fixture
def equipped(server: Server) -> Server:
    """The device as ``edgepack device setup`` leaves it, with links in the wheels' place."""
    return equip(server, wanted())


def equip(server: Server, versions: dict[str, str]) -> Server:
    site = server.home / ".cache" / "edgepack" / "site-test"
    site.mkdir(parents=True)
    packages = Path(str(metadata.distribution("numpy").locate_file("")))
    for name in LIBRARIES:
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    for name in NEEDS:
        info = Path(str(metadata.distribution(name)._path))  # type: ignore[attr-defined]
        (site / info.name).symlink_to(info)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (site / RECORD).write_text(json.dumps({"tag": tag, "versions": versions}))
    return server


def bench(pack: Path, *options: str, device: str = DEVICE) -> subprocess.CompletedProcess[str]:
    return edgepack("bench", pack, "--device", device, "--profile", "smoke", "--no-save", *options, cwd=pack, seconds=120)


def refused(ended: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with one line that holds these words."""
    line = failure(ended)
    assert ended.returncode == code, line
    for word in words:
        assert word in line, line
    assert "Traceback" not in ended.stderr + ended.stdout


def runs(server: Server) -> list[Path]:
    return sorted((server.home / ".cache" / "edgepack" / "runs").glob("edgepack-run-*"))


_BEGUN = [0.0]


@pytest.fixture(autouse=True)
def begun() -> None:
    """When this test began: other tests share the server, and may leave programs there."""
    _BEGUN[0] = time.time()


def there(server: Server) -> list[psutil.Process]:
    """Python processes that work in the device's home since this test began."""
    found = []
    for process in psutil.process_iter():
        try:
            is_new = process.create_time() > _BEGUN[0]
            if is_new and "python" in process.name() and Path(process.cwd()).is_relative_to(server.home):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def nothing_is_left(server: Server, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while there(server) and time.monotonic() < end:
        time.sleep(0.1)
    assert there(server) == []


def measured(pack: Path) -> None:
    ended = bench(pack)
    assert ended.returncode == 0, ended.stderr + ended.stdout


@contextmanager
def as_soon_as(happens: Callable[[], bool], do: Callable[[], object]) -> Iterator[threading.Event]:
    """Do something, once, in the background; the event says that it was done."""
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            # A process that is looked at may end meanwhile.
            with suppress(psutil.NoSuchProcess):
                if happens():
                    do()
                    done.set()
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def killed(found: list[psutil.Process]) -> bool:
    """Kill the first of them, if there is one: a second look may find none."""
    for process in found[:1]:
        process.kill()
    return bool(found)


def test_a_device_that_is_ready_measures_and_keeps_nothing(pack: Path, equipped: Server) -> None:
    ended = bench(pack, "--json")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    (found,) = json.loads(ended.stdout)["measurements"]
    assert (found["target"], found["truth"], found["device"]["architecture"]) == ("raspberry-pi-5", "host", platform.machine())
    assert found["latency"]["p50"]["value"] > 0 and found["failures"] == []
    nothing_is_left(equipped)
    assert runs(equipped) == []


def test_a_host_that_does_not_answer(pack: Path, equipped: Server) -> None:
    equipped.configure(Port="1")
    refused(bench(pack), 4, "refuses the connection")


def test_a_host_of_no_such_name(pack: Path, equipped: Server) -> None:
    equipped.configure(HostName="no-such-host.invalid")
    refused(bench(pack), 4, "no host is called device")


def test_a_key_that_the_device_does_not_take(pack: Path, equipped: Server) -> None:
    equipped.configure(IdentityFile=str(equipped.root / "stranger"))
    refused(bench(pack), 4, "accepts no key of this machine", "ssh-copy-id")


def test_a_host_that_is_not_known(pack: Path, equipped: Server) -> None:
    equipped.know("")
    refused(bench(pack), 4, "host key of device is not known")


def test_runtimes_that_are_missing_name_the_command_that_brings_them(pack: Path, server: Server) -> None:
    refused(bench(pack), 4, "no runtimes", f"edgepack device setup {DEVICE}")


def test_runtimes_that_are_too_old(pack: Path, server: Server) -> None:
    equip(server, {**wanted(), "onnxruntime": "1.20.0"})
    refused(bench(pack), 4, "onnxruntime on ssh://device is 1.20.0, older than", f"edgepack device setup {DEVICE}")


def test_a_system_of_32_bits_has_no_runtimes_and_cannot_get_them(pack: Path, equipped: Server) -> None:
    equipped.python("import struct\nold = struct.calcsize\nstruct.calcsize = lambda code: 4 if code == 'P' else old(code)")
    ended = edgepack("device", "setup", DEVICE, cwd=pack)
    refused(ended, 4, "32")


def test_a_processor_that_no_wheel_is_for(pack: Path, equipped: Server) -> None:
    equipped.python("import platform\nplatform.machine = lambda: 'riscv64'")
    refused(edgepack("device", "setup", DEVICE, cwd=pack), 4, "riscv64")


def test_a_connection_that_is_cut_during_a_run_leaves_nothing_there(pack: Path, equipped: Server) -> None:
    def is_running() -> bool:
        return any((folder / "request.json").exists() for folder in runs(equipped))

    with as_soon_as(is_running, equipped.cut) as done:
        ended = bench(pack, "--seconds", "30")
    assert done.is_set()
    refused(ended, 4, "broke")
    nothing_is_left(equipped)
    measured(pack)
    assert runs(equipped) == []


@pytest.mark.parametrize("option", ["--wait", "--timeout"])
@pytest.mark.parametrize("seconds", ["inf", "nan", "1e9"])
def test_times_that_never_end_are_bad_usage(option: str, seconds: str, tmp_path: Path) -> None:
    ended = edgepack("bench", tmp_path, option, seconds, cwd=tmp_path)
    assert ended.returncode == 2 and f"Invalid value for '{option}'" in ended.stderr


def test_a_network_that_is_lost_leaves_the_device_free_though_nobody_told_it(equipped: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's side of the connection neither ends nor answers, as after a wireless network went."""
    monkeypatch.setattr("edgepack.devices.ssh._ALIVE", ("ServerAliveInterval=1", "ServerAliveCountMax=2"))
    monkeypatch.setattr("edgepack.devices.session._SILENCE", 4.0)
    with closing(Ssh.open(parse(DEVICE))) as ssh:
        broke = r"the connection to device broke .* run the same again$"
        with pytest.raises(TransportError, match=broke), opened(ssh, exclusive=True) as session:
            frozen = equipped.sessions()
            equipped.freeze()
            session._talk.hear(("ended",), 30)
        assert len(runs(equipped)) == 1
        end = time.monotonic() + 20
        while runs(equipped) and time.monotonic() < end:
            time.sleep(0.1)
        assert runs(equipped) == [] and all(process.status() == psutil.STATUS_STOPPED for process in frozen)
        equipped.cut()


def test_a_runner_that_is_killed_there_is_a_failed_run(pack: Path, equipped: Server) -> None:
    def timing() -> list[psutil.Process]:
        """The runner: a child of the supervisor, once it times.

        A probe's child looks like it between fork and exec; it has used no processor time, which a runner that times does all along.
        """
        started = [folder for folder in runs(equipped) if (folder / "outputs.npz").exists()]
        children = [process for process in there(equipped) if started and process.children() == [] and process.parent() in there(equipped)]
        return [process for process in children if process.cpu_times().user > 0.2]

    with as_soon_as(lambda: killed(timing()), lambda: None) as done:
        ended = bench(pack, "--seconds", "30")
    assert done.is_set()
    refused(ended, 3, "the ort runner crashed (SIGKILL)")
    nothing_is_left(equipped)
    assert runs(equipped) == []


def test_a_supervisor_that_is_killed_takes_its_runner_along_and_the_next_contact_cleans_up(pack: Path, equipped: Server) -> None:
    def supervisors() -> list[psutil.Process]:
        started = [folder for folder in runs(equipped) if (folder / "outputs.npz").exists()]
        return [process for process in there(equipped) if started and process.children()]

    with as_soon_as(lambda: killed(supervisors()), lambda: None) as done:
        ended = bench(pack, "--seconds", "30")
    assert done.is_set()
    # ssh says of a program that a signal ended what it says of a connection that broke.
    refused(ended, 4, "the connection to device broke")
    nothing_is_left(equipped)
    assert len(runs(equipped)) == 1
    measured(pack)
    assert runs(equipped) == []


def test_two_benches_on_one_device_are_one_and_a_line(pack: Path, equipped: Server) -> None:
    command = [sys.executable, "-c", "from edgepack.cli import main; main()", "bench", str(pack), "-d", DEVICE, "--no-save"]
    first = subprocess.Popen([*command, "--seconds", "60"], cwd=pack, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any((folder / "request.json").exists() for folder in runs(equipped)):
            assert first.poll() is None
            time.sleep(0.05)
        refused(bench(pack), 4, "busy: another edgepack is measuring on it", "--wait")
    finally:
        first.send_signal(signal.SIGINT)
        code = first.wait(30)
    assert code == 130
    nothing_is_left(equipped)
    assert runs(equipped) == []


def test_a_clock_that_jumps_spoils_nothing_and_is_told(pack: Path, equipped: Server) -> None:
    equipped.python("import time\nreal, begun = time.time, time.monotonic()\ntime.time = lambda: real() - 60 * (time.monotonic() - begun)")
    ended = bench(pack, "--seconds", "2", "--json")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    (found,) = json.loads(ended.stdout)["measurements"]
    assert any("clock was set by -" in line for line in found["latency"]["warnings"])
    assert not any("was set" in line for line in found["latency"]["invalid"])
