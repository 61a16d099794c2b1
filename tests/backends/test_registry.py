"""Backends by name."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from edgepack.backends.registry import NEEDS_STATIC_SHAPES, backend
from edgepack.targets import Target

NAMES = get_args(get_type_hints(Target)["backend"])


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_a_target_may_name_writes_lints_and_lists_obstacles(name: str) -> None:
    found = backend(name)
    assert all(callable(getattr(found, verb)) for verb in ("write", "lint", "obstacles"))


def test_static_shapes_are_asked_for_by_backends_that_exist() -> None:
    assert set(NAMES) >= NEEDS_STATIC_SHAPES
