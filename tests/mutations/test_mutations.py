"""A sample of the mutations (``make mutations`` runs 5,000), and the harness itself: sound files pass, and what it must hear it hears."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.mutations.cases import KINDS, Kind
from tests.mutations.run import prepare, run, run_kind

CASES = 40


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations") / "seeds"
    prepare(folder)
    return folder


def test_a_sample_of_mutations_ends_well_or_in_one_line(seeds: Path) -> None:
    found = list(run(seeds, 0, list(range(CASES)), 2, 2))
    assert len(found) == CASES + 2
    assert [f"{each.index} {each.kind}: {each.bad} {each.message}" for each in found if each.bad] == []


# In processes of their own the others would meet libraries that do not share one.
HERE = [kind for kind in KINDS if kind.group == "light"]


@pytest.mark.parametrize("kind", HERE, ids=[kind.name for kind in HERE])
def test_a_sound_file_passes(seeds: Path, kind: Kind) -> None:
    found = run_kind(replace(kind, change=_unchanged), seeds, 0, 0)
    assert (found.outcome, found.bad) == ("ok", ""), found.message


def _unchanged(path: Path, random: Random) -> None:
    pass


class Touch:
    """Unpickling it finds a class."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path, ("x",)


def _crash(path: Path, out: Path) -> None:
    raise KeyError("a defect")


def _write(path: Path, out: Path) -> None:
    (out.parent / "owned").write_text("x")


def _start(path: Path, out: Path) -> None:
    subprocess.run([sys.executable, "--version"], check=True)


def _unpickle(path: Path, out: Path) -> None:
    pickle.loads(pickle.dumps(Touch()))


def _fill(path: Path, out: Path) -> None:
    assert len(bytearray(2**34))


def _die(path: Path, out: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("does", "heard"),
    [
        *((_crash, "crash"), (_write, "open "), (_start, "subprocess.Popen"), (_unpickle, "pickle.find_class"), (_fill, "crash")),
        (_die, "ended by SIGKILL"),
    ],
)
def test_what_a_case_must_not_do_is_heard(seeds: Path, does: Callable[[Path, Path], None], heard: str) -> None:
    found = run_kind(replace(HERE[0], operate=does, change=_unchanged), seeds, 0, 0)
    assert heard in found.bad
