"""Looking at files from outside: each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgepack.converter.execute import execute
from edgepack.converter.plan import Plan
from edgepack.converter.process import Watcher
from edgepack.converter.step import Limits, Step
from edgepack.converter.store import opened
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
    with opened(None) as store:
        results = execute(Plan.of(list(steps.values())), store, watcher)
        return {name: msgspec.json.decode(results.path(step["facts.json"]).read_bytes(), type=FileFacts) for name, step in steps.items()}
