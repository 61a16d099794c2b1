"""``edgepack cache``: what the store holds; prune and check it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepack.cli.build import Json, StoreOption

if TYPE_CHECKING:
    from edgepack.converter.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


def _opened(store: Any) -> Store:
    """The store as it lies, without taking part in it."""
    from edgepack.api import store_place
    from edgepack.converter.store import Store, StoreError

    place = store_place(store or "")
    if not place.is_dir():
        raise StoreError(f"there is no store at {place}", "build something first, or name another with --store")
    return Store(place, None)


@app.command("list")
def show(store: StoreOption = None, json: Json = False) -> None:
    """List the results that the store holds, the one used last first."""
    import time

    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import emit_json, escaped, size_text

    held = _opened(store)
    rows = sorted(held.entries(), key=lambda row: -row[2])
    total = sum(entry.bytes for entry, _, _ in rows if entry)
    if json:
        entries = [
            {"key": entry.key, "step": entry.step, "bytes": entry.bytes, "cpu_seconds": entry.cost.cpu_seconds, "last_use": used}
            for entry, _, used in rows
            if entry
        ]
        damaged = sum(entry is None for entry, _, _ in rows)
        emit_json({"ok": not damaged, "store": str(held.root), "bytes": total, "damaged": damaged, "entries": entries})
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("key", "step", "size", "cost", "used"):
        table.add_column(heading, justify="right" if heading in ("size", "cost") else "left")
    for entry, folder, used in rows:
        age = _age_words(time.time() - used)
        if entry is None:
            table.add_row(folder.name[:12], "[red]damaged[/]", "", "", age)
        else:
            table.add_row(entry.key[:12], escaped(entry.step), size_text(entry.bytes), f"{entry.cost.cpu_seconds:.1f} CPU-s", age)
    console = Console()
    console.print(table)
    console.print(f"{len(rows)} results, {size_text(total)}, in {held.root}", highlight=False, soft_wrap=True)


def _age_words(seconds: float) -> str:
    """ "3 h ago"; a clock that went back gives "just now"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


@app.command()
def prune(
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Remove what was not used for this long: 12h, 30d, 4w.")] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Then remove what was not used longest, down to this: 500MB, 5GB.")
    ] = None,
    store: StoreOption = None,
    json: Json = False,
) -> None:
    """Remove results from the store. What is removed is built again when it is needed."""
    import time

    from edgepack.cli.output import emit_json, size_text
    from edgepack.converter.store import prune as prune_store

    if older_than is None and keep is None:
        raise typer.BadParameter("say what may go: --older-than 30d, --keep 5GB, or both (--keep 0 removes everything)")
    age = _parsed(older_than, _SECONDS, "age", "12h, 30d") if older_than is not None else None
    most = _parsed(keep, _BYTES, "size", "500MB, 5GB") if keep is not None else None
    held = _opened(store)
    count, freed = prune_store(held, age, None if most is None else int(most), time.time())
    if json:
        emit_json({"ok": True, "store": str(held.root), "removed": count, "bytes": freed})
    else:
        print(f"removed {count} results, {size_text(freed)}")


def _parsed(text: str, units: dict[str, int], what: str, examples: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    unit = match[2].lower() if match else "?"
    if match is None or (unit not in units and float(match[1])):
        raise typer.BadParameter(f"'{text}' is no {what}; write {examples}")
    return float(match[1]) * units.get(unit, 1)


@app.command()
def verify(store: StoreOption = None, json: Json = False) -> None:
    """Read every result in the store and remove those that are not what was written. Exit code 1 when there were any."""
    from edgepack.cli.output import Progress, emit_json
    from edgepack.converter.store import damaged

    held = _opened(store)
    with Progress(quiet=json) as progress:
        found = damaged(held, lambda done, total: progress.tell("reading the store", done, total))
    held.remove([folder for _, _, folder in found])
    rows = [{"step": step, "what": what, "key": folder.name} for step, what, folder in found]
    if json:
        emit_json({"ok": not rows, "store": str(held.root), "removed": rows})
    else:
        for step, what, folder in found:
            print(f"removed {folder.name[:12]} ({step}): {what}")
        print(f"{held.root}: {'all results are what was written' if not rows else f'{len(rows)} were damaged; they will be built again'}")
    if rows:
        raise typer.Exit(1)
