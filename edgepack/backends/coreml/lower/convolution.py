"""Conv -> conv, ConvTranspose -> conv_transpose."""

from __future__ import annotations

from dataclasses import dataclass

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.geometry import ATTRIBUTES, Window
from edgepack.backends.coreml.table import lowers, needs_constants, only, operand_at, required
from edgepack.quantize.fold import Operand, Operation

# (N, C, one spatial dimension); three of them reach the rank Core ML stops at.
_FEWEST = 3
_AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def _unexpressed(operation: Operation) -> tuple[str, str] | None:
    x = required(operation, 0)
    if x.rank < _FEWEST:
        return "convolves no spatial dimension", "use a 1-D convolution"
    if min(operation.attributes.get("pads") or [0]) < 0:
        return "has negative pads", "slice the input instead"
    is_dilated = any(dilation != 1 for dilation in operation.attributes.get("dilations") or ())
    if is_dilated and required(operation, 1).constant is None:
        return "is dilated and has a weight computed at run time", "make the weight a constant in the student"
    return None


@lowers(
    "Conv",
    honours=ATTRIBUTES | {"group"},
    objects=(only("auto_pad", *_AUTO_PADS), _unexpressed),
)
def conv(operation: Operation, emit: Emitter) -> Var:
    """ONNX Conv-11 over (N, C, spatial...): both cross-correlate, with weights (C_out, C_in / group, kernel...).

    MIL takes weights computed at run time, but no such bias, which is added to the result.
    """
    x, weight, bias = required(operation, 0), required(operation, 1), operand_at(operation, 2)
    window = Window.of(operation, x.shape[2:], weight.shape[2:])
    is_held = bias is not None and bias.constant is not None and weight.constant is not None
    optional = {"bias": emit.value(bias)} if bias is not None and is_held else {}
    found = emit(
        "conv",
        x=emit.value(x),
        weight=emit.value(weight),
        strides=list(window.strides),
        dilations=list(window.dilations),
        groups=operation.attributes.get("group", 1),
        pad_type="custom",
        pad=window.interleaved,
        **optional,
    )
    if bias is None or is_held:
        return found
    by_channel = emit("reshape", x=emit.value(bias), shape=[1, bias.shape[0], *[1] * (x.rank - 2)])
    return emit("add", x=found, y=by_channel)


@dataclass(frozen=True)
class Cut:
    """What a transposed convolution leaves away before and after the whole result of one axis; negative where zeros are added."""

    before: int
    after: int


def _cuts(operation: Operation) -> list[Cut]:
    """One entry a spatial dimension (ONNX ConvTranspose-11, auto_pad and output_shape; its output_padding is in the hub's shape).

    An output size that is asked for, by shape or by SAME, divides what is cut evenly, the odd element at the end for SAME_UPPER and at
    the start otherwise.
    """
    x, weight, spatial = required(operation, 0), required(operation, 1), required(operation, 0).rank - 2
    strides = operation.attributes.get("strides") or [1] * spatial
    dilations = operation.attributes.get("dilations") or [1] * spatial
    extra = operation.attributes.get("output_padding") or [0] * spatial
    pads = operation.attributes.get("pads") or [0] * 2 * spatial
    cuts = []
    for at, out in enumerate(operation.outputs[0].shape[2:]):
        whole = (x.shape[at + 2] - 1) * strides[at] + (weight.shape[at + 2] - 1) * dilations[at] + 1
        before = pads[at] if _pads_are_given(operation) else _start(operation, max(whole + extra[at] - out, 0))
        cuts.append(Cut(before, whole - before - out))
    return cuts


def _pads_are_given(operation: Operation) -> bool:
    return operation.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not operation.attributes.get("output_shape")


def _start(operation: Operation, total: int) -> int:
    return total // 2 if operation.attributes.get("auto_pad") == "SAME_UPPER" else total - total // 2


def _transposed_form(operation: Operation) -> tuple[str, str] | None:
    if required(operation, 0).rank < _FEWEST:
        return "convolves no spatial dimension", "use a 1-D convolution"
    if operation.attributes.get("auto_pad", "NOTSET").startswith("SAME") and any(operation.attributes.get("output_padding") or ()):
        return "has auto_pad SAME with output_padding, whose size onnx and onnxruntime disagree on", "give it pads"
    return None


@lowers(
    "ConvTranspose",
    honours=ATTRIBUTES | {"group", "output_padding", "output_shape"},
    objects=(needs_constants(1, 2), only("auto_pad", *_AUTO_PADS), _transposed_form),
)
def conv_transpose(operation: Operation, emit: Emitter) -> Var:
    """ONNX ConvTranspose-11, weights (C_in, C_out / group, kernel...) in both.

    What ``output_padding`` adds is padding not cut off; what it adds beyond the whole result reads no input, so it is zeros, and bias.
    """
    x, weight, bias = required(operation, 0), required(operation, 1), operand_at(operation, 2)
    spatial, cuts = x.rank - 2, _cuts(operation)
    grown = [max(-size, 0) for cut in cuts for size in (cut.before, cut.after)]
    optional = {} if bias is None or any(grown) else {"bias": emit.value(bias)}
    found = emit(
        "conv_transpose",
        x=emit.value(x),
        weight=emit.value(weight),
        strides=operation.attributes.get("strides") or [1] * spatial,
        dilations=operation.attributes.get("dilations") or [1] * spatial,
        groups=operation.attributes.get("group", 1),
        pad_type="custom",
        pad=[max(size, 0) for cut in cuts for size in (cut.before, cut.after)],
        **optional,
    )
    return _grown(found, grown, bias, emit) if any(grown) else found


def _grown(x: Var, widths: list[int], bias: Operand | None, emit: Emitter) -> Var:
    """``x`` without bias between zeros, then the bias."""
    padded = emit("pad", x=x, pad=[0, 0, 0, 0, *widths], mode="constant", constant_val=emit.number(0))
    if bias is None:
        return padded
    held = emit.reals(bias.real().reshape(-1, *[1] * (len(widths) // 2)), bias.name)
    return emit("add", x=padded, y=held)
