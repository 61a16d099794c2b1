"""What the fake Pi's sshd runs for whatever a client asks (ForceCommand): Python and sftp of the emulated Pi, nothing else.

    force_command.py settings.json      with the client's words in SSH_ORIGINAL_COMMAND

Standard library only: sshd starts it with an empty environment.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import sys
from pathlib import Path
from typing import NoReturn, TypedDict

# The name sshd_config gives the sftp subsystem; sshd passes it on as the original command.
SFTP = "sftp-of-the-pi"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


class Settings(TypedDict):
    """The Pi: its home, the command line of its Python, its environment; a file of variables that tests set; how sftp is served."""

    home: str
    python: list[str]
    environment: dict[str, str]
    extra: str
    sftp: list[str]
    sftp_environment: dict[str, str]


def main(settings: Settings, command: str) -> NoReturn:
    """Become what the command names; ends with 127, as a shell does, for what the Pi has not."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(settings["home"])
    if command == SFTP:
        os.execve(settings["sftp"][0], settings["sftp"], settings["sftp_environment"])
    words, assigned = understood(shlex.split(command))
    if not words or words[0] not in ("python3", "/usr/bin/python3"):
        print(f"sh: 1: {words[0] if words else 'a login shell'}: not found", file=sys.stderr)
        raise SystemExit(127)
    program = settings["python"]
    os.execve(program[0], [*program, *words[1:]], {**settings["environment"], **extra(settings), **assigned})


def understood(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A simple command without ``exec``, ``env`` and the assignments before it, and these."""
    assigned = {}
    while words and (words[0] in ("exec", "env") or _ASSIGNMENT.fullmatch(words[0])):
        name, equals, value = words[0].partition("=")
        assigned.update({name: value} if equals else {})
        words = words[1:]
    return words, assigned


def extra(settings: Settings) -> dict[str, str]:
    """Variables that a test sets for the commands to come."""
    try:
        return dict(json.loads(Path(settings["extra"]).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), os.environ.get("SSH_ORIGINAL_COMMAND", ""))
