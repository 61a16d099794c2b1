"""``edgepack inspect``: what of a student would convert, what would not, and how large it would be."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from edgepack.cli.build import CalibrationOption, Json, StudentArgument, TargetOption

if TYPE_CHECKING:
    from edgepack.backends.table import Obstacle
    from edgepack.hub.steps import HubNotes
    from edgepack.student.spec import StudentDescription
    from edgepack.targets import Target


def command(student: StudentArgument, target: TargetOption = None, calibration: CalibrationOption = None, json: Json = False) -> None:
    """List every obstacle of STUDENT for all targets at once, its operators, tensors and expected sizes. Exit code 1 if there is one."""
    from edgepack.api import DEFAULT_TARGETS
    from edgepack.cli.output import Progress, emit_json
    from edgepack.targets import load_target

    targets = [load_target(name) for name in target or DEFAULT_TARGETS]
    with Progress(quiet=json) as progress:
        described, notes, obstacles = _look(student, targets, calibration, progress)
    found = {goal.name: [str(obstacle) for obstacle in obstacles if obstacle.backend == goal.backend] for goal in targets}
    if json:
        emit_json(_as_data(described, notes, targets, obstacles))
    else:
        _show(described, notes, targets, obstacles)
    if any(found.values()):
        raise typer.Exit(1)


def _look(
    student: str, targets: list[Target], calibration: str | None, progress: Any
) -> tuple[StudentDescription, HubNotes, list[Obstacle]]:
    import tempfile
    from pathlib import Path

    import msgspec

    from edgepack.backends.table import Obstacle
    from edgepack.calibration.manifest import find_manifest
    from edgepack.converter.execute import Workspace, execute
    from edgepack.converter.pipeline import inspection
    from edgepack.converter.plan import Plan
    from edgepack.converter.step import Limits
    from edgepack.hub.steps import HubNotes
    from edgepack.student.spec import StudentDescription

    backends = list(dict.fromkeys(goal.backend for goal in targets))
    capture, hub, look = inspection(student, backends, Limits(), find_manifest(calibration) if calibration else None)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        execute(Plan.of([capture, hub, look]), workspace, progress)
        return (
            msgspec.json.decode(workspace.path(capture["student.json"]).read_bytes(), type=StudentDescription),
            msgspec.json.decode(workspace.path(hub["notes.json"]).read_bytes(), type=HubNotes),
            msgspec.json.decode(workspace.path(look["obstacles.json"]).read_bytes(), type=list[Obstacle]),
        )


def _sizes(described: StudentDescription, target: Target) -> dict[str, int]:
    """Bytes of the weights alone in each scheme of the target: weights times stored bits."""
    from edgepack.quantize.scheme import Scheme

    return {name: described.parameters * Scheme.parse(name).weight_bits // 8 for name in target.schemes}


def _as_data(described: StudentDescription, notes: HubNotes, targets: list[Target], obstacles: list[Obstacle]) -> dict[str, Any]:
    import msgspec

    return {
        "ok": not obstacles,
        "student": msgspec.to_builtins(described),
        "operators": notes.operators,
        "rewrites": notes.notes,
        "targets": {
            goal.name: {
                "weight_bytes": _sizes(described, goal),
                "obstacles": [msgspec.to_builtins(obstacle) for obstacle in obstacles if obstacle.backend == goal.backend],
            }
            for goal in targets
        },
    }


def _show(described: StudentDescription, notes: HubNotes, targets: list[Target], obstacles: list[Obstacle]) -> None:
    from rich.console import Console

    from edgepack.cli.output import size_text

    console = Console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{described.name} ({described.source}): {described.parameters:,} weights, licence {described.licence}")
    for kind, specs in (("input", described.inputs), ("output", described.outputs)):
        for spec in specs:
            span = f", values {spec.value_range[0]:g}..{spec.value_range[1]:g}" if spec.value_range else ""
            say(f"  {kind} {spec.name}: {spec.dtype} {list(spec.shape or ())} {spec.layout}{span}")
    say("  operators: " + ", ".join(f"{name} {count}" for name, count in notes.operators.items()))
    for goal in targets:
        mine = [obstacle for obstacle in obstacles if obstacle.backend == goal.backend]
        sizes = ", ".join(f"{scheme} {size_text(size)}" for scheme, size in _sizes(described, goal).items())
        say(f"{goal.name}: {f'{len(mine)} obstacles' if mine else 'converts'}; weights {sizes}")
        for obstacle in mine:
            say(f"  {obstacle.operator} '{obstacle.node}': {obstacle.cause} -> next: {obstacle.hint}")
