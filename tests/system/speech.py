"""Recorded speech for tests: the recordings of Debian's package pocketsphinx-testdata (BSD-2-Clause), 16 kHz, one channel, 16 bits."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepack.devices.debian import unpack

RATE = 16_000
_INSTALLED = Path("/usr/share/pocketsphinx/test/data/librivox")
_PACKAGE = "pocketsphinx-testdata"
_SECONDS = 60


def recordings(scratch: Path) -> NDArray[np.float32]:
    """All recordings one after the other, samples in -1..1; skips the test where the package is not installed and cannot be downloaded."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _downloaded(scratch)
    return np.concatenate([_samples(path) for path in sorted(folder.glob("*.wav"))])


def _downloaded(scratch: Path) -> Path:
    try:
        subprocess.run(["apt-get", "--quiet", "download", _PACKAGE], cwd=scratch, check=True, capture_output=True, timeout=_SECONDS)
        (package,) = scratch.glob(f"{_PACKAGE}_*.deb")
        unpack(package, scratch / "unpacked")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        pytest.skip(f"no speech: the Debian package {_PACKAGE} is not installed and cannot be downloaded ({type(error).__name__})")
    return scratch / "unpacked" / _INSTALLED.relative_to("/")


def _samples(path: Path) -> NDArray[np.float32]:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return (np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15).astype(np.float32)
