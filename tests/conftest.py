"""One store for a whole test run, apart from the user's own; for each of its processes, a lock of those who measure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgepack.runner.supervisor import LOCK_VARIABLE

# Emulated Pis (fixtures pi4, pi5 and ssh_pi), a phone behind adb (adb_phone), and runs of pytest inside tests, of its own plugin.
pytest_plugins = ["tests.fakes.pi", "tests.fakes.adbd", "pytester"]


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a test builds or runs as a program keeps its results here."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["EDGEPACK_STORE"] = str(Path(shared) / "store")


@pytest.fixture(scope="session", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests beside each other measure at the same time, and do not wait for whoever measures on this machine."""
    os.environ[LOCK_VARIABLE] = str(tmp_path_factory.getbasetemp() / "measuring.lock")
