"""A dozen faults of different kinds; ``python -m tests.faults.run`` injects all."""

from __future__ import annotations

import pytest

from tests.faults.families import FAMILIES
from tests.faults.run import Fault
from tests.faults.world import SAMPLE, World

SEED = 1
# (family, index)
_SOME = (
    ("signal at a boundary", 0),
    ("signal at a boundary", 6),
    ("kill at a call", 4),
    ("kill around the swap", 2),
    ("failing call", 3),
    ("signal inside a step", 0),
    ("worker killed", 1),
    ("runner killed", 0),
    ("full disk", 3),
    ("damaged entry", 0),
    ("damaged entry", 10),
    ("wrong clock", 0),
    ("misbehaving step", 4),
    ("builds beside each other", 2),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(("family", "index"), _SOME)
def test_no_wrong_artifact_no_lost_work_no_hang_after(family: str, index: int, world: World) -> None:
    fault = Fault(FAMILIES[family], SAMPLE, index)
    verdict = fault.inject(world, SEED, world.folder / fault.id)
    if verdict.skipped:
        pytest.skip(verdict.skipped)
    assert verdict.is_good, verdict
