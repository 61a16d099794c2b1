"""All architectures by name. Importing it imports torch and transformers."""

from __future__ import annotations

from functools import cache

from tests.zoo import audio, ours, text, vision
from tests.zoo.architecture import Architecture


@cache
def _all() -> dict[str, Architecture]:
    held = [*text.ARCHITECTURES, *audio.ARCHITECTURES, *vision.ARCHITECTURES, *ours.ARCHITECTURES]
    return {architecture.name: architecture for architecture in held}


def names() -> list[str]:
    """Every architecture, in the order of its family's file."""
    return list(_all())


def architecture(name: str) -> Architecture:
    """The architecture of a name; KeyError for none."""
    return _all()[name]
