"""The step that writes an artifact, and the one that lists what stands in a model's way."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgepack.arrays import load_arrays
from edgepack.backends.artifact import ImageInput, ProbedModel, WriteOptions, artifact_state
from edgepack.backends.registry import NEEDS_STATIC_SHAPES, backend
from edgepack.backends.table import BackendError, Obstacle
from edgepack.converter.step import Progress
from edgepack.hub.graph import HubError
from edgepack.hub.pin import pinned, symbols
from edgepack.hub.probe import probes, symbol_sizes
from edgepack.quantize.kernels import with_half_kernels
from edgepack.quantize.placement import carries_codes
from edgepack.student.sizes import sizes_of
from edgepack.student.spec import StudentDescription


def write(
    model: Path,
    student: Path,
    example: Path,
    format: str,
    minimum_os: str,
    scheme: str,
    out: Path,
    progress: Progress,
    image_inputs: bool = False,
    runtime: str = "",
    keeps_state: bool = False,
) -> None:
    """Write the artifact with artifact.json (its description) and findings.json (its lint, from disk).

    Args:
        model: the hub, or the quantized hub of ``scheme``.
        format: the backend's name; minimum_os: the oldest system that must run it, as the target names it.
        image_inputs: let the format's own images be the inputs that hold pixels, where it has such.
        runtime: the oldest release of the format's runtime that must run it; "" for today's.
        keeps_state: whether the artifact is to keep the student's state itself.
    """
    described = msgspec.json.decode(student.read_bytes(), type=StudentDescription)
    images = _images(described)
    options = WriteOptions(
        scheme=scheme,
        input_layouts={spec.name: spec.layout for spec in described.inputs},
        output_layouts={spec.name: spec.layout for spec in described.outputs},
        minimum_os=minimum_os,
        name=described.name,
        licence=described.licence,
        labels=described.labels,
        image_inputs={name: image.colours for name, image in images.items()} if image_inputs else {},
        images=images,
        runtime=runtime,
        state=described.state if keeps_state else {},
    )
    _refuse_own_codes(model, scheme)
    writer = backend(format)
    with tempfile.TemporaryDirectory() as scratch:
        whole = _as_scheme_wants(model, scheme, Path(scratch))
        options = with_probes(options, whole, format, example, described.sizes, Path(scratch))
        written = writer.write(as_backend_wants(whole, format, example, Path(scratch)), out, options)
    progress(1, 2)
    findings = writer.lint(out / written.file)
    state = artifact_state(described.state, written.inputs, written.outputs)
    # A format that keeps symbols takes every size.
    sizes = written.sizes if format in NEEDS_STATIC_SHAPES else described.sizes
    written = msgspec.structs.replace(written, minimum_os=written.minimum_os or minimum_os, state=state, sizes=sizes)
    (out / "artifact.json").write_bytes(msgspec.json.encode(written))
    (out / "findings.json").write_bytes(msgspec.json.encode(findings))
    progress(2, 2)


def with_probes(
    options: WriteOptions, model: Path, format: str, example: Path, sizes: Mapping[str, tuple[int, int]], out: Path
) -> WriteOptions:
    """The options with the model at several sizes, where some stay open and the format's writer needs every size known."""
    if not sizes or format not in NEEDS_STATIC_SHAPES:
        return options
    import onnx_ir as ir

    hub, shapes = ir.load(model), {name: array.shape for name, array in load_arrays(example).items()}
    probed: list[ProbedModel] = []
    for number, probe in enumerate(probes(hub, shapes, sizes)):
        probed.append(ProbedModel(dict(probe.sizes), out / f"probe_{number}.onnx"))
        ir.save(probe.model, probed[-1].path)
    held = {symbol: size for symbol, size in symbol_sizes(hub, shapes).items() if symbol in sizes}
    return msgspec.structs.replace(options, sizes=dict(sizes), example_sizes=held, probes=tuple(probed))


def _images(student: StudentDescription) -> dict[str, ImageInput]:
    """The input that holds an image, by name."""
    held = student.preprocessing
    if held is None or len(student.inputs) != 1:
        return {}
    factor, shift = held.affine
    mean, std = (tuple(map(float, each)) for each in (0.0 - shift / factor, 1 / factor))
    colours = "GRAYSCALE" if held.channels == 1 else "RGB"
    return {student.inputs[0].name: ImageInput(colours, held.height, held.width, mean, std, held.value_range)}


def _refuse_own_codes(model: Path, scheme: str) -> None:
    """BackendError for a student that carries Q/DQ under a scheme that says nothing of codes: the artifact would hold them all the same."""
    import onnx_ir as ir

    if scheme == "fp32" and carries_codes(ir.load(model).graph):
        raise BackendError("the student carries codes of its own, which scheme fp32 cannot keep", "use scheme w8a8")


def _as_scheme_wants(model: Path, scheme: str, out: Path) -> Path:
    """The model itself, or for fp16 a copy whose kernels are fp16 numbers already, so that no writer rounds them tap by tap."""
    if scheme != "fp16":
        return model
    import onnx_ir as ir

    path = out / "kernels.onnx"
    ir.save(with_half_kernels(ir.load(model)), path)
    return path


def obstacles(hub: Path, example: Path, backends: list[str], out: Path, progress: Progress) -> None:
    """What stands in the way of every backend, as obstacles.json.

    Args:
        backends: their names; "tflite@2.14" is one that writes for an old runtime.
    """
    found: list[Obstacle] = []
    for done, name in enumerate(backends):
        format, _, runtime = name.partition("@")
        model = as_backend_wants(hub, format, example, out)
        obstacles = backend(format).obstacles(model, **({"runtime": runtime} if runtime else {}))
        obstacles = obstacles or _open_size_obstacles(hub, format, example, runtime)
        found += [msgspec.structs.replace(obstacle, backend=name) for obstacle in obstacles]
        progress(done + 1, len(backends))
    (out / "obstacles.json").write_bytes(msgspec.json.encode(found))


def _open_size_obstacles(hub: Path, format: str, example: Path, runtime: str) -> list[Obstacle]:
    """What keeps a backend from leaving the declared sizes open, found by writing the artifact."""
    import onnx_ir as ir

    sizes = sizes_of(ir.load(hub).metadata_props)
    if not sizes or format not in NEEDS_STATIC_SHAPES:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            options = with_probes(WriteOptions("fp32", runtime=runtime), hub, format, example, sizes, folder)
            backend(format).write(as_backend_wants(hub, format, example, folder), folder, options)
        except (BackendError, HubError) as error:
            return [Obstacle(format, "open sizes", ", ".join(sizes), error.cause, error.hint)]
    return []


def as_backend_wants(model: Path, name: str, example: Path, out: Path) -> Path:
    """The model itself, or a copy pinned to the example's sizes when the format needs static shapes and the model has symbolic ones."""
    if name not in NEEDS_STATIC_SHAPES:
        return model
    import onnx_ir as ir

    hub = ir.load(model)
    if not symbols(hub):
        return model
    sizes = {name: array.shape for name, array in load_arrays(example).items()}
    path = out / "pinned.onnx"
    ir.save(pinned(hub, sizes), path)
    return path
