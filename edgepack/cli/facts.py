"""How facts of model files look on a screen: a file in full, and a pack at one line an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from edgepack.inspection.facts import FileFacts, OperatorCount, Port, Quantization

# Labels and metadata values are cut after this many letters.
_TEXT = 60


def show_file(console: Console, facts: FileFacts) -> None:
    """Everything about one file; fits 80 columns."""
    from rich.table import Table

    from edgepack.cli.output import escaped, size_text
    from edgepack.text import cleaned

    facts = cleaned(facts)
    writer = escaped(_cut(facts.writer))
    console.print(f"[bold]{escaped(facts.file)}[/]: {facts.format}, {size_text(facts.bytes)}, written by {writer}", highlight=False)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, line in _lines(facts):
        grid.add_row(f"  {heading}", line)
    console.print(grid, highlight=False, markup=False)
    for found in facts.findings:
        colour = "red" if found.level == "error" else "yellow"
        console.print(f"  [{colour}]{found.level}[/] {escaped(found.where)}: {escaped(found.message)}", highlight=False, soft_wrap=True)


def _lines(facts: FileFacts) -> list[tuple[str, str]]:
    elements = sum(group.elements for group in facts.weights)
    stored = ", ".join(f"{group.dtype} {_size(group.bytes)} in {group.tensors}" for group in facts.weights)
    lines = [("versions", ", ".join(f"{name} {value}" for name, value in facts.versions.items()))]
    lines += [("input", _port(port)) for port in facts.inputs]
    lines += [("output", _port(port)) for port in facts.outputs]
    lines.append(("operators", f"{sum(held.count for held in facts.operators)}: {', '.join(map(_operator, facts.operators)) or 'none'}"))
    lines.append(("constants", f"{elements:,} numbers: {stored}" if facts.weights else "not told" if facts.not_counted else "none"))
    headings = ["largest", *[""] * len(facts.largest)]
    lines += [
        (heading, f"{held.name}: {held.dtype} {list(held.shape)} {_size(held.bytes)}")
        for heading, held in zip(headings, facts.largest, strict=False)
    ]
    lines += _quantization(facts.quantization)
    lines.append(("MACs", _macs(facts)))
    headings = ["metadata", *[""] * len(facts.metadata)]
    entries = zip(headings, facts.metadata.items(), strict=False)
    lines += [(heading, f"{name}: {_cut(value)}") for heading, (name, value) in entries]
    if facts.labels:
        lines.append(("labels", f"{len(facts.labels)}: {_cut(', '.join(facts.labels))}"))
    return lines


# From here on a size is told in kB.
_KILO = 1000


def _size(size: int) -> str:
    from edgepack.cli.output import size_text

    return size_text(size) if size >= _KILO else f"{size} B"


def _port(port: Port) -> str:
    shape = "[" + ", ".join(map(str, port.shape)) + "]" if port.shape or port.dtype.startswith(("float", "int", "uint", "bool")) else ""
    return " ".join(filter(None, (f"{port.name}:", port.dtype, shape, port.layout, port.note)))


def _operator(held: OperatorCount) -> str:
    name = f"{held.domain}::{held.name}" if held.domain else held.name
    version = f" v{held.version}" if held.version is not None else ""
    return f"{name}{version} x{held.count}{' (custom)' if held.custom else ''}"


def _quantization(held: Quantization) -> list[tuple[str, str]]:
    kinds = {"per channel": held.per_channel, "per tensor": held.per_tensor, "in blocks": held.blockwise}
    shared = ", ".join(f"{count} {name}" for name, count in kinds.items() if count)
    lines = [("scheme", held.scheme)]
    if held.weights:
        lines.append(("codes", f"{held.weights} weights{f' ({shared})' if shared else ''}{_span(held.weight_scales)}"))
    if held.activations:
        lines.append(("" if held.weights else "codes", f"{held.activations} activations{_span(held.activation_scales)}"))
    if held.islands:
        between = ", ".join(f"{name} x{count}" for name, count in held.real_between.items())
        lines.append(
            ("integer", f"{held.islands} group{'s' if held.islands > 1 else ''}{f'; real in between: {between}' if between else ''}")
        )
    return lines + [("suspicious", line) for line in held.suspicious]


def _span(scales: Sequence[float] | None) -> str:
    return f", scales {scales[0]:.3g} to {scales[1]:.3g}" if scales else ""


def _macs(facts: FileFacts) -> str:
    left_out = f"; not counted: {_cut(', '.join(facts.not_counted))}" if facts.not_counted else ""
    return f"{millions(facts.macs)} per inference{left_out}"


def millions(count: int) -> str:
    """A count with the unit it is best read in."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else f"{line[: _TEXT - 1]}\u2026"


def show_pack(console: Console, name: str, artifacts: Mapping[tuple[str, str, str], FileFacts]) -> None:
    """One line an artifact, by (target, scheme, path in the pack); fits 80 columns."""
    from rich.table import Table

    from edgepack.cli.output import escaped, size_text

    table = Table(
        title=f"{escaped(name)}: {len(artifacts)} artifacts", title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    for heading in ("artifact", "holds", "size", "operators", "weights", "MACs", "lint"):
        table.add_column(
            heading, justify="left" if heading in ("artifact", "holds", "weights", "lint") else "right", no_wrap=heading != "holds"
        )
    for (target, scheme, path), facts in artifacts.items():
        weights = facts.weights[0].dtype if facts.weights else "-"
        operators = str(sum(held.count for held in facts.operators))
        errors = sum(found.level == "error" for found in facts.findings)
        lint = f"[red]{errors} errors[/]" if errors else f"[yellow]{len(facts.findings)} warnings[/]" if facts.findings else "clean"
        row = (f"{escaped(f'{target} {scheme}')}\n  [dim]{escaped(path)}[/]", facts.quantization.scheme, size_text(facts.bytes), operators)
        table.add_row(*row, weights, millions(facts.macs), lint)
    console.print(table)
