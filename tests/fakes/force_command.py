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

# The name sshd_config gives the sftp subsystem; sshd passes it on as the original command.
SFTP = "sftp-of-the-pi"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


def main(settings: dict[str, object], command: str) -> int:
    """Become what the command names; 127 as a shell's for what the Pi has not."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(str(settings["home"]))
    if command == SFTP:
        become(settings["sftp"], dict(settings["sftp_environment"]))  # type: ignore[call-overload]
    words, assigned = understood(shlex.split(command))
    if not words or words[0] not in ("python3", "/usr/bin/python3"):
        print(f"sh: 1: {words[0] if words else 'a login shell'}: not found", file=sys.stderr)
        return 127
    environment = {**settings["environment"], **extra(settings), **assigned}  # type: ignore[dict-item]
    become([*settings["python"], *words[1:]], environment)  # type: ignore[misc]
    return 126


def understood(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A simple command without ``exec``, ``env`` and the assignments before it, and these."""
    assigned = {}
    while words and (words[0] in ("exec", "env") or _ASSIGNMENT.fullmatch(words[0])):
        name, equals, value = words[0].partition("=")
        assigned.update({name: value} if equals else {})
        words = words[1:]
    return words, assigned


def extra(settings: dict[str, object]) -> dict[str, str]:
    """Variables that a test sets for the commands to come."""
    try:
        return dict(json.loads(Path(str(settings["extra"])).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def become(command: object, environment: dict[str, str]) -> None:
    """Replace this process."""
    words = [str(word) for word in command]  # type: ignore[attr-defined]
    os.execve(words[0], words, environment)


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), os.environ.get("SSH_ORIGINAL_COMMAND", "")))
