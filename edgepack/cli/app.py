"""The program ``edgepack``: its verbs, and how every failure ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated

import typer

import edgepack
from edgepack.cli import (
    bench,
    build,
    cache,
    demo,
    device,
    devices,
    doctor,
    gate,
    init,
    inspect,
    plan,
    report,
    run,
    serve,
    targets,
    verify,
    waterfall,
)
from edgepack.cli.output import fail, wants_json
from edgepack.errors import EdgepackError

# Shells report a program ended by a signal as 128 + its number; 130 is Ctrl-C.
_SIGNALLED = 128

# Objects made before the collector looks for cycles; Python's own 700 is met at every import.
_FEW_COLLECTIONS = 100_000

app = typer.Typer(
    name="edgepack",
    help="Export a distilled student through one ONNX hub to TFLite, Core ML and ONNX Runtime: verified and timed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 ok, 1 a gate failed, 2 bad usage or input, 3 a step failed, 4 a device cannot be reached.",
)
for _verb in (build, plan, verify, inspect, run, bench, serve, gate, waterfall, report, targets, devices, demo, init, doctor):
    app.command(name=_verb.__name__.rpartition(".")[2])(_verb.command)
app.add_typer(cache.app, name="cache", help="List, prune and check the store of results that builds share.")
app.add_typer(device.app, name="device", help="Make a device ready to run and time artifacts.")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgepack {edgepack.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


class Interrupted(BaseException):
    """Ctrl-C, a closed terminal or a polite kill. No KeyboardInterrupt, which typer would answer in words of its own."""


def _interrupt(number: int, _: object) -> None:
    raise Interrupted(number)


def main() -> None:
    """Run the program; a failure a person can act on is one line and its exit code."""
    # This process imports, waits and copies; looking for cycles among what it imports is a tenth of what a rebuild costs.
    gc.set_threshold(_FEW_COLLECTIONS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        app()
    except EdgepackError as error:
        fail(error, wants_json(sys.argv))
        sys.exit(error.exit_code)
    except Interrupted as error:
        print("edgepack: interrupted; nothing was left half-written, and finished steps are kept", file=sys.stderr)
        sys.exit(_SIGNALLED + error.args[0])
    except BrokenPipeError:
        sys.exit(1)
