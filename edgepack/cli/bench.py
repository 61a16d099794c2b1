"""``edgepack bench``: the artifacts of a pack on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgepack.cli.build import Json
from edgepack.cli.device import PythonOption
from edgepack.cli.gate import refuse_unwritable, write_junit
from edgepack.cli.inspect import FileMemoryOption
from edgepack.cli.run import PackSchemeOption, PackTargetOption

if TYPE_CHECKING:
    from rich.table import Table

    from edgepack.latency.bench import BenchResult
    from edgepack.latency.gate import Check
    from edgepack.pack.manifest import Estimate, Measurement

DeviceOption = Annotated[str, typer.Option("--device", "-d", help="local, qemu://pi5, qemu://pi4, ssh://user@host[:port] or adb://serial.")]
# The longest wait, in seconds.
_DAY = 86400
_UNITS = "For a Mac: all, cpu_and_ne, cpu_and_gpu or cpu_only, repeated for several. Default: each of them."
_PROFILES = "smoke (does it run), quick, mlperf (1024 queries and 60 s at least) or sustained (10 minutes, with its curve)."


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    device: DeviceOption = "local",
    target: PackTargetOption = None,
    scheme: PackSchemeOption = None,
    profile: Annotated[str, typer.Option(help=f"How much is measured: {_PROFILES}")] = "quick",
    seconds: Annotated[float | None, typer.Option(min=0, help="The shortest time to measure, in place of the profile's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    against: Annotated[Path | None, typer.Option(help="An older pack, compared in turn: regression, improvement, no difference.")] = None,
    margin: Annotated[float, typer.Option(min=0.001, max=1.0, help="How much slower or faster counts: 0.03 is 3 %.")] = 0.03,
    junit: Annotated[Path | None, typer.Option(help="Write the checks of the gate as JUnit XML.")] = None,
    save: Annotated[bool, typer.Option(help="Keep the measurements in the pack, and show them in its report.")] = True,
    wait: Annotated[float, typer.Option(min=0, max=_DAY, help="Seconds to wait while somebody else measures on the device.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, max=_DAY, help="Seconds a runner may take beside the profile's own.")] = 600,
    memory: FileMemoryOption = None,
    runtime: Annotated[Path | None, typer.Option(help="For a phone: the runtime to open there, a .so file, an AAR or a wheel.")] = None,
    benchmark_model: Annotated[Path | None, typer.Option(help="For a phone: Google's benchmark_model, to time the same files too.")] = None,
    compute_unit: Annotated[list[str] | None, typer.Option("--compute-unit", help=_UNITS)] = None,
    python: PythonOption = "",
    json: Json = False,
) -> None:
    """Run and time PACK's artifacts on a device: first whether they answer right there, then how fast.

    Without --target, a Raspberry Pi or a phone gets the artifacts made for one, a Mac behind ssh those made for iPhones, in Core ML on
    each compute unit (docs/apple.md), and this machine all that run on it. Exit code 1: wrong
    answers, a budget of the target not met, or slower than the older pack by more than the margin.
    Exit code 3: an artifact does not run there; the others were measured.
    """
    from edgepack.cli.output import Progress, emit_json
    from edgepack.latency.bench import bench

    if junit is not None:
        refuse_unwritable(junit)
    with Progress(quiet=json) as progress:
        result = bench(
            pack,
            device,
            targets=target or (),
            schemes=scheme or (),
            profile=profile,
            seconds=seconds,
            threads=threads,
            against=against,
            margin=margin,
            save=save,
            wait=wait,
            timeout=timeout,
            memory=memory,
            runtime=runtime,
            benchmark_model=benchmark_model,
            units=compute_unit or (),
            python=python,
            tell=progress.tell,
        )
    if json:
        emit_json(_as_data(result))
    else:
        _show(result, pack if save else None)
    if junit is not None:
        write_junit(junit, result.checks, pack)
    if result.failures:
        _end(result, json)
    if not result.passed:
        raise typer.Exit(1)


def _end(result: BenchResult, json: bool) -> NoReturn:
    """With the first of what could not be run, after all that could was shown."""
    from edgepack.converter.process import StepFailedError

    first, others = result.failures[0], len(result.failures) - 1
    if json:
        raise typer.Exit(first.error.exit_code)
    more = f" (and {others} more)" if others else ""
    raise StepFailedError(first.subject, f"{first.error.cause}{more}", first.error.hint, first.error.exit_code)


def _as_data(result: BenchResult) -> dict[str, Any]:
    import msgspec

    return {
        "ok": result.passed,
        "device": result.device,
        "measurements": [msgspec.to_builtins(each) for each in result.measurements],
        "checks": [msgspec.to_builtins(each) for each in result.checks],
        "failures": [
            {"target": each.target, "scheme": each.scheme, "unit": each.unit, "cause": each.error.cause, "hint": each.error.hint}
            for each in result.failures
        ],
        "left_out": list(result.left_out),
    }


def _show(result: BenchResult, folder: Path | None) -> None:
    from rich.console import Console

    from edgepack.cli.output import escaped

    console = Console()
    console.print(f"[bold]{escaped(_title(result))}[/]", highlight=False)
    console.print(_table(result.measurements))
    for measurement in result.measurements:
        for style, line in _lines(measurement):
            console.print(f"[{style}]{escaped(f'{_name(measurement)}: {line}')}[/]", highlight=False, soft_wrap=True)
    for kind in sorted({each.truth for each in result.measurements}):
        console.print(f"[dim]{kind}: {_MEANING[kind]}[/]", highlight=False, soft_wrap=True)
    for check in result.checks:
        if check.name == "older pack" or check.status not in ("pass", "no budget"):
            words = f"{check.subject}: {check.name}: {check.words}" if check.status == "pass" else _words(check)
            console.print(f"[{_STYLES.get(check.status, 'bold red')}]{escaped(words)}[/]", highlight=False, soft_wrap=True)
    for line in result.left_out:
        console.print(f"[dim]{escaped(line)}[/]", highlight=False, soft_wrap=True)
    if folder is not None:
        console.print(f"kept in {folder}/measurements   report: {folder}/report.html", highlight=False, soft_wrap=True, markup=False)


_STYLES = {"pass": "bold", "not measured": "dim"}


def _name(measurement: Measurement) -> str:
    return f"{measurement.target} {measurement.scheme}" + (f" on {measurement.unit}" if measurement.unit else "")


def _words(check: Check) -> str:
    return f"{check.subject}: {check.name} {check.status}: {check.words}"


# Kinds of truth whose times are of the device that is named.
SPEEDS = ("measured", "host")
_MEANING = {
    "measured": "taken on a device that is the target",
    "host": "real time, on a device that is not the target",
    "emulated": "what it answers counts; its times and memory are the emulator's, and no speed of any device",
}


def _title(result: BenchResult) -> str:
    facts = result.measurements[0].device
    what = facts.get("board") or facts.get("processor") or "device"
    # A phone has no Python.
    on = f"Python {facts['python']}" if "python" in facts else facts.get("system", "?")
    return f"{result.device}: {what}, {facts.get('architecture', '?')}, {on}"


def _table(measurements: tuple[Measurement, ...]) -> Table:
    from rich.table import Table

    from edgepack.cli.output import escaped

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("artifact", "p50 ms", "p90 ms", "p99 ms", "x fp32", "memory", "parity", "truth"):
        table.add_column(heading, justify="left" if heading in ("artifact", "truth") else "right", no_wrap=True)
    for measurement in measurements:
        table.add_row(escaped(f"{measurement.target}\n  {f'{measurement.scheme} {measurement.unit}'.strip()}"), *_cells(measurement))
    return table


def _cells(measurement: Measurement) -> tuple[str, ...]:
    latency = measurement.latency
    times = (None, None, None, None) if latency is None else (latency.p50, latency.p90, latency.p99, latency.ratio_to_fp32)
    memory = measurement.memory_peak_bytes if measurement.truth in SPEEDS else None
    words = [_over_interval(estimate, _instead(measurement)) for estimate in times]
    return (*words, "-" if memory is None else f"{memory / 1e6:.0f} MB", _parity(measurement), measurement.truth)


def _instead(measurement: Measurement) -> str:
    """What stands in the interval's place under a time that is no speed of the device."""
    if measurement.truth not in SPEEDS:
        return f"[dim]{measurement.truth}[/]"
    return "[red]invalid[/]" if measurement.latency is not None and measurement.latency.invalid else ""


def _over_interval(estimate: Estimate | None, instead: str) -> str:
    """Three significant digits above their 95 % interval, or above why they are no measure; then they are struck through."""
    if estimate is None:
        return "-"
    value, low, high = (f"{number:#.3g}".rstrip(".") for number in (estimate.value, estimate.low, estimate.high))
    return f"[strike dim]{value}[/]\n{instead}" if instead else f"{value}\n[dim]{low}..{high}[/]"


def _parity(measurement: Measurement) -> str:
    worst = min((float("inf") if output.sqnr_db is None else output.sqnr_db for output in measurement.parity.outputs), default=float("inf"))
    words = "exact" if worst == float("inf") else f"{worst:.1f} dB"
    return f"[red]{words} FAIL[/]" if measurement.failures else words


def _lines(measurement: Measurement) -> list[tuple[str, str]]:
    """(style, words) of what a reader must know of one artifact."""
    latency = measurement.latency
    found = [("bold red", failure) for failure in measurement.failures]
    if latency is not None and measurement.truth in SPEEDS:
        found += [("red", f"invalid: {reason}") for reason in latency.invalid]
        found += [("dim", warning) for warning in latency.warnings]
        found += [("dim", f"no query can take less than {latency.floor_ms:.3g} ms (predicted)")] if latency.floor_ms else []
    return found
