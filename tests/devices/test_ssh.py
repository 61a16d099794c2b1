"""Devices behind ssh, against a real OpenSSH server: what is copied, what breaks, what is said then, and what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgepack.devices.address import Address, parse
from edgepack.devices.ask import AnswerError, ask
from edgepack.devices.sending import DamagedError, Files, Sent, digest, verified_send
from edgepack.devices.ssh import FullError, Ssh, quoted
from edgepack.devices.ssh_words import CutError, explained
from edgepack.devices.transport import TransportError
from edgepack.errors import InputError
from tests.devices.conftest import DEVICE
from tests.fakes.sshd import NO_HOST, Server, name_of

MEGABYTE = 2**20
SIZE = 20 * MEGABYTE


def said(ssh: Ssh, code: str, given: bytes = b"") -> tuple[bytes, int]:
    process = ssh.python(code)
    out, _ = process.communicate(given, 20)
    return out, process.returncode


def failure(address: Address = DEVICE, timeout: float = 3) -> TransportError:
    """Why no connection can be opened."""
    with pytest.raises(TransportError) as caught:
        Ssh.open(address, timeout).close()
    assert caught.value.exit_code == 4 and caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def folders() -> set[Path]:
    return set(Path("/tmp").glob(f"edgepack-ssh-{os.getpid()}-*"))


def masters() -> list[psutil.Process]:
    """Shared connections of tests, wherever they run."""
    return [each for each in psutil.process_iter() if name_of(each) == "ssh" and any("/tmp/edgepack-ssh-" in word for word in words(each))]


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


# Programs


@pytest.mark.parametrize("text", ['it\'s "quoted"', "a\\nb\\", "$HOME `id` !!", "é 猫", "two\nlines", "%s; exit 3 # no"])
def test_a_program_arrives_as_it_was_written_whatever_characters_it_holds(ssh: Ssh, text: str) -> None:
    out, code = said(ssh, f"import sys; sys.stdout.buffer.write({text!r}.encode())\n")
    assert (out.decode(), code) == (text, 0)


def test_a_program_reads_its_input_runs_in_the_users_home_and_its_code_comes_back(ssh: Ssh, server: Server) -> None:
    assert said(ssh, "import os, sys; print(os.getcwd(), sys.stdin.read()); sys.exit(7)", b"x") == (f"{server.home} x\n".encode(), 7)
    assert ssh.explain(7, "Permission denied (os error 13)") is None


def test_a_program_too_long_for_a_command_line_is_refused_before_anything_starts(ssh: Ssh) -> None:
    with pytest.raises(ValueError, match="too long for a command line"):
        ssh.python(f"x = {os.urandom(200_000).hex()!r}")


def test_everything_after_the_first_handshake_shares_its_connection(ssh: Ssh, server: Server) -> None:
    before = server.logins()
    for _ in range(3):
        assert said(ssh, "print(1)") == (b"1\n", 0)
    assert server.logins() == before > 0


def test_a_login_shell_that_greets_does_not_spoil_an_answer(ssh: Ssh, server: Server) -> None:
    server.program("python3", f'echo Welcome; exec {sys.executable} "$@"')
    assert ask(ssh, "files", {"paths": ["/nowhere/at/all"], "make": str(server.home / "x")}, Files).sizes == [-1]


def test_a_program_that_fails_there_is_quoted_with_its_last_words(ssh: Ssh) -> None:
    with pytest.raises(AnswerError, match=r"python3 on ssh://device failed \(exit code 1\): KeyError: 'paths'"):
        ask(ssh, "files", {}, Files)


# Connections that cannot be had


def test_a_port_nobody_listens_on_is_a_refused_connection(server: Server) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server.configure(Port=str(held.getsockname()[1]))
        error = failure()
    assert error.cause == "device refuses the connection" and "raspi-config" in error.hint


def test_a_device_that_never_answers_is_given_up_after_the_timeout(server: Server) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        server.configure(Port=str(deaf.getsockname()[1]))
        begun = time.monotonic()
        assert "cannot be reached" in failure(timeout=1).cause
    assert time.monotonic() - begun < 5


def test_a_jump_host_that_hangs_is_given_up_too(server: Server) -> None:
    server.configure(ProxyCommand="sleep 60")
    begun = time.monotonic()
    assert "cannot be reached" in failure(timeout=1).cause
    assert time.monotonic() - begun < 9


def test_a_host_without_an_address_says_so(server: Server) -> None:
    server.configure(HostName=NO_HOST)
    assert failure().cause == "no host is called device"


def test_a_key_the_device_does_not_accept_says_how_to_send_it_there(server: Server) -> None:
    server.configure(IdentityFile=str(server.root / "stranger"))
    error = failure()
    assert error.cause == "device accepts no key of this machine" and "ssh-copy-id device" in error.hint


def test_a_host_key_that_is_not_known_is_never_accepted_silently(server: Server) -> None:
    server.know("")
    error = failure()
    assert error.cause == "the host key of device is not known here" and "run ssh device once" in error.hint
    assert (server.root / "known_hosts").read_text() == ""


def test_a_host_key_that_changed_warns_and_names_what_forgets_the_old_one(server: Server) -> None:
    server.know("other")
    error = failure(Address("ssh", "", "", "device", server.port))
    assert error.cause == "the host key of device is not the one this machine knows"
    assert f"ssh-keygen -R '[device]:{server.port}'" in error.hint and "do not connect" in error.hint


def test_a_broken_configuration_of_the_users_is_named_with_its_line(server: Server) -> None:
    server.configure(NoSuchSetting="1")
    assert "Bad configuration option: nosuchsetting" in failure().cause


def test_no_ssh_on_this_machine_says_what_to_install(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failure().cause == "this machine has no ssh"


def test_a_device_without_python_says_so(ssh: Ssh, server: Server) -> None:
    (server.bin / "python3").unlink()
    with pytest.raises(TransportError, match="device has no python3 -> next: install it there"):
        ask(ssh, "files", {"paths": ["x"]}, Files)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("ssh: connect to host pi port 22: No route to host", "pi cannot be reached"),
        ("ssh: connect to host pi port 22: Connection timed out", "pi cannot be reached"),
        ("ssh: connect to host pi port 22: Network is unreachable", "pi cannot be reached"),
        ("Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures", "pi accepts no key of this machine"),
        ("kex_exchange_identification: read: Connection reset by peer", "the connection to pi broke"),
        ("Timeout, server pi not responding.", "the connection to pi broke"),
        ("client_loop: send disconnect: Broken pipe", "the connection to pi broke"),
        ("", "the connection to pi broke"),
        ("something new", "the connection to pi failed: something new"),
    ],
)
def test_words_of_ssh_that_no_loopback_brings_about_are_understood(line: str, cause: str) -> None:
    error = explained(parse("ssh://pi"), 255, line)
    assert error is not None and error.cause == cause


# Copies


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 100
)


@given(name=NAMES)
@example(name='it\'s [a] "b" \\c\\ *?#')
@example(name="-rf ~ $HOME")
@example(name=" leading and trailing ")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_any_name_goes_there_and_comes_back(ssh: Ssh, server: Server, tmp_path: Path, name: str) -> None:
    local, back = tmp_path / name, tmp_path / f"{name}.back"
    content = os.urandom(100)
    local.write_bytes(content)
    ssh.send(local, str(server.home / name))
    assert (server.home / name).read_bytes() == content
    ssh.fetch(str(server.home / name), back)
    assert back.read_bytes() == content
    for each in (local, back, server.home / name):
        each.unlink()


@pytest.mark.parametrize("name", ["two\nlines", "carriage\rreturn", "\0"])
def test_a_file_name_that_no_line_can_hold_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="line break"):
        quoted(name)


def test_progress_grows_up_to_the_whole(ssh: Ssh, server: Server, big: Path) -> None:
    seen: list[tuple[int, int]] = []
    ssh.send(big, str(server.home / "big"), lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, SIZE) and seen[-1] == (SIZE, SIZE)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_copy_that_broke_off_is_gone_on_with(ssh: Ssh, server: Server, big: Path) -> None:
    remote = server.home / "big"
    # What is there already is marked, to be seen again afterwards: only the rest was sent.
    remote.write_bytes(b"MARK" + big.read_bytes()[4 : 15 * MEGABYTE])
    ssh.send(big, str(remote))
    assert remote.read_bytes() == b"MARK" + big.read_bytes()[4:]


def slowed(server: Server) -> None:
    """A link slow enough to be cut in the middle: 20 MB in four seconds."""
    server.configure(ProxyCommand=f"{sys.executable} {Path(__file__).with_name('slow_link.py')} %h %p 5")


def cut_when(server: Server, ready: Callable[[], bool], times: list[int]) -> threading.Thread:
    def wait() -> None:
        for _ in range(1000):
            if ready():
                times.append(server.cut())
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_connection_cut_in_a_copy_is_made_again_and_the_copy_goes_on(server: Server, big: Path) -> None:
    slowed(server)
    remote, cuts, sizes = server.home / "big", [], []

    def half() -> bool:
        return remote.exists() and remote.stat().st_size > 4 * MEGABYTE

    with closing(Ssh.open(DEVICE)) as ssh:
        cutter = cut_when(server, half, cuts)
        put = ssh._put

        def watched(*arguments: object) -> None:
            sizes.append(remote.stat().st_size if remote.exists() else 0)
            put(*arguments)  # type: ignore[arg-type]

        ssh._put = watched  # type: ignore[method-assign, assignment]
        assert verified_send(ssh, [Sent(big, str(remote))])
    cutter.join()
    assert cuts and cuts[0] > 0
    assert len(sizes) == 2 and sizes[0] == 0 and sizes[1] > 4 * MEGABYTE
    assert digest(remote) == digest(big)


def test_a_fetch_that_is_cut_goes_on_and_shows_the_file_only_when_it_is_whole(server: Server, big: Path, tmp_path: Path) -> None:
    slowed(server)
    (server.home / "big").write_bytes(big.read_bytes())
    local, cuts, early = tmp_path / "back", [], []
    part = tmp_path / "back.part"

    def half() -> bool:
        early.append(local.exists())
        return part.exists() and part.stat().st_size > 4 * MEGABYTE

    with closing(Ssh.open(DEVICE)) as ssh:
        cut_when(server, half, cuts).join(0)
        ssh.fetch(str(server.home / "big"), local)
    assert cuts and not any(early)
    assert digest(local) == digest(big) and not part.exists()


def test_a_device_that_stays_away_is_an_error_after_a_few_tries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepack.devices.ssh._PAUSES", (0.01, 0.01))
    small = tmp_path / "small"
    small.write_bytes(b"x")
    with closing(Ssh.open(DEVICE)) as ssh:
        server.cut()
        server.configure(ProxyCommand="false")
        time.sleep(0.3)
        with pytest.raises(CutError, match="the connection to device broke"):
            ssh.send(small, str(server.home / "small"))


def test_what_runs_when_the_connection_is_cut_ends_and_is_explained(ssh: Ssh, server: Server) -> None:
    process = ssh.python("import time; print('up', flush=True); time.sleep(60)")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"up\n"
    server.cut()
    error = ssh.explain(process.wait(10), process.stderr.read().decode())
    assert isinstance(error, CutError) and error.hint.endswith("run the same again")
    assert said(ssh, "print(1)") == (b"1\n", 0)


def test_a_connection_that_falls_silent_is_noticed_and_the_copy_goes_on(server: Server, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepack.devices.ssh._ALIVE", ("ServerAliveInterval=1", "ServerAliveCountMax=2"))
    slowed(server)
    remote = server.home / "big"

    def frozen() -> None:
        while not (remote.exists() and remote.stat().st_size > 4 * MEGABYTE):
            time.sleep(0.02)
        server.freeze()

    threading.Thread(target=frozen, daemon=True).start()
    with closing(Ssh.open(DEVICE)) as ssh:
        assert verified_send(ssh, [Sent(big, str(remote))])
    assert digest(remote) == digest(big)


def servers(server: Server) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children(recursive=True) if name_of(child) == "sftp-server"]


def test_an_sftp_server_that_hangs_is_given_up_and_the_copy_goes_on(server: Server, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the card of a Pi does not answer; the connection holds."""
    monkeypatch.setattr("edgepack.devices.ssh._LOOK", 1.5)
    slowed(server)
    remote, hung = server.home / "big", []

    def hang() -> None:
        while not (remote.exists() and remote.stat().st_size > 4 * MEGABYTE):
            time.sleep(0.02)
        hung.extend(servers(server))
        for each in hung:
            each.suspend()

    threading.Thread(target=hang, daemon=True).start()
    try:
        with closing(Ssh.open(DEVICE)) as ssh:
            assert verified_send(ssh, [Sent(big, str(remote))])
    finally:
        for each in hung:
            each.kill()
    assert hung and digest(remote) == digest(big)


def test_a_fetch_that_brings_next_to_nothing_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepack.devices.ssh._LOOK", 0.5)
    monkeypatch.setattr("edgepack.devices.ssh._SLOWEST", 10**9)
    monkeypatch.setattr("edgepack.devices.ssh._PAUSES", ())
    slowed(server)
    (server.home / "big").write_bytes(os.urandom(SIZE))
    with closing(Ssh.open(DEVICE)) as ssh, pytest.raises(CutError, match="stands still"):
        ssh.fetch(str(server.home / "big"), tmp_path / "back")


def test_a_file_larger_than_any_answer_does_not_fill_this_disk(
    ssh: Ssh, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepack.devices.ssh._LARGEST", MEGABYTE)
    (server.home / "outputs.npz").write_bytes(bytes(2 * MEGABYTE))
    with pytest.raises(TransportError, match=r"outputs\.npz of device has more than 1\.0 MB"):
        ssh.fetch(str(server.home / "outputs.npz"), tmp_path / "back")
    assert not list(tmp_path.glob("back*"))


def test_a_copy_that_is_there_is_not_sent_again(ssh: Ssh, server: Server, tmp_path: Path) -> None:
    files = [Sent(tmp_path / name, str(server.home / name)) for name in ("a", "b")]
    for file in files:
        file.local.write_bytes(file.local.name.encode())
    assert verified_send(ssh, files) == files
    (server.home / "b").write_bytes(b"X")
    assert verified_send(ssh, files) == files[1:]
    assert verified_send(ssh, files) == [] and (server.home / "b").read_bytes() == b"b"


def test_going_on_with_a_part_of_another_file_is_noticed_and_the_file_sent_whole(ssh: Ssh, server: Server, big: Path) -> None:
    remote = server.home / "big"
    remote.write_bytes(os.urandom(2 * MEGABYTE))
    verified_send(ssh, [Sent(big, str(remote))])
    assert digest(remote) == digest(big)


def test_a_copy_that_is_damaged_twice_is_an_error(ssh: Ssh, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / "model.onnx"
    local.write_bytes(b"model")
    tries = []

    def forgetful(path: Path, remote: str, progress: object) -> None:
        tries.append(path)
        Path(remote).write_bytes(b"m0del")

    monkeypatch.setattr(ssh, "send", forgetful)
    with pytest.raises(DamagedError, match=r"model.onnx arrives damaged on ssh://device, twice"):
        verified_send(ssh, [Sent(local, str(server.home / "model.onnx"))])
    assert len(tries) == 2


def test_a_folder_that_is_not_there_is_told_in_sftps_words(ssh: Ssh, server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(TransportError, match=r"sftp to device failed: .*No such file or directory"):
        ssh.send(tmp_path / "x", str(server.home / "nowhere" / "x"))


def test_a_login_shell_that_prints_where_sftp_speaks_is_named(ssh: Ssh, server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    session = server.root / "session"
    before = session.read_text()
    session.write_text(before.replace("#!/bin/sh\n", "#!/bin/sh\necho Welcome to this Pi\n"))
    try:
        with pytest.raises(TransportError, match=r"login shell of device prints text where sftp speaks -> next: keep its \.bashrc silent"):
            ssh.send(tmp_path / "x", str(server.home / "x"))
    finally:
        session.write_text(before)


@pytest.fixture
def small_disk(server: Server) -> Iterator[Path]:
    """A folder of the device with room for 8 MB."""
    folder = server.home / "disk"
    folder.mkdir()
    made = server.apart("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder))
    if made.returncode:
        pytest.skip(f"no small disk can be made: {made.stderr.strip()}")
    yield folder
    server.apart("umount", str(folder))


def test_a_full_disk_is_told_as_that_with_its_numbers_and_holds_no_part_afterwards(
    ssh: Ssh, server: Server, small_disk: Path, big: Path
) -> None:
    with pytest.raises(FullError, match=r"the disk of device is full: 8\.4 MB are free, big needs 21\.0 MB -> next: free some space"):
        ssh.send(big, str(small_disk / "big"))
    assert server.apart("ls", str(small_disk)).stdout == ""


# What is left behind


def test_closing_ends_the_shared_connection_and_removes_its_private_folder(server: Server) -> None:
    before = folders()
    transport = Ssh.open(DEVICE)
    (folder,) = folders() - before
    assert folder.stat().st_mode & 0o777 == 0o700 and len(str(next(folder.iterdir()))) < 90
    assert any(str(folder) in word for each in masters() for word in words(each))
    transport.close()
    transport.close()
    assert not folder.exists()
    assert not any(str(folder) in word for each in masters() for word in words(each))


def test_a_connection_that_cannot_be_had_leaves_no_folder(server: Server) -> None:
    before = folders()
    server.know("")
    failure()
    assert folders() == before


def test_the_folder_of_a_killed_process_goes_with_the_next_connection(server: Server) -> None:
    command = [sys.executable, "-c", _WAITS.format(body=_CLOSES)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    folder = Path(program.stdout.readline().strip())
    program.kill()
    program.communicate()
    server.cut()
    for _ in range(100):
        if not list(folder.iterdir()):
            break
        time.sleep(0.05)
    Ssh.open(DEVICE).close()
    assert not folder.exists()


_WAITS = """
import sys
from edgepack.cli.app import Interrupted, _interrupt
import signal
signal.signal(signal.SIGINT, _interrupt)
from contextlib import closing
from edgepack.devices.address import parse
from edgepack.devices.ssh import Ssh
from edgepack.converter.process import ended
{body}
"""
_CLOSES = """
with closing(Ssh.open(parse("ssh://device"))) as ssh:
    print(ssh._folder, flush=True)
    process = ssh.python("import time; time.sleep(60)")
    with ended(process):
        process.wait()
"""
_FORGETS = """
ssh = Ssh.open(parse("ssh://device"))
print(ssh._folder, flush=True)
process = ssh.python("import time; time.sleep(1)")
process.wait()
raise SystemExit("forgot to close")
"""


@pytest.mark.parametrize(("body", "interrupts"), [(_CLOSES, True), (_FORGETS, False)], ids=["Ctrl-C", "never closed"])
def test_no_connection_and_no_folder_outlives_the_program(server: Server, body: str, interrupts: bool) -> None:
    command = [sys.executable, "-c", _WAITS.format(body=body)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None
    folder = program.stdout.readline().strip()
    assert Path(folder).is_dir()
    if interrupts:
        time.sleep(0.3)
        program.send_signal(signal.SIGINT)
    program.communicate(timeout=20)
    assert program.returncode != 0 and not Path(folder).exists()
    assert not any(folder in word for each in masters() for word in words(each))
