"""A pack that is served without a browser and without npm: a client in Python plays the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgepack.latency.on_device import OpenPack
from edgepack.latency.protocol import profile
from edgepack.pack.files import load_pack
from edgepack.serve.subjects import Served, served
from tests.serve.page import Counter, Page, at_counter
from tests.system.conftest import digits_pack

__all__ = ["digits_pack"]

# Who only says that it measured took no time.
SHORTEST = replace(profile("smoke"), seconds=0.0)


@pytest.fixture
def pack(digits_pack: Path, tmp_path: Path) -> Path:
    """A digits pack of the test's own."""
    folder = tmp_path / "pack"
    shutil.copytree(digits_pack, folder)
    shutil.rmtree(folder / "measurements", ignore_errors=True)
    return folder


@pytest.fixture
def held(pack: Path) -> Served:
    """The pack as a browser gets it, in the fewest rounds, however long they take."""
    return served(OpenPack.at(pack, load_pack(pack)), (), (), SHORTEST, 1, {"ort": "1.0", "litert": "2.0"})


@pytest.fixture
def counter(pack: Path, held: Served) -> Iterator[Counter]:
    """A server of the pack on loopback."""
    with at_counter(pack, held) as counter:
        yield counter


@pytest.fixture
def page(counter: Counter) -> Page:
    """A page that came in by the address."""
    return counter.opened()
