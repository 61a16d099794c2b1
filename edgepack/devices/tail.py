"""The end of what a process says, read beside it: a stranger may say more than memory holds."""

from __future__ import annotations

import threading
from typing import IO


class Tail:
    """Reads a pipe to its end, in a thread, and keeps the last ``size`` bytes."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size, self._kept = stream, size, b""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with self._stream:
            # One read of what is there; a buffered pipe's own read would wait for all of it.
            while chunk := self._stream.read1(self._size):  # type: ignore[attr-defined]
                self._kept = (self._kept + chunk)[-self._size :]

    def content(self, seconds: float) -> bytes:
        """What is kept, once the pipe ended or after this time."""
        self._thread.join(seconds)
        return self._kept

    def words(self, seconds: float) -> str:
        """The same as text."""
        return self.content(seconds).decode(errors="replace")
