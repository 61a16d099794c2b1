"""MaxPool, AveragePool -> max_pool, avg_pool; the global pools -> reductions."""

from __future__ import annotations

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.geometry import ATTRIBUTES, Window
from edgepack.backends.coreml.table import lowers, only, required, single_output
from edgepack.quantize.fold import Operation


def _window(operation: Operation) -> tuple[Window, tuple[int, ...]]:
    """The window, and how far it reaches past the padded input."""
    spatial = required(operation, 0).shape[2:]
    window = Window.of(operation, spatial, tuple(operation.attributes["kernel_shape"]))
    return window, window.overhang(spatial, operation.outputs[0].shape[2:])


def _spatial(operation: Operation) -> tuple[str, str] | None:
    rank = required(operation, 0).rank
    return None if rank in (3, 4) else (f"pools {rank - 2} spatial dimensions", "use a 1-D or 2-D pool")


def _counted_overhang(operation: Operation) -> tuple[str, str] | None:
    """With ceil_mode the last window reaches past the padding; what it finds there must not count, and MIL's padding all counts."""
    if not operation.attributes.get("count_include_pad", 0) or not any(_window(operation)[1]):
        return None
    return "ceil_mode with count_include_pad has no exact form", "set count_include_pad or ceil_mode to False in the student"


_FORMS = (only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), only("dilations", 1), _spatial)


@lowers("MaxPool", honours=ATTRIBUTES | {"ceil_mode", "storage_order"}, objects=(single_output, *_FORMS))
def max_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX MaxPool-12: padding never wins in either, so ``ceil_mode`` is more padding at the end."""
    return _pool("max_pool", operation, emit)


@lowers("AveragePool", honours=ATTRIBUTES | {"ceil_mode", "count_include_pad"}, objects=(*_FORMS, _counted_overhang))
def average_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX AveragePool-19; padding is left out of the mean unless ``count_include_pad``."""
    counts = bool(operation.attributes.get("count_include_pad", 0))
    return _pool("avg_pool", operation, emit, exclude_padding_from_average=not counts)


def _pool(kind: str, operation: Operation, emit: Emitter, **more: bool) -> Var:
    window, overhang = _window(operation)
    return emit(
        kind,
        x=emit.value(required(operation, 0)),
        kernel_sizes=list(window.kernel),
        strides=list(window.strides),
        pad_type="custom",
        pad=window.extended(overhang).interleaved,
        **more,
    )


@lowers("GlobalAveragePool")
def global_average_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX GlobalAveragePool-1: the mean over all spatial dimensions, which are kept with size 1."""
    return _reduce_spatial("reduce_mean", operation, emit)


@lowers("GlobalMaxPool")
def global_max_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX GlobalMaxPool-1."""
    return _reduce_spatial("reduce_max", operation, emit)


def _reduce_spatial(kind: str, operation: Operation, emit: Emitter) -> Var:
    x = required(operation, 0)
    return emit(kind, x=emit.value(x), axes=list(range(2, x.rank)), keep_dims=True)
