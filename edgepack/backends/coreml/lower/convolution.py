"""Conv -> conv, ConvTranspose -> conv_transpose."""

from __future__ import annotations

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.geometry import ATTRIBUTES, Window
from edgepack.backends.coreml.table import lowers, needs_constants, only, operand_at, required
from edgepack.quantize.fold import Operation


def _unexpressed(operation: Operation) -> tuple[str, str] | None:
    x = required(operation, 0)
    if x.rank not in (3, 4):
        return f"convolves {x.rank - 2} spatial dimensions", "use a 1-D or 2-D convolution"
    if min(operation.attributes.get("pads", [0])) < 0:
        return "has negative pads", "slice the input instead"
    return None


@lowers(
    "Conv",
    honours=ATTRIBUTES | {"group"},
    objects=(needs_constants(1, 2), only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), _unexpressed),
)
def conv(operation: Operation, emit: Emitter) -> Var:
    """ONNX Conv-11 over (N, C, spatial...): both cross-correlate, with weights (C_out, C_in / group, kernel...)."""
    x, weight, bias = required(operation, 0), required(operation, 1), operand_at(operation, 2)
    window = Window.of(operation, x.shape[2:], weight.shape[2:])
    optional = {} if bias is None else {"bias": emit.value(bias)}
    return emit(
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


def _transposed_form(operation: Operation) -> tuple[str, str] | None:
    x, extra = required(operation, 0), operation.attributes.get("output_padding") or [0]
    if x.rank not in (3, 4):
        return f"convolves {x.rank - 2} spatial dimensions", "use a 1-D or 2-D convolution"
    pads = operation.attributes.get("pads") or [0] * 2 * (x.rank - 2)
    if min(pads) < 0 or any(more > end for more, end in zip(extra, pads[x.rank - 2 :], strict=False)):
        return "has an output_padding beyond its padding", "give it at least as much padding, or pad the output in the student"
    return None


@lowers(
    "ConvTranspose",
    honours={"kernel_shape", "strides", "pads", "dilations", "group", "output_padding"},
    objects=(needs_constants(1, 2), _transposed_form),
)
def conv_transpose(operation: Operation, emit: Emitter) -> Var:
    """ONNX ConvTranspose-11, weights (C_in, C_out / group, kernel...) in both. What ``output_padding`` adds is padding not cut off."""
    x, weight, bias = required(operation, 0), required(operation, 1), operand_at(operation, 2)
    spatial = x.rank - 2
    pads = operation.attributes.get("pads") or [0] * 2 * spatial
    ends = [end - more for end, more in zip(pads[spatial:], operation.attributes.get("output_padding") or [0] * spatial, strict=True)]
    optional = {} if bias is None else {"bias": emit.value(bias)}
    return emit(
        "conv_transpose",
        x=emit.value(x),
        weight=emit.value(weight),
        strides=operation.attributes.get("strides") or [1] * spatial,
        dilations=operation.attributes.get("dilations") or [1] * spatial,
        groups=operation.attributes.get("group", 1),
        pad_type="custom",
        pad=[size for pair in zip(pads[:spatial], ends, strict=True) for size in pair],
        **optional,
    )
