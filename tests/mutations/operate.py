"""What the verbs do with a file, as calls in one process: the functions that the command line and its workers run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.errors import EdgepackError, StepError, one_line


class RuntimeEndedError(StepError):
    """The runner's process would have ended here; the command line reports that in one line."""


def _quiet(done: int, total: int) -> None:
    pass


def look(file: Path, out: Path) -> None:
    """``edgepack inspect`` of a model file: the worker, what its parent reads back, and the screen."""
    import msgspec

    from edgepack.inspection.facts import FileFacts
    from edgepack.inspection.steps import look as step

    step(file, out, _quiet)
    _show(msgspec.json.decode((out / "facts.json").read_bytes(), type=FileFacts))


def _show(facts: Any) -> None:
    import io

    from rich.console import Console

    from edgepack.cli.facts import show_file

    screen = io.StringIO()
    show_file(Console(file=screen, width=80), facts)
    assert "\x1b" not in screen.getvalue(), "an escape sequence reached the screen"


def student(file: Path, out: Path) -> None:
    """``edgepack inspect`` of a student: capture, canonical form."""
    from edgepack.hub.steps import canonicalize
    from edgepack.student.steps import capture

    capture(str(file), out, _quiet)
    canonicalize(out / "captured.onnx", out / "example.npz", out, _quiet)


def calibration(file: Path, out: Path) -> None:
    """A manifest and the data it names, for the student of the seeds."""
    from edgepack.calibration.steps import collect

    collect(file.parent.parent / "student.json", file, out, _quiet)


def target(file: Path, _: Path) -> None:
    """A target of a user's own."""
    from edgepack.targets import load_target

    load_target(str(file))


def given(file: Path, _: Path) -> None:
    """The input of ``edgepack run``."""
    from edgepack.pack.files import load_pack
    from edgepack.pack.run import read_input

    read_input(file, load_pack(file.parent.parent / "pack").student)


def pack(folder: Path, out: Path) -> None:
    """What inspect, report and run do before a runner starts, and what is shown."""
    import io

    from rich.console import Console

    from edgepack.cli import facts, output
    from edgepack.pack.digest import intact
    from edgepack.pack.files import inside, load_pack
    from edgepack.pack.report import render
    from edgepack.pack.run import chosen

    held = load_pack(folder)
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    console.print(output.artifact_table(held))
    console.print(output.legend(held))
    facts.show_pack(console, held.student.name, {})
    assert "\x1b" not in screen.getvalue(), "an escape sequence reached the screen"
    (out / "report.html").write_text(render(held), encoding="utf-8")
    failures = []
    for artifact in chosen(held, (), ()):
        try:
            inside(folder, artifact.file.path)
            intact(folder, artifact.file)
        except EdgepackError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def gate(folder: Path, _: Path) -> None:
    """``edgepack gate``: measurements read, checks made, shown and written as JUnit."""
    from xml.etree import ElementTree

    from edgepack import api
    from edgepack.cli import gate as verb
    from edgepack.latency.junit import junit

    found = api.gate(folder)
    verb._show(found)
    assert not any("\x1b" in check.words + check.subject for check in found), "an escape sequence reached the screen"
    ElementTree.fromstring(junit(found, folder.name))
    found.demand()


def run(runner: str) -> Callable[[Path, Path], None]:
    """``edgepack run`` of a pack's artifacts of one runner; the runner's program runs in this process."""

    def operate(folder: Path, out: Path) -> None:
        import importlib

        from edgepack.cli import run as verb
        from edgepack.converter.step import Limits
        from edgepack.devices.runner_process import Response
        from edgepack.pack import run as module
        from edgepack.pack.files import load_pack
        from edgepack.runner import contract

        def in_process(name: str, request: Any, place: Path, limits: Limits, progress: Any = None) -> Response:
            asked = {field: getattr(request, field) for field in request.__struct_fields__} | {"tethered": False}
            runtime = importlib.import_module(f"edgepack.runner.{name}").RUNTIME
            os.write(PHASE[1], b"r")
            try:
                response = contract._answer(runtime, asked)
            except Exception as error:
                raise RuntimeEndedError(one_line(error), "the runner answers so") from error
            finally:
                os.write(PHASE[1], b"e")
            return Response(contract.SCHEMA, True, runtime.name, runtime.version, runtime.truth, session=response["session"])

        module.run_local = in_process  # type: ignore[attr-defined]
        held = load_pack(folder)
        sample = module.read_input(folder.parent / "inputs" / "plain.npz", held.student)
        artifacts = [artifact for artifact in module.chosen(held, (), ()) if artifact.runner == runner]
        for artifact in artifacts[:1]:
            answer = module.answer(folder, held, artifact, sample, Limits(), 3, timed=False)
            assert all(isinstance(array, np.ndarray) for array in answer.outputs.values())
            verb._words(answer)

    return operate


# A pipe on which a child says that it is inside a runtime ("r") and out again ("e"); set by the parent.
PHASE = [-1, -1]


def onnx_student(file: Path, out: Path) -> None:
    """Of an .onnx both what the file holds and what would convert."""
    look(file, out)
    student(file, out)
