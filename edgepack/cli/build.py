"""``edgepack build``: a student to verified and timed artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
StudentArgument = Annotated[
    str, typer.Argument(metavar="STUDENT", help="file.py:function, a .pt2 file, an .onnx file or a Hugging Face folder.")
]
TargetOption = Annotated[
    list[str] | None, typer.Option("--target", "-t", help="Target name or .toml file; repeat. Default: raspberry-pi-5, android, ios.")
]
CalibrationOption = Annotated[
    str | None, typer.Option("--calibration", "-c", help="Calibration manifest (.toml), or the name of a shipped one.")
]
SchemeOption = Annotated[
    list[str] | None, typer.Option("--scheme", "-s", help="fp32, fp16, w8, w8d8, w8a8; repeat. Default: fp32, and w8a8 with -c.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the pack; an older pack there is replaced whole.")]
RangesOption = Annotated[str, typer.Option(help="How observed ranges become encodings: minmax or mse.")]
BiasOption = Annotated[bool, typer.Option(help="Correct biases layer after layer, on the calibration set.")]
FoldOption = Annotated[bool, typer.Option("--fold-preprocessing", help="Artifacts take pixels 0..255: scale, mean and std are in them.")]
ImageInputsOption = Annotated[bool, typer.Option("--image-inputs", help="Core ML takes an image; implies --fold-preprocessing.")]
MetricOption = Annotated[list[str] | None, typer.Option(help="Your own metric, file.py:function(outputs, labels) -> number; repeat.")]
LatencyOption = Annotated[str, typer.Option(help="Latency profile: quick, smoke, mlperf or none.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds a step or a runner may take.")]
MemoryOption = Annotated[float, typer.Option(min=0.25, help="GiB a step or a runner may allocate.")]
WorkOption = Annotated[Path | None, typer.Option(help="Copy the files and logs of every step to this folder.")]
StoreOption = Annotated[
    Path | None,
    typer.Option(help="Where results of steps are kept and found again. Default: $EDGEPACK_STORE, or ~/.cache/edgepack/store."),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run every step, and keep nothing but the pack.")]
JobsOption = Annotated[int, typer.Option(min=0, help="Steps at once; 0: as many as there are processors and memory for.")]


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
    latency: LatencyOption = "quick",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime while timing.")] = 1,
    timeout: TimeoutOption = 600,
    memory: MemoryOption = 8,
    store: StoreOption = None,
    fresh: FreshOption = False,
    jobs: JobsOption = 0,
    work: WorkOption = None,
    json: Json = False,
) -> None:
    """Export STUDENT to every target, verify each artifact from disk, time what can be timed, and pack it all."""
    from edgepack import api
    from edgepack.cli.output import Progress
    from edgepack.converter.step import Limits

    with Progress(quiet=json) as progress:
        pack = api.build(
            student,
            out,
            targets=target or api.DEFAULT_TARGETS,
            schemes=scheme or (),
            calibration=calibration,
            ranges=ranges,
            bias_correction=bias_correction,
            fold_preprocessing=fold_preprocessing,
            image_inputs=image_inputs,
            metrics=metric or (),
            latency=latency,
            threads=threads,
            limits=Limits(timeout, int(memory * 2**30)),
            store=None if fresh else store or "",
            jobs=jobs,
            work=work,
            watcher=progress,
            tell=progress.tell,
            warn=progress.warn,
        )
    finish(pack, out, json)


def finish(pack: object, out: Path, as_json: bool) -> None:
    """Show a built pack; exit code 1 when an artifact failed its gate."""
    import msgspec

    from edgepack.cli.output import emit_json, show_pack
    from edgepack.pack.manifest import Pack

    assert isinstance(pack, Pack)
    failed = any(artifact.failures for artifact in pack.artifacts)
    if as_json:
        emit_json({"ok": not failed, "out": str(out), "pack": msgspec.to_builtins(pack)})
    else:
        show_pack(pack, str(out))
    if failed:
        raise typer.Exit(1)
