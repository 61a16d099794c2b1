"""What the rest of edgepack calls: write, obstacles, lint."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgepack.backends.artifact import ArtifactDescription, Finding, ProbedModel, WriteOptions
from edgepack.backends.coreml.operations import Hub, read_hub
from edgepack.backends.table import BackendError, Obstacle

if TYPE_CHECKING:
    from edgepack.backends.coreml.frontend import Built
    from edgepack.backends.coreml.probes import Probe

FILE = "model.mlpackage"
# quantize and dequantize of activations exist from iOS 17 on.
_DEFAULT_OS = "iOS17"
_RELEASES = {"iOS15": 15, "iOS16": 16, "iOS17": 17, "iOS18": 18}


def write(model: Path, out: Path, options: WriteOptions) -> ArtifactDescription:
    """Write ``<out>/model.mlpackage`` from a static-shape ONNX hub of opset 21.

    Scheme "fp32" computes in float32, every other scheme in float16; inputs and outputs are float32 or int32 either way. Q/DQ pairs
    stay: activations as ``quantize`` / ``dequantize``, weights as their codes. The package is read back from disk and must hold the
    hub's codes, scales and zero points, and the images asked for, before it is put in place.

    Raises:
        BackendError: the model cannot be expressed (nothing is written), or the saved package does not hold what it must.
        HubError: a shape is not static.
    """
    from edgepack.backends.coreml.frontend import demand_release, find_obstacles
    from edgepack.backends.coreml.images import check_images, find_image_obstacles
    from edgepack.backends.coreml.package import check_encodings, replace_package, save

    minimum_os = options.minimum_os or _DEFAULT_OS
    if minimum_os not in _RELEASES:
        raise BackendError(f"coreml: minimum_os '{minimum_os}' is not known", f"use one of {', '.join(_RELEASES)}")
    ios = _RELEASES[minimum_os]
    hub = read_hub(model)
    _refuse([*find_image_obstacles(hub, options.image_inputs), *find_obstacles(hub)])
    demand_release(hub.operations, ios)
    dtype = "float32" if options.scheme == "fp32" else "float16"
    built, left = _built(hub, dtype, ios, options)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".coreml-") as scratch:
        saved = Path(scratch) / FILE
        save(built, saved, ios, options)
        check_encodings(saved, built.encodings)
        check_images(saved, built.inputs, options.image_inputs)
        replace_package(saved, out / FILE)
    images = [f"input '{name}' is an image, {colours}, pixels 0 to 255" for name, colours in options.image_inputs.items()]
    kept = (f"state '{name}' is kept by Core ML" for name in built.kept)
    notes = (f"compute precision {dtype}", *built.notes, *images, *_size_notes(options), *left, *kept)
    return ArtifactDescription(FILE, built.inputs, built.outputs, "mil", notes, minimum_os, kept=tuple(built.kept), sizes=options.sizes)


def _built(hub: Hub, dtype: str, ios: int, options: WriteOptions) -> tuple[Built, list[str]]:
    """The program of a hub, or the one that all its probes are, and a note for each state that it does not keep though it was to."""
    from edgepack.backends.coreml.attention import RELEASE, with_attention
    from edgepack.backends.coreml.flexible import unify
    from edgepack.backends.coreml.frontend import build
    from edgepack.backends.coreml.states import own_states

    kept, left = own_states(hub, options.state, dtype, ios)
    if not options.probes:
        return build(with_attention(hub, dtype) if ios >= RELEASE else hub, dtype, ios, kept), left
    # The largest sizes are the last probe's.
    built = unify((_probe(held, dtype, ios) for held in options.probes[::-1]), options.sizes, ios)
    for held in built.inputs:
        if held.hub_name in options.image_inputs and any(isinstance(size, str) for size in held.shape):
            cause = f"coreml: input '{held.name}' is to be an image, and its shape {held.shape} is open"
            raise BackendError(cause, "give its sizes fixed values (leave them out of the student's sizes)")
    return built, [*left, *(f"state '{source}' stays an input and an output: the program has open sizes" for source in kept)]


def _probe(probed: ProbedModel, dtype: str, ios: int) -> Probe:
    from edgepack.backends.coreml.frontend import build, find_obstacles
    from edgepack.backends.coreml.probes import Probe

    hub = read_hub(probed.path)
    _refuse(find_obstacles(hub))
    return Probe(probed.sizes, build(hub, dtype, ios))


def _size_notes(options: WriteOptions) -> list[str]:
    return [
        f"{symbol} {low} to {high}; the Neural Engine runs the default of {options.example_sizes[symbol]}, CPU and GPU any"
        for symbol, (low, high) in options.sizes.items()
    ]


def obstacles(model: Path) -> list[Obstacle]:
    """Every reason a hub cannot be written, found without coremltools.

    Raises:
        HubError: a shape is not static.
    """
    from edgepack.backends.coreml.frontend import find_obstacles

    return find_obstacles(read_hub(model))


def lint(artifact: Path) -> list[Finding]:
    """What Core ML would refuse in a written package: see ``edgepack.backends.coreml.rules``."""
    from edgepack.backends.coreml.rules import lint as lint_package

    return lint_package(artifact)


def _refuse(found: list[Obstacle]) -> None:
    if found:
        more = f" (and {len(found) - 1} more; edgepack inspect lists all)" if len(found) > 1 else ""
        raise BackendError(f"{found[0]}{more}", found[0].hint)
