"""``edgepack run``: the artifacts of a pack on a real input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepack.cli.build import Json, TimeoutOption
from edgepack.cli.inspect import FileMemoryOption, memory_limit

if TYPE_CHECKING:
    from edgepack.pack.run import Answer

PackTargetOption = Annotated[list[str] | None, typer.Option("--target", "-t", help="Target; repeat. Default: all of the pack.")]
PackSchemeOption = Annotated[list[str] | None, typer.Option("--scheme", "-s", help="Scheme; repeat. Default: all of the pack.")]


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    input: Annotated[Path, typer.Argument(help="An image, an .npz by input name, or an .npy.")],
    target: PackTargetOption = None,
    scheme: PackSchemeOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 3,
    time: Annotated[bool, typer.Option(help="Also time it (40 queries and 0.2 s at least, on this machine).")] = True,
    timeout: TimeoutOption = 120,
    memory: FileMemoryOption = None,
    json: Json = False,
) -> None:
    """Run every artifact of PACK, or the chosen ones, on INPUT: top labels and latency. Needs nothing but the pack."""
    from edgepack.cli.output import emit_json
    from edgepack.converter.step import Limits
    from edgepack.pack.files import inside, load_pack
    from edgepack.pack.run import answer, chosen, read_input

    manifest = load_pack(pack)
    sample = read_input(input, manifest.student)
    artifacts = chosen(manifest, target or (), scheme or ())
    size = sum(array.nbytes for array in sample.values())
    answers = []
    for artifact in artifacts:
        limits = Limits(timeout, memory_limit(inside(pack, artifact.file.path), memory, size))
        answers.append(answer(pack, manifest, artifact, sample, limits, top, time))
    if json:
        emit_json({"ok": True, "input": str(input), "answers": [_as_data(each) for each in answers]})
    else:
        _show(answers)


_UNTIMED = "its times resemble each other too much for an interval: other programs are busy"


def _as_data(given: Answer) -> dict[str, Any]:
    p50 = given.latency.p50 if given.latency else None
    return {
        "target": given.artifact.target,
        "scheme": given.artifact.scheme,
        "runtime": given.runtime,
        "truth": given.truth,
        "top": [{"label": label, "probability": score} for label, score in given.top],
        "areas": [{"label": label, "share": share} for label, share in given.areas],
        "outputs": {name: array.tolist() for name, array in given.outputs.items()},
        "p50_ms": p50.value if p50 else None,
        "no_latency": "" if p50 else given.artifact.no_latency or _UNTIMED,
        "failures": list(given.artifact.failures),
    }


def _show(answers: list[Answer]) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgepack.cli.output import escaped
    from edgepack.text import plain

    table = Table()
    for heading in ("target", "scheme", "answer", "p50", "truth", "runtime"):
        table.add_column(heading)
    for given in answers:
        latency = f"{given.latency.p50.value:.3f} ms" if given.latency and given.latency.p50 else "-"
        failed = " [red](failed its gate)[/]" if given.artifact.failures else ""
        name, scheme = escaped(given.artifact.target), escaped(given.artifact.scheme) + failed
        table.add_row(name, scheme, escaped(plain(_words(given))), latency, escaped(given.truth), escaped(given.runtime))
    console = Console()
    console.print(table)
    if any(given.latency is None and given.truth == "simulated" for given in answers):
        console.print("[dim]simulated: Core ML runs only on Apple systems; no latency here[/]", highlight=False)


def _words(given: Answer) -> str:
    if given.top:
        return ", ".join(f"{label} {100 * score:.1f}%" for label, score in given.top)
    if given.areas:
        return "pixels: " + ", ".join(f"{label} {100 * share:.1f}%" for label, share in given.areas)
    return ", ".join(f"{name} {list(array.shape)} mean {array.mean():.4g}" for name, array in given.outputs.items())
