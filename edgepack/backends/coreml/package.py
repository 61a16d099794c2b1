"""Saving a MIL program as an .mlpackage with fixed bytes, and checking what the saved package holds."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack import __version__
from edgepack.backends.artifact import Binding, WriteOptions
from edgepack.backends.coreml.emitter import HeldEncoding
from edgepack.backends.coreml.features import input_types
from edgepack.backends.coreml.frontend import Built
from edgepack.backends.table import BackendError
from edgepack.errors import StepError
from edgepack.mil.environment import coremltools, temporary_files_in
from edgepack.mil.program import STATE, all_operations, constant_value, read_function

# All that runs between our program and the package. Every pass of coremltools' default pipeline is left out on purpose: the program is
# already in its final form and types, const_deduplication merges constants that are merely close, the quantization passes move scales and
# drop zero points, and the fusions would fold a quantize / dequantize pair away. What remains does not change a number:
_PASSES = [
    # Drops the constants of parameters that coremltools' Builder filled in and nothing reads.
    "common::dead_code_elimination",
    # The Builder numbers operations; a hub value may happen to have such a name.
    "common::dedup_op_and_var_names",
]
# Metadata: hub value name -> name in the program, as JSON, of the values whose names Core ML does not take.
RENAMED = "edgepack.values"
_SPEC = Path("Data") / "com.apple.CoreML" / "model.mlmodel"


def save(built: Built, path: Path, ios: int, options: WriteOptions) -> None:
    """Write a built program to ``path`` (an .mlpackage folder that must not exist). Same program, same bytes.

    Where a value of the hub has another name in the program, the package's metadata say so.
    """
    ct = coremltools()
    features = [held for held in built.inputs if held.name not in built.kept]
    with temporary_files_in(path.parent), _written_whole(path):
        ct.convert(
            built.program,
            convert_to="mlprogram",
            inputs=input_types(features, options),
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            # The program states its own precision; this only keeps coremltools from casting it again.
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline(list(_PASSES), "edgepack"),
            skip_model_load=True,
            # Without it the package goes to the system's temporary folder first, where a process that ends hard leaves it.
            package_dir=str(path),
        )
    renamed = {name: value.name for name, value in built.values.items() if value.name != name}
    _describe(path / _SPEC, options, built.inputs, {RENAMED: renamed, STATE: built.kept})
    _settle_identifiers(path / "Manifest.json")


# What coremltools says of a full disk: its writer of weights, and the copying of files into the package.
_NOT_WRITTEN = ("[MIL FileWriter]", "filesystem error", "A valid manifest does not exist")


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[None]:
    """Says that a package could not be written. A manifest that finds no room coremltools passes over, and leaves its empty drafts.

    Raises:
        StepError: something of the package is missing, or lies in it that is no part of it.
    """
    hint = "free some space: edgepack cache prune, or another place with --store"
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _NOT_WRITTEN):
            raise
        raise StepError(f"coreml: the package could not be written ({' '.join(str(error).split())[:100]})", hint) from error
    drafts = [file.name for file in path.iterdir() if file.name not in ("Data", "Manifest.json")]
    if drafts:
        raise StepError(f"coreml: the package's manifest could not be written, only {drafts[0]}", hint)


def check_encodings(path: Path, expected: Sequence[HeldEncoding]) -> None:
    """Assert that the package on disk holds the hub's codes, scales and zero points.

    Raises:
        BackendError: one is missing or differs; the message names it.
    """
    held = {output.name: operation for operation in all_operations(read_function(path)) for output in operation.outputs}
    for want in expected:
        operation = held.get(want.name)
        if operation is None or not _holds(operation, want):
            raise BackendError(
                f"coreml: the saved package does not hold the hub's codes, scale or zero point of '{want.name}'",
                "report this with the model: the package must not ship",
            )


# Where each operation keeps codes, scale and zero point.
_PARAMETERS = {
    "quantize": (None, "scale", "zero_point"),
    "dequantize": (None, "scale", "zero_point"),
    "constexpr_affine_dequantize": ("quantized_data", "scale", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "scale", "offset"),
}


def _holds(operation: Any, want: HeldEncoding) -> bool:
    if operation.op_type not in _PARAMETERS:
        return False
    codes, scale, zero_point = (None if name is None else _parameter(operation, name) for name in _PARAMETERS[operation.op_type])
    return (
        _equal(codes, want.codes)
        and _equal(None if scale is None else scale.ravel(), want.encoding.scale.ravel())
        and _equal(None if zero_point is None else zero_point.ravel(), want.encoding.zero_point.ravel())
    )


def _parameter(operation: Any, name: str) -> NDArray[Any] | None:
    bound = operation.inputs.get(name)
    return None if bound is None else np.asarray(constant_value(bound))


def _equal(found: NDArray[Any] | None, want: NDArray[Any] | None) -> bool:
    if found is None or want is None:
        return found is want
    return found.dtype == want.dtype and np.array_equal(found, want)


def _describe(path: Path, options: WriteOptions, inputs: Sequence[Binding], names: Mapping[str, Mapping[str, str]]) -> None:
    """Write metadata into the saved spec: what the options say, how things are called (``names``, by key), what wrote it; no date."""
    ct = coremltools()
    spec = ct.utils.load_spec(str(path))
    metadata = spec.description.metadata
    metadata.shortDescription, metadata.license, metadata.author = options.name, options.licence, "edgepack"
    metadata.versionString = __version__
    metadata.userDefined.clear()
    metadata.userDefined["com.github.apple.coremltools.version"] = ct.__version__
    metadata.userDefined["edgepack.scheme"] = options.scheme
    for key, held in names.items():
        if held:
            metadata.userDefined[key] = json.dumps(dict(held), sort_keys=True)
    if options.labels:
        metadata.userDefined["labels"] = json.dumps(list(options.labels), ensure_ascii=False)
    if options.images:
        metadata.userDefined["normalization"] = json.dumps(_normalizations(options, inputs), sort_keys=True)
    path.write_bytes(spec.SerializeToString(deterministic=True))


def _normalizations(options: WriteOptions, inputs: Sequence[Binding]) -> dict[str, dict[str, tuple[float, ...]]]:
    """What images become before they are fed, by feature name: (pixel - mean) / std of pixels 0 to 255."""
    names = {held.hub_name: held.name for held in inputs}
    return {names[name]: {"mean": image.mean, "std": image.std} for name, image in options.images.items()}


def _settle_identifiers(path: Path) -> None:
    """Give the manifest's entries identifiers made from their paths, instead of random ones."""
    manifest = json.loads(path.read_text())
    fixed = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = {
        fixed[old]: entry for old, entry in sorted(manifest["itemInfoEntries"].items(), key=lambda e: e[1]["path"])
    }
    manifest["rootModelIdentifier"] = fixed[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def replace_package(source: Path, target: Path) -> None:
    """Move a finished package into place; one that was there goes first."""
    if target.exists():
        shutil.rmtree(target)
    source.replace(target)
