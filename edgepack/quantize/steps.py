"""The step that turns hub and ranges into a quantized hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgepack.arrays import save_arrays, stacked
from edgepack.calibration.observe import Ranges, feed_of
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Progress
from edgepack.hub.canonical import plain_session
from edgepack.hub.steps import HubNotes, operator_counts
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.bias_correction import correct_biases
from edgepack.quantize.constraints import Demands


def static(
    hub: Path, ranges: Path, calibration: Path, golden: Path, demands: dict[str, Any], bias_correction: bool, out: Path, progress: Progress
) -> None:
    """Write model.onnx (Q/DQ), constraints.json, notes.json and simulated.npz.

    Args:
        demands: fields of ``constraints.Demands``.
        golden: the golden inputs; simulated.npz holds what the quantized hub answers on them, node by node in float arithmetic, which
            is how good an artifact of this scheme can be expected to be.
    """
    import onnx
    import onnx_ir as ir

    model = ir.load(hub)
    held = msgspec.json.decode(ranges.read_bytes(), type=Ranges)
    quantized, constraints = quantize_static(model, held, msgspec.convert(demands, Demands))
    shifts = correct_biases(model, quantized, Samples.open(calibration), progress) if bias_correction else {}
    proto = ir.to_proto(quantized)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / "model.onnx")
    (out / "constraints.json").write_bytes(msgspec.json.format(msgspec.json.encode(constraints), indent=1))
    notes = [f"{len(constraints.activations)} activations in uint8, {len(shifts)} biases corrected on {held.samples} samples"]
    notes += [f"'{name}' stays real: {reason}" for name, reason in constraints.real.items()]
    (out / "notes.json").write_bytes(msgspec.json.encode(HubNotes(operator_counts(quantized), tuple(notes))))
    run, samples = plain_session(proto), Samples.open(golden)
    rows = [run(feed_of(samples, index)) for index in range(samples.count)]
    save_arrays(out / "simulated.npz", stacked(rows))
