"""``edgepack targets``: where a student can go."""

from __future__ import annotations

from edgepack.cli.build import Json


def command(json: Json = False) -> None:
    """List the targets with their formats, schemes and budgets."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import emit_json
    from edgepack.targets import load_target, target_names

    targets = [load_target(name) for name in target_names()]
    if json:
        emit_json(msgspec.to_builtins(targets))
        return
    table = Table()
    for heading in ("target", "what", "backend", "runner", "schemes", "needs"):
        table.add_column(heading)
    for target in targets:
        table.add_row(target.name, target.title, target.backend, target.runner, ", ".join(target.schemes), target.minimum_os)
    Console().print(table)
