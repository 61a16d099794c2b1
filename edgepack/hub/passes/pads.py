"""Pads written out, where an operator says them in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepack.hub.graph import HubError, attribute, label
from edgepack.hub.passes.editing import known_shape, set_attributes

if TYPE_CHECKING:
    import onnx_ir as ir


_PADDED = ("Conv", "MaxPool", "AveragePool", "LpPool")


def explicit_pads(model: ir.Model) -> bool:
    """auto_pad becomes pads where the spatial size is known (ONNX Conv-11, "auto_pad")."""
    changed = [_plain_pads(node) for node in model.graph if node.op_type in _PADDED and attribute(node, "auto_pad", "NOTSET") != "NOTSET"]
    return any(changed)


def _plain_pads(node: ir.Node) -> bool:
    mode, source = attribute(node, "auto_pad"), node.inputs[0]
    spatial = list(source.shape)[2:] if source is not None and source.shape is not None else []
    if mode == "VALID":
        set_attributes(node, {"auto_pad": None, "pads": None})
        return True
    if not spatial or not all(isinstance(size, int) for size in spatial):
        raise HubError(f"{label(node)} has auto_pad {mode} on a size that is not known", "declare the image size in the student")
    window = attribute(node, "kernel_shape") or _kernel_shape(node)
    ones = [1] * len(spatial)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    totals = [
        max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        for size, kernel, stride, dilation in zip(spatial, window, strides, dilations, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    set_attributes(node, {"auto_pad": None, "pads": small + large if mode == "SAME_UPPER" else large + small})
    return True


def explicit_transposed(model: ir.Model) -> bool:
    """auto_pad and output_shape of ConvTranspose become pads and output_padding where the spatial size is known."""
    changed = [_plain_transposed(node) for node in model.graph if node.op_type == "ConvTranspose"]
    return any(changed)


def _plain_transposed(node: ir.Node) -> bool:
    """ONNX ConvTranspose-11: the padding that gives the asked size, the odd element at the end for SAME_UPPER, at the start otherwise.

    A size beyond what the windows cover is an output_padding; one as large as a step is left, onnxruntime cannot run it.
    """
    mode, asked, source = attribute(node, "auto_pad", "NOTSET"), attribute(node, "output_shape"), node.inputs[0]
    sizes = list(source.shape)[2:] if source is not None and source.shape is not None else []
    if (mode == "NOTSET" and not asked) or not sizes or not all(isinstance(size, int) for size in sizes):
        return False
    if mode == "VALID" and not asked:
        set_attributes(node, {"auto_pad": None, "pads": None})
        return True
    kernel, ones = attribute(node, "kernel_shape") or _kernel_shape(node), [1] * len(sizes)
    strides, dilations = attribute(node, "strides") or ones, attribute(node, "dilations") or ones
    extra = attribute(node, "output_padding") or [0] * len(sizes)
    wanted = asked[-len(sizes) :] if asked else [size * stride for size, stride in zip(sizes, strides, strict=True)]
    spans = [stride * (size - 1) + (k - 1) * d + 1 for size, stride, k, d in zip(sizes, strides, kernel, dilations, strict=True)]
    totals = [max(span + more - out, 0) for span, more, out in zip(spans, extra, wanted, strict=True)]
    beyond = [out - span + total for out, span, total in zip(wanted, spans, totals, strict=True)]
    if any(more >= max(stride, d) for more, stride, d in zip(beyond, strides, dilations, strict=True)):
        return False
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = small + large if mode == "SAME_UPPER" else large + small
    set_attributes(node, {"auto_pad": None, "output_shape": None, "pads": pads, "output_padding": beyond if any(beyond) else None})
    return True


def _kernel_shape(node: ir.Node) -> list[int]:
    shape = known_shape(node.inputs[1])
    if shape is None:
        raise HubError(f"{label(node)} has no kernel_shape and weights of unknown shape", "export the student with constant weights")
    return list(shape[2:])


def no_auto_pad(model: ir.Model) -> str | None:
    left = [node for node in model.graph if node.op_type in _PADDED and attribute(node, "auto_pad", "NOTSET") != "NOTSET"]
    return f"{label(left[0])} keeps auto_pad" if left else None
