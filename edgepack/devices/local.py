"""This machine as a device: the same supervisor and the same runners, without a connection."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edgepack.devices.address import Address
from edgepack.devices.transport import TransportError


class Local:
    """A ``Transport`` to where we are; packages are those of this Python."""

    address = Address("local")
    emulated = False

    @property
    def runs(self) -> str:
        """Among temporary files: whoever builds needs no home that can be written."""
        return tempfile.gettempdir()

    @property
    def site(self) -> Sequence[str]:
        """The folders of this Python's packages; an editable install reaches some through its start-up alone."""
        return [folder for folder in sys.path if folder and Path(folder).is_dir()]

    def python(self, code: str) -> subprocess.Popen[bytes]:
        """Start this Python in the folder of temporary files, isolated from those that lie there."""
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", "-c", code]
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, cwd=tempfile.gettempdir())
        except OSError as error:
            raise TransportError(
                f"a Python cannot be started here ({error.strerror})", "see whether processes or memory ran out, and that $TMPDIR is there"
            ) from error

    def send(self, local: Path, remote: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Copy a file."""
        try:
            shutil.copyfile(local, remote)
        except OSError as error:
            raise TransportError(
                f"{local.name} cannot be copied to {Path(remote).parent} ({error.strerror})", "free some space there"
            ) from error

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file back."""
        try:
            shutil.copyfile(remote, local)
        except OSError as error:
            raise TransportError(f"{Path(remote).name} cannot be copied back ({error.strerror})", "free some space") from error

    def explain(self, code: int, words: str) -> TransportError | None:
        """There is no connection that could fail."""
        return None

    def close(self) -> None:
        """Nothing is open."""
