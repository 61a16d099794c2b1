"""Looking at files from outside: each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgepack.converter.execute import Watcher, Workspace, execute
from edgepack.converter.plan import Plan
from edgepack.converter.step import Limits, Step
from edgepack.inspection.facts import FileFacts


def look_at(files: Mapping[str, Path], limits: Limits, watcher: Watcher) -> dict[str, FileFacts]:
    """The facts of files, by the names they are given.

    Raises:
        StepFailedError: one cannot be read, or reading it crashed.
    """
    steps = {
        name: Step(f"inspect {name}", "edgepack.inspection.steps:look", {"file": path}, {}, ("facts.json",), limits)
        for name, path in files.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        execute(Plan.of(list(steps.values())), workspace, watcher)
        return {name: msgspec.json.decode(workspace.path(step["facts.json"]).read_bytes(), type=FileFacts) for name, step in steps.items()}
