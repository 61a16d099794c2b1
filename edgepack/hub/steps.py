"""The hub's step: captured model in, canonical hub out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgepack.arrays import load_arrays
from edgepack.converter.step import Progress
from edgepack.errors import EdgepackError, is_out_of_memory, one_line
from edgepack.hub.canonical import canonicalize as to_canonical
from edgepack.hub.graph import HubError
from edgepack.hub.preprocess import Affine, fold_preprocessing
from edgepack.student.spec import StudentDescription

if TYPE_CHECKING:
    import onnx_ir as ir


class HubNotes(msgspec.Struct, frozen=True):
    """What a report says about a hub: nodes by operator, and what was done to it."""

    operators: dict[str, int]
    notes: tuple[str, ...] = ()


def canonicalize(captured: Path, example: Path, out: Path, progress: Progress) -> None:
    """Write model.onnx (canonical, weights embedded) and notes.json."""
    import onnx
    import onnx_ir as ir

    with _explained():
        canonical = to_canonical(onnx.load(captured), load_arrays(example))
        progress(1, 1)
        proto = ir.to_proto(canonical.model)
        onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / "model.onnx")
    notes = tuple(f"rewritten: {name}" for name in canonical.rewrites)
    (out / "notes.json").write_bytes(msgspec.json.encode(HubNotes(operator_counts(canonical.model), notes)))


@contextmanager
def _explained() -> Iterator[None]:
    """What a library raises on a graph that contradicts itself, as a refusal of the graph; running out of memory stays what it is."""
    try:
        yield
    except (EdgepackError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(one_line(error)):
            raise
        raise HubError(f"the student's graph contradicts itself ({one_line(error)})", "look at it with onnx.checker") from error


def fold(hub: Path, notes: Path, student: Path, absorb: bool, out: Path, progress: Progress) -> None:
    """Write model.onnx, the hub with the student's preprocessing in it, and notes.json.

    Args:
        notes: notes.json of the hub.
        absorb: as ``fold_preprocessing`` has it.
    """
    import onnx
    import onnx_ir as ir

    described = msgspec.json.decode(student.read_bytes(), type=StudentDescription)
    held = msgspec.json.decode(notes.read_bytes(), type=HubNotes)
    model = ir.load(hub)
    done = fold_preprocessing(model, Affine(*described.image_preprocessing.affine), described.inputs[0].layout or "NCHW", absorb)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / "model.onnx")
    (out / "notes.json").write_bytes(msgspec.json.encode(HubNotes(operator_counts(model), (*held.notes, done))))
    progress(1, 1)


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Nodes by operator of a model, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph).most_common())
