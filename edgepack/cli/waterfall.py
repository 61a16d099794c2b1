"""``edgepack waterfall``: where in a network an artifact loses its accuracy, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepack.cli.build import Json, MemoryOption, TimeoutOption
from edgepack.cli.run import PackSchemeOption, PackTargetOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgepack.verify.waterfall import Layer, Waterfall
    from edgepack.verify.waterfalls import Traced

_NOT_FINITE = -999.0
# Layers shown without --all.
_WORST = 10
# Letters of a value's name and of its operators that fit 80 columns beside the numbers.
_NAME, _OPERATORS = 28, 16


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    target: PackTargetOption = None,
    scheme: PackSchemeOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Golden samples to run, at most what the pack holds.")] = 4,
    every: Annotated[bool, typer.Option("--all", help="Show every value, not the ten costliest layers.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write every value of every artifact as .csv.")] = None,
    timeout: TimeoutOption = 600,
    memory: MemoryOption = 8,
    json: Json = False,
) -> None:
    """Compare every layer of PACK's artifacts with float64, and name the first at which a runtime departs from what it was given. Exit
    code 1 if one does."""
    from edgepack.cli.output import Progress, emit_json, fail
    from edgepack.converter.step import Limits
    from edgepack.pack.files import load_pack
    from edgepack.pack.run import chosen
    from edgepack.verify.waterfalls import trace_pack

    manifest = load_pack(pack)
    artifacts = chosen(manifest, target or (), scheme or ())
    _refuse_table(out)
    with Progress(quiet=json) as progress:
        found = trace_pack(pack, manifest, artifacts, samples, Limits(timeout, int(memory * 2**30)), progress)
    if out is not None:
        _write_table(out, found)
    if json:
        emit_json({"ok": not any(each.departs or each.failure for each in found), "artifacts": [_as_data(each) for each in found]})
    else:
        _show(found, every)
        for each in found:
            if each.failure:
                fail(each.failure, as_json=False)
    code = 1 if any(each.departs for each in found) else next((each.failure.exit_code for each in found if each.failure), 0)
    if code:
        raise typer.Exit(code)


def _refuse_table(out: Path | None) -> None:
    """Before any work."""
    from edgepack.pack.files import PackError

    if out is not None and (out.suffix != ".csv" or not out.parent.is_dir()):
        raise PackError(f"{out} is no .csv file in a folder that exists", "name one with -o, for example -o waterfall.csv")


def _as_data(traced: Traced) -> dict[str, Any]:
    import msgspec

    failure = {"cause": traced.failure.cause, "hint": traced.failure.hint} if traced.failure else None
    return {
        "target": traced.artifact.target,
        "scheme": traced.artifact.scheme,
        "as_verified": traced.as_verified,
        "failure": failure,
        "waterfall": msgspec.to_builtins(traced.waterfall),
    }


def _write_table(path: Path, found: list[Traced]) -> None:
    import csv

    import msgspec

    from edgepack.pack.files import PackError
    from edgepack.verify.waterfall import Layer

    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["target", "scheme", *Layer.__struct_fields__])
            for each in found:
                for layer in each.waterfall.layers if each.waterfall else ():
                    writer.writerow([each.artifact.target, each.artifact.scheme, *msgspec.structs.astuple(layer)])
    except OSError as error:
        raise PackError(f"{path} cannot be written ({error.strerror})", "choose another place with -o") from error


def _show(found: list[Traced], every: bool) -> None:
    from rich.console import Console

    console = Console()
    for each in found:
        if each.waterfall is not None:
            _show_one(console, each, each.waterfall, every)
    if any(each.waterfall for each in found):
        console.print(_LEGEND, highlight=False, style="dim")


_LEGEND = (
    "total: against the student in float64, all errors so far; hub: the same for the quantized hub, simulated; own: this layer alone, "
    "given its own inputs; runtime: against exact arithmetic on the same inputs, in dB or in code steps (up to 0.5 is rounding)."
)


def _show_one(console: Console, traced: Traced, waterfall: Waterfall, every: bool) -> None:
    from edgepack.cli.output import escaped
    from edgepack.text import cleaned

    waterfall = cleaned(waterfall)
    head = f"[bold]{escaped(f'{waterfall.target} {waterfall.scheme}')}[/] ({escaped(waterfall.runtime)}, {waterfall.truth})"
    compared = f"{waterfall.compared} of {waterfall.expected} layers on {_samples(waterfall.samples)}"
    console.print(f"{head}: {compared}", highlight=False)
    if not traced.as_verified:
        console.print("  [yellow]the file is not the one that this pack verified: its digest differs[/]", highlight=False)
    rows = waterfall.layers if every else _worst(waterfall.layers)
    console.print(_table(rows, every, any(layer.hub_sqnr_db is not None for layer in waterfall.layers)))
    for line in verdict(waterfall):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    console.print()


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _worst(layers: tuple[Layer, ...]) -> list[Layer]:
    """What departs and the costliest layers, in execution order; of a layer's codes and the reals read back from them the former."""
    each = {layer.layer: layer for layer in reversed(layers) if layer.own_db is not None}
    costly = sorted(each.values(), key=lambda layer: layer.own_db or 0.0)
    departed = [layer for layer in layers if layer.departs][:_WORST]
    shown = {layer.value for layer in [*departed, *costly][:_WORST]}
    return [layer for layer in layers if layer.value in shown]


def _table(layers: Sequence[Layer], every: bool, with_hub: bool) -> Table:
    from rich.table import Table

    from edgepack.cli.output import escaped

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    headings = ("  layer", "operators", "total", *(("hub",) if with_hub else ()), "own", "runtime")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("  layer", "operators") else "right", no_wrap=True)
    for layer in layers:
        hub = (_decibels(layer.hub_sqnr_db) if layer.is_layer else "",) if with_hub else ()
        own = _decibels(layer.own_db) if layer.is_layer else ""
        name = layer.value if every or not layer.is_layer else layer.layer or layer.value
        name, operators = escaped(f"  {shortened(name, _NAME)}"), escaped(shortened(layer.operators, _OPERATORS))
        style = "bold red" if layer.departs else ""
        table.add_row(name, operators, _decibels(layer.sqnr_db), *hub, own, _runtime(layer), style=style)
    return table


def shortened(name: str, letters: int) -> str:
    """A name cut in its middle, so that both where it is and what it is stay readable."""
    if len(name) <= letters:
        return name
    kept = letters - 1
    return f"{name[: kept // 2]}\u2026{name[len(name) - (kept - kept // 2) :]}"


def _decibels(value: float | None) -> str:
    if value is None:
        return "exact"
    # What edgepack.verify.judge.WORST_DB stands for.
    return "NaN" if value <= _NOT_FINITE else f"{value:.1f}"


def _runtime(layer: Layer) -> str:
    if layer.runtime is None:
        return "exact"
    form = {"dB": "{:.1f} dB", "steps": "{:.2f} st", "unequal": "{:.1%} off"}[layer.unit]
    return form.format(layer.runtime)


def verdict(waterfall: Waterfall) -> list[str]:
    """The two sentences a person came for: where the runtime departs, and where the scheme costs most."""
    by_value = {layer.value: layer for layer in waterfall.layers}
    costly = next((layer for layer in waterfall.layers if layer.is_layer and layer.layer == waterfall.costliest), None)
    lines = [f"departs first at {_named(by_value[waterfall.first])}: {_why(by_value[waterfall.first])}" if waterfall.first else _NONE]
    if costly is not None and costly.own_db is not None:
        lines.append(f"largest error of one layer: {_named(costly)}, {costly.own_db:.1f} dB")
    return lines


_NONE = "no layer departs: each is as exact as its arithmetic allows"


def _named(layer: Layer) -> str:
    return f"'{layer.layer or layer.value}' ({layer.operators})"


def _why(layer: Layer) -> str:
    reasons = {
        "dB": f"{_runtime(layer)} from exact arithmetic, {layer.limit:.1f} dB expected",
        "steps": f"codes are up to {layer.runtime or 0:.1f} steps off, at most {layer.limit:g} expected",
        "unequal": f"{_runtime(layer)}, at most {layer.limit:.0%} expected",
    }
    return reasons[layer.unit]
