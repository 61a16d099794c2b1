"""TFLite Metadata: what a .tflite says of itself to Android's generated code, the Task Library and model viewers.

A flatbuffer of its own (metadata_schema.fbs of tflite-support, file identifier M001) in the model's metadata buffer ``TFLITE_METADATA``,
and a zip of the files it names, appended to the model: the .tflite is also a valid zip archive. The one package that writes these has been
without a release since 2023 and brings 60 MB of kernels, so that the dozen tables are spelled here; the tests read them with that package.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepack import __version__
from edgepack.backends.artifact import ImageInput, WriteOptions
from edgepack.backends.table import BackendError
from edgepack.backends.tflite.program import Program

NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS = "labels.txt"
# Nothing newer than the schema's first version is used.
_PARSER = "1.0.0"

# Enumerations and union members of the schema.
_COLOURS = {"RGB": 1, "GRAYSCALE": 2}
_FEATURE, _IMAGE = 1, 2
_NORMALIZATION = 1
_UNKNOWN_FILE, _AXIS_LABELS = 0, 2
# The oldest date a zip can hold: the bytes of an artifact depend on nothing but what it is made of.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def metadata(program: Program, options: WriteOptions) -> bytes:
    """The ``ModelMetadata`` of an artifact, tensors in the order of its signature.

    Raises:
        BackendError: a label has a line break.
    """
    labelled = _labelled_output(program, options.labels)
    graph = Table(
        {
            0: "main",
            2: [_input(name, options.images.get(name)) for name, _ in program.inputs],
            3: [_output(name, name == labelled) for name, _ in program.outputs],
        }
    )
    model = {
        0: options.name,
        1: f"{options.name}, scheme {options.scheme}, written by edgepack {__version__}",
        2: __version__,
        3: [graph],
        4: "edgepack",
        5: options.licence,
        7: _PARSER,
    }
    unbound = {6: [_label_file(_UNKNOWN_FILE)]} if options.labels and labelled is None else {}
    return encode(Table({**model, **unbound}))


def with_files(model: memoryview, options: WriteOptions) -> memoryview:
    """The model with the files its metadata names appended as a zip; as it was where there are none."""
    if not options.labels:
        return model
    broken = next((label for label in options.labels if len(label.splitlines()) > 1), None)
    if broken is not None:
        raise BackendError(f"tflite: label {broken!r} has a line break, and {LABELS} holds one label a line", "give it a name of one line")
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS, _EPOCH), "".join(f"{label}\n" for label in options.labels))
    return content.getbuffer()


def _labelled_output(program: Program, labels: Sequence[str]) -> str | None:
    """The output that the labels are of: the first, where an axis is as long."""
    name, tensor = program.outputs[0]
    return name if labels and len(labels) in tensor.shape else None


def _input(name: str, image: ImageInput | None) -> Table:
    if image is None:
        return Table({0: name, 3: _content(_FEATURE, Table({}))})
    size = Table({0: np.uint32(image.width), 1: np.uint32(image.height)})
    properties = Table({0: np.int8(_COLOURS[image.colours]), 1: size})
    normalization = Table({0: _floats(image.mean), 1: _floats(image.std)})
    return Table(
        {
            0: name,
            1: f"{image.colours} image, {image.width} x {image.height}, (pixel - mean) / std of pixels 0 to 255",
            3: _content(_IMAGE, properties),
            4: [Table({0: np.uint8(_NORMALIZATION), 1: normalization})],
            5: _stats(image.value_range),
        }
    )


def _output(name: str, is_labelled: bool) -> Table:
    held = {0: name, 3: _content(_FEATURE, Table({}))}
    return Table({**held, 6: [_label_file(_AXIS_LABELS)]} if is_labelled else held)


def _content(kind: int, properties: Table) -> Table:
    return Table({0: np.uint8(kind), 1: properties})


def _stats(value_range: tuple[float, float]) -> Table:
    return Table({0: _floats(value_range[1:]), 1: _floats(value_range[:1])})


def _label_file(kind: int) -> Table:
    return Table({0: LABELS, 1: "class names, one a line, in the order of the scores", 2: np.int8(kind)})


def _floats(numbers: Sequence[float]) -> Any:
    return np.asarray(numbers, np.float32)


@dataclass(frozen=True)
class Table:
    """A flatbuffer table: fields by their position in the schema.

    A field is a string, a table, a list of tables, a float32 array, or a numpy scalar of the type the schema gives it.
    """

    fields: Mapping[int, Any]


def encode(root: Table) -> bytes:
    """The bytes of a metadata flatbuffer; equal tables give equal bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, root), IDENTIFIER)
    return bytes(builder.Output())


def _written(builder: Any, table: Table) -> int:
    """Children first: a flatbuffer is written from its end, and offsets point forward."""
    offsets = {slot: _child(builder, value) for slot, value in table.fields.items() if not isinstance(value, np.generic)}
    builder.StartObject(max(table.fields, default=-1) + 1)
    for slot, value in table.fields.items():
        if slot in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
        else:
            _SCALARS[value.dtype.name](builder, slot, int(value), 0)
    return int(builder.EndObject())


def _child(builder: Any, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Table):
        return _written(builder, value)
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    offsets = [_written(builder, each) for each in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


_SCALARS: dict[str, Callable[[Any, int, int, int], None]] = {
    "int8": lambda builder, slot, value, default: builder.PrependInt8Slot(slot, value, default),
    "uint8": lambda builder, slot, value, default: builder.PrependUint8Slot(slot, value, default),
    "uint32": lambda builder, slot, value, default: builder.PrependUint32Slot(slot, value, default),
}
