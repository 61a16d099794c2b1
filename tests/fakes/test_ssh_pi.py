"""The fake behaves as a Pi behind OpenSSH does."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes.pi import SshPi

WAITING = "python3 -c 'import sys; print(1, flush=True); sys.stdin.read(); print(2)'"


def waiting(pi: SshPi) -> subprocess.Popen[bytes]:
    """A program on the Pi that has begun and ends when its standard input does."""
    words = ["ssh", "-F", str(pi.config), "-p", str(pi.server.port), "pi@127.0.0.1", WAITING]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    return process


def gone(pi: SshPi) -> bool:
    """Whether no program runs on the Pi, or soon none does."""
    end = time.monotonic() + 20
    while pi.programs() and time.monotonic() < end:
        time.sleep(0.1)
    return not pi.programs()


def test_python_over_ssh_is_the_pis_own_in_its_home_without_packages(ssh_pi: SshPi) -> None:
    code = "import os, platform; print(platform.machine(), os.getcwd(), os.environ[chr(65)])"
    ended = ssh_pi.ssh(f"exec env A=b python3 -c '{code}'")
    assert (ended.returncode, ended.stdout) == (0, f"aarch64 {ssh_pi.board.home} b\n"), ended.stderr
    assert "No module named 'numpy'" in ssh_pi.ssh("python3 -c 'import numpy'").stderr
    ssh_pi.equip()
    assert ssh_pi.ssh("python3 -c 'import numpy'").returncode == 0
    unknown = ssh_pi.ssh("uname -m")
    assert (unknown.returncode, unknown.stdout) == (127, "")


def test_sftp_puts_a_file_where_the_pis_python_finds_it(ssh_pi: SshPi, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    words = ["sftp", "-q", "-F", str(ssh_pi.config), "-P", str(ssh_pi.server.port), "-b", "-", "pi@127.0.0.1"]
    batch = f"put {tmp_path}/model.bin {ssh_pi.board.home}/model.bin\nget model.bin {tmp_path}/back.bin\n"
    ended = subprocess.run(words, input=batch, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "back.bin").read_bytes() == b"weights"
    assert ssh_pi.ssh("python3 -c 'print(open(\"model.bin\").read())'").stdout == "weights\n"


def test_dropped_connections_end_the_client_and_the_server_takes_new_ones(ssh_pi: SshPi) -> None:
    client = waiting(ssh_pi)
    ssh_pi.drop()
    assert client.wait(20) == 255
    assert gone(ssh_pi)
    assert ssh_pi.ssh("python3 -c 'print(3)'").stdout == "3\n"


def test_what_runs_on_the_pi_dies_with_the_server(ssh_pi: SshPi) -> None:
    client = waiting(ssh_pi)
    (program,) = ssh_pi.programs()
    ssh_pi.server.stop()
    assert client.wait(20) == 255
    assert not program.is_running()
    assert ssh_pi.ssh("python3 -c 'print(3)'").returncode == 255


def test_a_frozen_connection_neither_answers_nor_ends_until_it_thaws(ssh_pi: SshPi) -> None:
    client = waiting(ssh_pi)
    ssh_pi.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        client.communicate(timeout=1)
    ssh_pi.thaw()
    assert client.communicate(timeout=20)[0] == b"2\n"
