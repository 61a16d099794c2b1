"""``edgepack plan``: what a build would do, and what changed since the last one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgepack.cli.build import (
    BiasOption,
    CalibrationOption,
    FoldOption,
    ImageInputsOption,
    Json,
    MetricOption,
    OutOption,
    RangesOption,
    SchemeOption,
    StoreOption,
    StudentArgument,
    TargetOption,
)

if TYPE_CHECKING:
    from edgepack.converter.forecast import Forecast

# Reasons shown for a step; --json has them all.
_SHOWN = 3


def command(
    student: StudentArgument,
    target: TargetOption = None,
    scheme: SchemeOption = None,
    calibration: CalibrationOption = None,
    out: OutOption = Path("pack"),
    ranges: RangesOption = "minmax",
    bias_correction: BiasOption = True,
    fold_preprocessing: FoldOption = False,
    image_inputs: ImageInputsOption = False,
    metric: MetricOption = None,
    store: StoreOption = None,
    json: Json = False,
) -> None:
    """Show the steps a build of STUDENT would take with the same options: which the store holds, which would run, and what changed since
    the last build into the same pack. Nothing runs but the student's own Python."""
    import msgspec

    from edgepack import api
    from edgepack.cli.output import Progress, emit_json

    request = api.request_of(
        student,
        targets=target or api.DEFAULT_TARGETS,
        schemes=scheme or (),
        calibration=calibration,
        ranges=ranges,
        bias_correction=bias_correction,
        fold_preprocessing=fold_preprocessing,
        image_inputs=image_inputs,
        metrics=metric or (),
    )
    with Progress(quiet=True) as progress:
        found = api.plan(request, out, store=store or "", watcher=progress)
    if json:
        emit_json({"ok": True, "store": str(api.store_place(store or "")), "steps": [msgspec.to_builtins(each) for each in found]})
    else:
        _show(found)


def _show(found: list[Forecast]) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import escaped

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("step", "", "why", "cost"):
        table.add_column(heading, overflow="fold")
    for each in found:
        reasons = [*each.why[:_SHOWN], *([f"and {len(each.why) - _SHOWN} more (--json)"] if len(each.why) > _SHOWN else [])]
        cost = f"{each.cost.cpu_seconds:.1f} CPU-s" if each.cost else ""
        table.add_row(escaped(each.step), _STATES[each.state], escaped("\n".join(reasons)), cost)
    console = Console()
    console.print(table)
    counts = {state: sum(each.state == state for each in found) for state in _STATES}
    console.print(
        f"{len(found)} steps: {counts['held']} held, {counts['runs']} to run, {counts['always']} always run, "
        f"{counts['waits']} known once these have run",
        highlight=False,
    )


_STATES = {"held": "[dim]held[/]", "runs": "[yellow]runs[/]", "always": "[cyan]always[/]", "waits": "[blue]waits[/]"}
