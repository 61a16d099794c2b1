"""Asking a device: one of the programs of ``edgepack.devices.there`` runs in its Python, JSON in, JSON out."""

from __future__ import annotations

import contextlib
import json
import subprocess
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import msgspec

from edgepack.converter.process import ended, ending
from edgepack.devices.tail import Tail
from edgepack.devices.transport import Transport, TransportError
from edgepack.errors import DeviceError, is_out_of_space

T = TypeVar("T")

# Characters of a device's last words that a failure quotes.
_QUOTE = 200
# Bytes of an answer, and of complaints, of which the last are kept: the facts of a device with a hundred sites are 50 kB.
_LONGEST = 2**20
# Seconds for its pipes to close once a program has ended.
_DRAINING = 5.0
# Seconds that a small question may take: an emulated Pi starts Python in two, one whose card swaps needs more.
SECONDS = 60.0

_TAIL = """
import json as _json, sys as _sys
_said = answer(_json.loads(_sys.stdin.readline()))
print(_json.dumps(_said), flush=True)
"""


class AnswerError(DeviceError):
    """A device whose Python failed or said what is no answer."""


@cache
def program(name: str) -> str:
    """The source of one of the programs, complete with reading its question and printing its answer."""
    source = (resources.files("edgepack.devices.there") / f"{name}.py").read_text(encoding="utf-8")
    return source + _TAIL


def question(asked: dict[str, Any]) -> bytes:
    """What such a program reads: one line."""
    return json.dumps(asked).encode() + b"\n"


def ask(transport: Transport, name: str, asked: dict[str, Any], kind: type[T], seconds: float = SECONDS) -> T:
    """The answer of a program, checked against ``kind``.

    Raises:
        TransportError: the connection failed, or there is no answer within ``seconds``.
        AnswerError: the program did.
    """
    process = transport.python(program(name))
    with ended(process):
        try:
            said, words = _heard(process, question(asked), seconds)
        except subprocess.TimeoutExpired as error:
            raise TransportError(
                f"{transport.address} does not answer: nothing after {seconds:g} s", "see what keeps it busy, or restart it, and try again"
            ) from error
    if process.returncode:
        raise transport.explain(process.returncode, words) or _failed(transport, process.returncode, words)
    return _answer(transport, said, kind)


def _heard(process: subprocess.Popen[bytes], asked: bytes, seconds: float) -> tuple[bytes, str]:
    """The end of what it answers and of its complaints."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    said, complained = Tail(process.stdout, _LONGEST), Tail(process.stderr, _LONGEST)
    # One that died at once is told by its exit code and its words.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(asked)
        process.stdin.close()
    process.wait(seconds)
    return said.content(_DRAINING), complained.words(_DRAINING)


def _answer(transport: Transport, said: bytes, kind: type[T]) -> T:
    """The last line: a login shell may greet before it."""
    lines = said.strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else b"", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        words = (lines[-1] if lines else b"nothing").decode(errors="replace")[:_QUOTE]
        raise AnswerError(f"{transport.address} answers what is no answer: {words}", "see what its login shell prints or starts") from error


def _failed(transport: Transport, code: int, words: str) -> AnswerError:
    last = (words.strip().splitlines() or ["it said nothing"])[-1][:_QUOTE]
    hint = "free some space on the device" if is_out_of_space(last) else "see whether python3 works there, and try again"
    return AnswerError(f"python3 on {transport.address} failed ({ending(code)}): {last}", hint)
