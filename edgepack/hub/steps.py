"""The hub's step: captured model in, canonical hub out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgepack.arrays import load_arrays
from edgepack.converter.step import Progress
from edgepack.hub.canonical import canonicalize as to_canonical

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

    canonical = to_canonical(onnx.load(captured), load_arrays(example))
    progress(1, 1)
    proto = ir.to_proto(canonical.model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / "model.onnx")
    notes = tuple(f"rewritten: {name}" for name in canonical.rewrites)
    (out / "notes.json").write_bytes(msgspec.json.encode(HubNotes(operator_counts(canonical.model), notes)))


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Nodes by operator of a model, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph).most_common())
