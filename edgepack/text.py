"""Words of a stranger's file, made fit to be shown: a terminal obeys what it is sent."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

# Control characters (escape sequences start with one), line and paragraph separators, and what turns the direction of text.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The longest message that is still a line.
_LONGEST = 2000


def plain(text: str) -> str:
    """Text with every character that a terminal obeys spelled out (\\x1b)."""
    return _OBEYED.sub(lambda found: ascii(found.group())[1:-1], text)


def one_plain_line(text: str) -> str:
    """The same on one line, cut where it is too long to be a message."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}\u2026"


def cleaned(held: T) -> T:
    """A struct with every string in it plain."""
    return msgspec.convert(_cleaned(msgspec.to_builtins(held)), type(held))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): _cleaned(each) for key, each in value.items()}
    return [_cleaned(each) for each in value] if isinstance(value, list | tuple) else value
