"""GridSample, as far as MIL has it."""

from __future__ import annotations

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, required
from edgepack.quantize.fold import Operation


@lowers("GridSample", honours={"mode", "padding_mode", "align_corners"})
def grid_sample(operation: Operation, emit: Emitter) -> Var:
    """ONNX GridSample-20 of images, linear -> resample; other forms were spelled out before (``operations.py``).

    Mirrored at the centres of the outermost pixels, as with align_corners, is MIL's reflection; at their outer edges it is symmetric.
    """
    aligned = bool(operation.attributes.get("align_corners", 0))
    paddings = {"zeros": "constant", "border": "border", "reflection": "reflection" if aligned else "symmetric"}
    return emit(
        "resample",
        x=emit.value(required(operation, 0)),
        coordinates=emit.value(required(operation, 1)),
        sampling_mode="bilinear",
        padding_mode=paddings[operation.attributes.get("padding_mode", "zeros")],
        padding_value=emit.number(0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=aligned,
    )
