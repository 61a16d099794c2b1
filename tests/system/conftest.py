"""One digits pack for all system tests, built once for each test run, however many workers share it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.system.program import DIGITS, edgepack


@pytest.fixture(scope="session")
def digits_pack(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The pack that ``edgepack demo`` builds, with the short latency profile."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    pack = shared / "digits-pack"
    with (shared / "digits-pack.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not pack.is_dir():
            ended = edgepack("demo", "-o", pack, "--latency", "smoke", cwd=DIGITS)
            assert ended.returncode == 0, ended.stderr + ended.stdout
            (shared / "digits-pack.txt").write_text(ended.stdout)
    return pack
