"""The steps that write a scheme into the hub, and that simulate what its rounding leaves of the student."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgepack.arrays import Arrays, save_arrays, stacked
from edgepack.calibration.observe import Ranges, feed_of
from edgepack.calibration.readers import Samples
from edgepack.converter.step import Progress
from edgepack.hub.canonical import plain_session
from edgepack.hub.steps import HubNotes, operator_counts
from edgepack.quantize.adopt import adopt
from edgepack.quantize.apply import quantize_static, refuse_codes
from edgepack.quantize.bias_correction import CORRECTED, correct_biases, correct_real_biases, lay_out_biases
from edgepack.quantize.constraints import Constraints, Demands, QuantizeError
from edgepack.quantize.half import rounded_to_half
from edgepack.quantize.kernels import with_half_kernels
from edgepack.quantize.placement import carries_codes
from edgepack.quantize.scheme import Scheme
from edgepack.quantize.sizes import stored_bytes
from edgepack.quantize.weights import quantize_weights, simulate_dynamic
from edgepack.student.state import carried, state_of

if TYPE_CHECKING:
    import onnx


def static(
    hub: Path,
    golden: Path,
    demands: dict[str, Any],
    bias_correction: bool,
    out: Path,
    progress: Progress,
    ranges: Path | None = None,
    calibration: Path | None = None,
) -> None:
    """Write model.onnx (Q/DQ), constraints.json, notes.json and simulated.npz.

    Args:
        demands: fields of ``constraints.Demands``.
        golden: the golden inputs; simulated.npz holds what the quantized hub answers on them, node by node in float arithmetic, which
            is how good an artifact of this scheme can be expected to be.
        ranges, calibration: of a student in real numbers; one that carries Q/DQ keeps its own codes and needs neither. Without bias
            correction no calibration set is read.
    """
    import onnx
    import onnx_ir as ir

    model, wanted = ir.load(hub), msgspec.convert(demands, Demands)
    if carries_codes(model.graph):
        quantized, constraints = adopt(model, wanted)
        progress(1, 1)
        notes = _adopted_notes(constraints)
    elif ranges is None or (calibration is None and bias_correction):
        raise QuantizeError("scheme w8a8 needs a calibration set", "give one with -c manifest.toml")
    else:
        held = msgspec.json.decode(ranges.read_bytes(), type=Ranges)
        quantized, constraints = quantize_static(model, held, wanted)
        shifts = correct_biases(model, quantized, Samples.open(calibration), progress) if bias_correction and calibration else {}
        notes = [f"{len(constraints.activations)} activations in uint8, {len(shifts)} biases corrected on {held.samples} samples"]
    proto = ir.to_proto(quantized)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / "model.onnx")
    (out / "constraints.json").write_bytes(msgspec.json.format(msgspec.json.encode(constraints), indent=1))
    notes += [f"'{name}' stays real: {reason}" for name, reason in constraints.real.items()]
    (out / "notes.json").write_bytes(msgspec.json.encode(HubNotes(operator_counts(quantized), tuple(notes))))
    _simulate(proto, golden, out)


def _adopted_notes(constraints: Constraints) -> list[str]:
    notes = [f"{len(constraints.activations)} activations in the student's own codes: nothing was quantized anew"]
    if constraints.demands.scale_dtype == "float16":
        notes.append(f"scales rounded up to fp16 numbers (by 2^-10 of them at most) for {', '.join(constraints.demands.targets)}")
    return notes


def weights(
    hub: Path,
    golden: Path,
    demands: dict[str, Any],
    dynamic: bool,
    bias_correction: bool,
    out: Path,
    progress: Progress,
    calibration: Path | None = None,
) -> None:
    """Write model.onnx (weights through DequantizeLinear), notes.json and simulated.npz; a calibration set is used, not needed.

    Args:
        demands: fields of ``constraints.Demands``; dynamic: whether products are marked for dynamic int8 activations (w8d8).
        golden: the golden inputs; simulated.npz as ``static`` has it, with the activations of marked nodes through dynamic codes.
        bias_correction: whether every layer to be corrected gets a bias of its own.
        calibration: what the biases are corrected on, with real activations; without it they keep their values.
    """
    import onnx
    import onnx_ir as ir

    model = ir.load(hub)
    quantized, report = quantize_weights(model, msgspec.convert(demands, Demands), dynamic)
    lines = report.lines()
    if bias_correction:
        lay_out_biases(quantized)
    if bias_correction and calibration is not None:
        samples = Samples.open(calibration)
        shifts = correct_real_biases(model, quantized, samples, progress)
        lines.insert(1, f"{len(shifts)} biases corrected on {samples.count} samples")
    proto = ir.to_proto(quantized)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / "model.onnx")
    (out / "notes.json").write_bytes(msgspec.json.encode(HubNotes(operator_counts(quantized), tuple(lines))))
    _simulate(ir.to_proto(simulate_dynamic(quantized)) if dynamic else proto, golden, out)
    progress(1, 1)


def sizes(hub: Path, schemes: list[str], out: Path, progress: Progress) -> None:
    """Write sizes.json: bytes of the constants by scheme, for the ``schemes`` that can hold the student."""
    import onnx_ir as ir

    model, found = ir.load(hub), {}
    for name in schemes:
        with suppress(QuantizeError):
            found[name] = stored_bytes(model, Scheme.parse(name))
    (out / "sizes.json").write_bytes(msgspec.json.encode(found))
    progress(1, 1)


def simulate(model: Path, golden: Path, out: Path, progress: Progress) -> None:
    """Write simulated.npz: what a hub that is written already answers on samples, activations of products marked dynamic through codes."""
    import onnx_ir as ir

    _simulate(ir.to_proto(simulate_dynamic(ir.load(model))), golden, out)
    progress(1, 1)


def same_hub(built: Path, held: Path, biases_differ: bool, out: Path, progress: Progress) -> None:
    """Write same.json: "" when two hubs are the same model, else the first difference.

    Args:
        biases_differ: whether biases that are corrected, int32 vectors and the float32 ones of ``lay_out_biases``, may differ: bias
            correction needs the calibration set to be repeated.
    """
    import onnx

    first, second = onnx.load(built), onnx.load(held)
    if biases_differ:
        _take_biases(first, second)
    (out / "same.json").write_bytes(msgspec.json.encode(_difference(first, second)))
    progress(1, 1)


def _take_biases(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    """Replace the corrected biases of ``model`` by those of ``other``, where name and shape are the same."""
    import onnx

    held = {tensor.name: tensor for tensor in other.graph.initializer}
    for tensor in model.graph.initializer:
        twin = held.get(tensor.name)
        is_bias = len(tensor.dims) == 1 and (tensor.data_type == onnx.TensorProto.INT32 or tensor.name.endswith(CORRECTED))
        if is_bias and twin is not None and (twin.data_type, twin.dims) == (tensor.data_type, tensor.dims):
            tensor.CopyFrom(twin)


def _difference(first: onnx.ModelProto, second: onnx.ModelProto) -> str:
    if first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True):
        return ""
    pairs = zip(first.graph.initializer, second.graph.initializer, strict=False)
    name = next((mine.name for mine, theirs in pairs if mine != theirs), "")
    return f"weight '{name}' differs" if name else "the graphs differ"


def half(hub: Path, golden: Path, computes: bool, out: Path, progress: Progress) -> None:
    """Write simulated.npz: what the hub answers when its weights, or with ``computes`` all its numbers, are rounded to fp16.

    Raises:
        QuantizeError: the student carries Q/DQ already, or its numbers leave fp16.
    """
    import onnx_ir as ir

    model = ir.load(hub)
    refuse_codes(model)
    outputs = _simulate(ir.to_proto(rounded_to_half(with_half_kernels(model), computes)), golden, out)
    lost = next((name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()), None)
    if lost is not None:
        raise QuantizeError(f"output '{lost}' is not finite when the student computes in fp16", "scale its numbers down, or use fp32")
    progress(1, 1)


def _simulate(proto: onnx.ModelProto, golden: Path, out: Path) -> Arrays:
    """simulated.npz: what a model answers on the golden inputs, node by node in float arithmetic."""
    run, samples = plain_session(proto), Samples.open(golden)
    feeds = [dict(feed_of(samples, index)) for index in range(samples.count)]
    outputs = stacked(carried(run, feeds, state_of(proto)))
    save_arrays(out / "simulated.npz", outputs)
    return outputs
