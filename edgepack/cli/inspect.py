"""``edgepack inspect``: what a model file holds, and what of a student would convert, what would not, and how large it would be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepack.cli.build import CalibrationOption, Json, TargetOption, TimeoutOption

if TYPE_CHECKING:
    from edgepack.backends.table import Obstacle
    from edgepack.converter.step import Limits
    from edgepack.hub.steps import HubNotes
    from edgepack.inspection.facts import FileFacts
    from edgepack.student.spec import StudentDescription
    from edgepack.targets import Target

SubjectArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="An .onnx, .tflite or .mlpackage, a pack, or a student (file.py:function, .pt2, a Hugging Face folder)."
    ),
]

FileMemoryOption = Annotated[
    float | None, typer.Option(min=0.25, help="GiB a step or a runner may allocate. Default: what files of this size need.")
]


def command(
    model: SubjectArgument,
    target: TargetOption = None,
    scheme: Annotated[list[str] | None, typer.Option("--scheme", "-s", help="Of a pack, only this scheme; repeat.")] = None,
    calibration: CalibrationOption = None,
    timeout: TimeoutOption = 600,
    memory: FileMemoryOption = None,
    json: Json = False,
) -> None:
    """Show what a model file or a pack holds: operators, weights, quantization, inputs and outputs, cost, and what looks wrong. Of a
    student, also every obstacle for all targets at once. Exit code 1 if there is an error or an obstacle."""
    from edgepack.converter.step import Limits
    from edgepack.pack.files import MANIFEST

    path = Path(model)
    limits = Limits(timeout, memory_limit(path, memory))
    if (path / MANIFEST).is_file():
        _inspect_pack(path, target or [], scheme or [], limits, json)
    elif path.suffix in (".tflite", ".mlpackage", ".mlmodel"):
        _inspect_file(path, limits, json)
    else:
        _inspect_student(model, target, calibration, limits, json)


# Of a student that is Python of the user's own: nothing tells what it needs.
_OWN_CODE = 8 * 2**30


def memory_limit(path: Path, asked: float | None, sample: int = 0) -> int:
    """Bytes: what was asked for, or what a file of this size needs."""
    from edgepack.inspection.limits import default_bytes

    if asked is not None:
        return int(asked * 2**30)
    return default_bytes(path, sample) if path.exists() else _OWN_CODE


def _has_error(facts: FileFacts) -> bool:
    return any(found.level == "error" for found in facts.findings)


def _inspect_file(path: Path, limits: Limits, as_json: bool) -> None:
    """One artifact, by any tool."""
    import msgspec
    from rich.console import Console

    from edgepack.cli.facts import show_file
    from edgepack.cli.output import emit_json

    facts = _facts({path.name: path}, limits, as_json)[path.name]
    if as_json:
        emit_json({"ok": not _has_error(facts), "file": msgspec.to_builtins(facts)})
    else:
        show_file(Console(), facts)
    if _has_error(facts):
        raise typer.Exit(1)


def _facts(files: dict[str, Path], limits: Limits, quiet: bool) -> dict[str, FileFacts]:
    from edgepack.cli.output import Progress
    from edgepack.inspection.plan import look_at

    with Progress(quiet=quiet or len(files) == 1) as progress:
        return look_at(files, limits, progress)


def _inspect_pack(folder: Path, targets: list[str], schemes: list[str], limits: Limits, as_json: bool) -> None:
    """Every artifact at a line each; those that -t or -s choose in full."""
    import msgspec
    from rich.console import Console

    from edgepack.cli.facts import show_file, show_pack
    from edgepack.cli.output import emit_json
    from edgepack.pack.files import inside, load_pack
    from edgepack.pack.run import chosen

    manifest = load_pack(folder)
    artifacts = chosen(manifest, targets, schemes)
    found = _facts({held.file.path: inside(folder, held.file.path) for held in artifacts}, limits, as_json)
    console = Console()
    if as_json:
        rows = [{"target": held.target, "scheme": held.scheme, "file": msgspec.to_builtins(found[held.file.path])} for held in artifacts]
        emit_json({"ok": not any(map(_has_error, found.values())), "artifacts": rows})
    elif targets or schemes:
        for held in artifacts:
            show_file(console, msgspec.structs.replace(found[held.file.path], file=held.file.path))
    else:
        named = {(held.target, held.scheme, held.file.path): found[held.file.path] for held in artifacts}
        show_pack(console, manifest.student.name, named)
    if any(map(_has_error, found.values())):
        raise typer.Exit(1)


def _inspect_student(student: str, target: list[str] | None, calibration: str | None, limits: Limits, as_json: bool) -> None:
    """What would convert; of an .onnx also the file itself, which is shown even when it is no student."""
    from edgepack.api import DEFAULT_TARGETS
    from edgepack.cli.output import Progress, emit_json
    from edgepack.converter.process import StepFailedError
    from edgepack.targets import load_target

    targets = [load_target(name) for name in target or DEFAULT_TARGETS]
    path = Path(student)
    facts = _facts({path.name: path}, limits, as_json)[path.name] if path.suffix == ".onnx" and path.is_file() else None
    if facts is not None and not as_json:
        _show_facts(facts)
    try:
        with Progress(quiet=as_json) as progress:
            looked = _look(student, targets, calibration, limits, progress)
    except StepFailedError as error:
        if facts is None or not as_json:
            raise
        emit_json({"ok": False, "file": _built(facts), "step": error.step, "cause": error.cause, "hint": error.hint})
        raise typer.Exit(error.exit_code) from error
    if as_json:
        emit_json({**_as_data(looked, targets), **({"file": _built(facts)} if facts else {})})
    else:
        _show(looked, targets, with_ports=facts is None)
    if looked.obstacles or (facts is not None and _has_error(facts)):
        raise typer.Exit(1)


def _built(facts: FileFacts) -> Any:
    import msgspec

    return msgspec.to_builtins(facts)


def _show_facts(facts: FileFacts) -> None:
    from rich.console import Console

    from edgepack.cli.facts import show_file

    console = Console()
    show_file(console, facts)
    console.print()


@dataclass(frozen=True)
class _Looked:
    """What is known of a student before it is built; ``sizes`` are bytes of its constants by scheme."""

    described: StudentDescription
    notes: HubNotes
    obstacles: list[Obstacle]
    sizes: dict[str, int]


def _look(student: str, targets: list[Target], calibration: str | None, limits: Limits, progress: Any) -> _Looked:
    import msgspec

    from edgepack.backends.table import Obstacle
    from edgepack.calibration.manifest import find_manifest
    from edgepack.converter.execute import execute
    from edgepack.converter.pipeline import inspection
    from edgepack.converter.store import opened
    from edgepack.hub.steps import HubNotes
    from edgepack.student.spec import StudentDescription

    backends = list(dict.fromkeys(goal.dialect for goal in targets))
    schemes = list(dict.fromkeys(scheme for goal in targets for scheme in goal.schemes))
    steps = inspection(student, backends, schemes, limits, find_manifest(calibration) if calibration else None)
    with opened(None) as store:
        results = execute(steps.plan, store, progress)
        return _Looked(
            msgspec.json.decode(results.path(steps.capture["student.json"]).read_bytes(), type=StudentDescription),
            msgspec.json.decode(results.path(steps.hub["notes.json"]).read_bytes(), type=HubNotes),
            msgspec.json.decode(results.path(steps.look["obstacles.json"]).read_bytes(), type=list[Obstacle]),
            msgspec.json.decode(results.path(steps.sizes["sizes.json"]).read_bytes(), type=dict[str, int]),
        )


def _sizes(looked: _Looked, target: Target) -> dict[str, int]:
    """Bytes of the constants in each scheme of the target that can hold the student."""
    return {name: looked.sizes[name] for name in target.schemes if name in looked.sizes}


def _as_data(looked: _Looked, targets: list[Target]) -> dict[str, Any]:
    import msgspec

    described, notes, obstacles = looked.described, looked.notes, looked.obstacles
    return {
        "ok": not obstacles,
        "student": msgspec.to_builtins(described),
        "operators": notes.operators,
        "rewrites": notes.notes,
        "targets": {
            goal.name: {
                "weight_bytes": _sizes(looked, goal),
                "obstacles": [msgspec.to_builtins(obstacle) for obstacle in obstacles if obstacle.backend == goal.dialect],
            }
            for goal in targets
        },
    }


def _show(looked: _Looked, targets: list[Target], with_ports: bool) -> None:
    from rich.console import Console

    from edgepack.cli.output import size_text

    described, notes, obstacles = looked.described, looked.notes, looked.obstacles
    console = Console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{described.name} ({described.source}): {described.parameters:,} weights, licence {described.licence}")
    for kind, specs in (("input", described.inputs), ("output", described.outputs)) if with_ports else ():
        for spec in specs:
            span = f", values {spec.value_range[0]:g}..{spec.value_range[1]:g}" if spec.value_range else ""
            say(f"  {kind} {spec.name}: {spec.dtype} {list(spec.shape or ())} {spec.layout}{span}")
    for symbol, (low, high) in described.sizes.items():
        say(f"  open size {symbol}: {low} to {high}")
    say("  as a hub: " + ", ".join(f"{name} {count}" for name, count in notes.operators.items()))
    for goal in targets:
        mine = [obstacle for obstacle in obstacles if obstacle.backend == goal.dialect]
        sizes = ", ".join(f"{scheme} {size_text(size)}" for scheme, size in _sizes(looked, goal).items())
        say(f"{goal.name}: {f'{len(mine)} obstacles' if mine else 'converts'}; weights {sizes}")
        for obstacle in mine:
            say(f"  {obstacle.operator} '{obstacle.node}': {obstacle.cause} -> next: {obstacle.hint}")
