"""Setting up a device that has nothing but Python, and finding it again."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepack.devices import known as known_devices
from edgepack.devices.ask import AnswerError, program
from edgepack.devices.known import Known, known, remember
from edgepack.devices.session import BusyError, opened
from edgepack.devices.setup import RECORD, MissingError, RoomError, installed, setup, site_of
from edgepack.devices.ssh import Ssh
from edgepack.devices.wheels import NEEDS, RUNTIMES, UnfitError, wanted
from tests.devices.test_ssh import said
from tests.fakes.sshd import NO_HOST, Server
from tests.fakes.wheels import make_wheels

THERE = Path(__file__).resolve().parents[2] / "edgepack" / "devices" / "there"
RUNTIME_VERSIONS = {runtime: wanted()[runtime] for runtime in RUNTIMES}

pytestmark = pytest.mark.usefixtures("stocked")


def cache(server: Server) -> Path:
    return server.home / ".cache" / "edgepack"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_device_with_nothing_but_python_is_made_ready(ssh: Ssh, server: Server) -> None:
    seen: list[tuple[str, int, int]] = []
    ready = setup(ssh, lambda *told: seen.append(told))
    assert ready.sent == len(NEEDS) and ready.runtimes == RUNTIME_VERSIONS
    assert names(cache(server)) == {Path(ready.site).name, "site", "setup.lock", "runs"}
    assert [what for what, done, total in seen if done == total] == list(dict.fromkeys(what for what, _, _ in seen))
    assert site_of(ssh) == ready.site
    assert (cache(server) / "site").resolve() == Path(ready.site).resolve()
    out, _ = said(
        ssh, f"import sys; sys.path.insert(0, {ready.site!r}); import onnxruntime, onnxruntime_more; print(onnxruntime.__version__)"
    )
    assert out.decode().strip() == wanted()["onnxruntime"]


def test_a_second_setup_sends_nothing_and_downloads_nothing(ssh: Ssh, index: Path, stocked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = setup(ssh)
    for path in [*index.iterdir(), *stocked.rglob("*.whl")]:
        path.unlink()
    monkeypatch.setattr(ssh, "send", lambda *_: pytest.fail("a file was sent"))
    again = setup(ssh)
    assert (again.site, again.runtimes, again.sent) == (first.site, first.runtimes, 0)


def test_wheels_that_an_interrupted_setup_sent_are_not_sent_again(ssh: Ssh, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    send, sent = ssh.send, []

    def interrupted(local: Path, remote: str, progress: object) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        send(local, remote)
        sent.append(local)

    with monkeypatch.context() as patch:
        patch.setattr(ssh, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            setup(ssh)
    assert not list(cache(server).glob("site-*"))
    assert setup(ssh).sent == len(NEEDS) - 2


def test_a_device_that_was_never_set_up_says_how(ssh: Ssh) -> None:
    with pytest.raises(MissingError, match="has no runtimes for edgepack -> next: edgepack device setup ssh://device") as caught:
        site_of(ssh)
    assert caught.value.exit_code == 4


def test_older_runtimes_are_refused_and_the_next_setup_replaces_them(ssh: Ssh, server: Server) -> None:
    first = setup(ssh)
    old = cache(server) / "site-cp311-000000000000"
    Path(first.site).rename(old)
    record = json.loads((old / RECORD).read_text())
    record["versions"]["onnxruntime"] = "1.9.1"
    (old / RECORD).write_text(json.dumps(record))
    with pytest.raises(MissingError, match=r"onnxruntime on ssh://device is 1\.9\.1, older than .* here -> next: edgepack device setup"):
        installed(ssh)
    assert setup(ssh).sent == len(NEEDS)
    # The host that made it may need it.
    assert names(cache(server)) == {Path(first.site).name, old.name, "site", "setup.lock", "runs"}


def test_of_earlier_sites_the_newest_stays_and_a_host_finds_its_own(ssh: Ssh, server: Server) -> None:
    mine = Path(setup(ssh).site)
    for age, name in ((2000, "site-cp310-000000000000"), (1000, "site-cp311-111111111111")):
        other = cache(server) / name
        shutil.copytree(mine, other)
        record = json.loads((other / RECORD).read_text())
        record["versions"]["onnxruntime"] = "1.9.1"
        (other / RECORD).write_text(json.dumps(record))
        os.utime(other, (time.time() - age,) * 2)
    # The other host's record is the newest now.
    assert site_of(ssh) == str(mine)
    setup(ssh)
    assert names(cache(server)) == {mine.name, "site-cp311-111111111111", "site", "setup.lock", "runs"}


def test_a_device_that_somebody_measures_on_is_not_set_up(ssh: Ssh, server: Server) -> None:
    with (
        opened(ssh, exclusive=True),
        pytest.raises(BusyError, match=r"busy: another edgepack is measuring on it.* -> next: set it up when"),
    ):
        setup(ssh)
    assert not list(cache(server).glob("site-*"))
    setup(ssh)


@pytest.mark.parametrize("changed", ["python='../3.11'", "glibc='2.36/../..'", "glibc='2'", "free=-1", "free=2**70"])
def test_what_a_device_says_of_itself_is_checked(ssh: Ssh, server: Server, stocked: Path, changed: str) -> None:
    name, _, value = changed.partition("=")
    patches = {
        "python": f"import platform; platform.python_version = lambda: {value}",
        "glibc": f"import os; os.confstr = lambda _: 'glibc ' + {value}",
        "free": f"import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free={value})",
    }
    server.python(patches[name])
    with pytest.raises(AnswerError, match="answers what is no answer"):
        setup(ssh)


def test_a_site_of_another_python_is_none(ssh: Ssh, server: Server) -> None:
    setup(ssh)
    server.python("import platform\nplatform.python_version = lambda: '3.13.1'")
    with pytest.raises(MissingError):
        site_of(ssh)


@pytest.mark.parametrize("damage", ["module", pytest.param("record", marks=pytest.mark.slow)])
def test_a_damaged_site_is_made_again(ssh: Ssh, damage: str) -> None:
    site = Path(setup(ssh).site)
    (site / {"module": "onnxruntime/__init__.py", "record": RECORD}[damage]).write_text("{")
    assert setup(ssh).sent == len(NEEDS)
    assert setup(ssh).sent == 0


def test_what_a_killed_unpacking_left_is_cleared(ssh: Ssh, server: Server) -> None:
    left = cache(server) / "new-site-cp311-123456789abc"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    ready = setup(ssh)
    assert names(cache(server)) == {Path(ready.site).name, "site", "setup.lock", "runs"}


def test_runtimes_that_do_not_import_there_leave_the_earlier_site_alone(ssh: Ssh, server: Server, index: Path, stocked: Path) -> None:
    earlier = cache(server) / "site-cp311-000000000000"
    earlier.mkdir(parents=True)
    for path in stocked.rglob("onnxruntime*"):
        path.unlink()
    make_wheels(index, onnxruntime="raise ImportError('libstdc++.so.6: version CXXABI_1.3.15 not found')")
    with pytest.raises(AnswerError, match=r"the runtimes do not import on ssh://device: .*CXXABI_1\.3\.15 not found"):
        setup(ssh)
    assert earlier.is_dir()


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("import struct\nstruct.calcsize = lambda _: 4\nimport platform\nplatform.machine = lambda: 'aarch64'", "32-bit Python"),
        ("import os\ndef confstr(_): raise ValueError\nos.confstr = confstr", "no glibc"),
        ("import platform\nplatform.python_version = lambda: '3.9.2'", r"3\.9\.2, too old"),
    ],
    ids=["32-bit userland under a 64-bit kernel", "musl", "old Python"],
)
def test_a_device_that_cannot_run_the_runtimes_is_refused_before_anything_is_downloaded(
    ssh: Ssh, server: Server, stocked: Path, before: str, reason: str
) -> None:
    server.python(before)
    shutil.rmtree(stocked)
    with pytest.raises(UnfitError, match=reason):
        setup(ssh)
    assert not stocked.exists() and not cache(server).exists()


def test_too_little_room_is_refused_before_anything_is_sent(ssh: Ssh, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.python("import shutil, types\nshutil.disk_usage = lambda _: types.SimpleNamespace(free=50_000_000)")
    monkeypatch.setattr(ssh, "send", lambda *_: pytest.fail("a file was sent"))
    with pytest.raises(RoomError, match=r"ssh://device has 50 MB free in .*, and the runtimes need 67 MB -> next: free some space"):
        setup(ssh)


@pytest.mark.parametrize("path", sorted(THERE.glob("*.py")), ids=lambda path: path.name)
def test_programs_for_a_device_need_only_the_standard_library_of_an_old_python(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in found} <= sys.stdlib_module_names
    assert path.stem == "__init__" or program(path.stem).count("def answer(") == 1


# What is remembered


def test_devices_are_remembered_for_their_user_alone(ssh: Ssh) -> None:
    setup(ssh)
    (device,) = known()
    assert device.address == "ssh://device" and device.runtimes == RUNTIME_VERSIONS and device.seen
    assert known_devices.place().stat().st_mode & 0o777 == 0o600
    assert names(known_devices.place().parent) == {"devices.json"}


def test_a_state_folder_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember(Known("ssh://a"))
    assert known() == []


@pytest.mark.parametrize("content", [b"", b"[", b'[{"address": 3}]', b"\xff", b"{}"])
@pytest.mark.usefixtures("server")
def test_a_damaged_record_of_devices_is_an_empty_one_and_the_next_device_mends_it(content: bytes) -> None:
    known_devices.place().parent.mkdir(parents=True)
    known_devices.place().write_bytes(content)
    assert known() == []
    remember(Known("ssh://a"))
    remember(Known("ssh://b"))
    remember(Known("ssh://a", model="Raspberry Pi 5"))
    assert known() == [Known("ssh://a", model="Raspberry Pi 5"), Known("ssh://b")]


# The commands


def edgepack(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepack.cli", *arguments]
    code = "from edgepack.cli import main; main()"
    return subprocess.run([*command[:1], "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.usefixtures("server")
def test_device_setup_reports_what_is_there_now_as_words_and_as_json() -> None:
    first = edgepack("device", "setup", "ssh://device")
    assert first.returncode == 0, first.stderr
    assert f"onnxruntime {wanted()['onnxruntime']}" in first.stdout and f"{len(NEEDS)} files sent" in first.stdout
    again = json.loads(edgepack("device", "setup", "ssh://device", "--json").stdout)
    assert again["ok"] and again["runtimes"] == RUNTIME_VERSIONS and again["sent"] == 0


def test_a_device_that_cannot_be_reached_is_one_line_and_exit_code_4(server: Server) -> None:
    server.know("")
    ended = edgepack("device", "setup", "ssh://device", "--timeout", "3")
    assert ended.returncode == 4 and ended.stdout == ""
    assert ended.stderr.startswith("FAIL the host key of device is not known here -> next: ") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["local", "pi", "ssh://", "ssh://-oProxyCommand=x", "ssh://pi/path"])
@pytest.mark.usefixtures("server")
def test_what_is_no_device_to_set_up_is_bad_usage(address: str) -> None:
    ended = edgepack("device", "setup", address)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1


def test_devices_lists_this_machine_the_emulated_ones_and_those_known_with_whether_they_answer(server: Server) -> None:
    edgepack("device", "setup", "ssh://device")
    server.configure()
    with server.config.open("a") as config:
        config.write(f"Host gone\n  HostName {NO_HOST}\n")
    remember(Known("ssh://gone", model="Raspberry Pi 4 \x1b[31m"))
    found = {each["address"]: each for each in json.loads(edgepack("devices", "--json").stdout)}
    assert list(found) == ["local", "qemu://pi4", "qemu://pi5", "ssh://device", "ssh://gone"]
    assert found["local"]["state"] == "here" and found["ssh://device"]["state"] == "reachable"
    assert found["ssh://device"]["runtimes"] == RUNTIME_VERSIONS
    assert found["ssh://gone"]["trouble"] == "no host is called gone"
    shown = edgepack("devices").stdout
    assert "Pi 4 \x1b" not in shown and "Pi 4 \\x1b[31m" in shown and "ssh://gone: no host is called gone" in shown


def test_devices_without_any_known_one_asks_nobody(server: Server) -> None:
    assert os.environ["EDGEPACK_SSH_CONFIG"] == str(server.config)
    assert len(json.loads(edgepack("devices", "--json").stdout)) == 3
