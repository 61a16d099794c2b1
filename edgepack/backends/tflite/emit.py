"""The emitter: turns what lowerings say in hub terms into operator calls over artifact tensors.

It owns names, constants, the movement between layouts and the meeting of codes and reals. It knows TFLite's format; the lowerings know
ONNX's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.table import BackendError
from edgepack.backends.tflite.layout import Layout, Shape, channels_last, regroup
from edgepack.backends.tflite.program import Call, Options, Program, Tensor, View
from edgepack.backends.tflite.runtimes import OldRuntime
from edgepack.quantize.encoding import Encoding, codes_as_int8
from edgepack.quantize.fold import FoldedGraph, Operand, Operation
from edgepack.quantize.scheme import Scheme

ACTIVATIONS = {"": "NONE", "Relu": "RELU", "Relu6": "RELU6", "ReluN1To1": "RELU_N1_TO_1"}

# Below this many numbers a constant stays float32 under fp16: a bias saves nothing and would cost a DEQUANTIZE.
_HALF_PRECISION_FROM = 64


def stored_dtype(dtype: str) -> str:
    """The artifact's type for a hub type: TFLite's kernels take int32 where ONNX has int64."""
    return "int32" if dtype == "int64" else dtype


# Writes a graph inside an operation, as the emitter of the graph around it is set.
Block = Callable[[FoldedGraph, "Emitter"], Program]


class Emitter:
    """Collects the calls of one artifact.

    Args:
        scheme: what the hub carries; fp16 stores float weights in half.
        runtime: an old one that must run it, None for today's.
        block: writes a graph inside an operation as a program of its own.
        images_are_open: images may have other sizes than those that are written down.
    """

    def __init__(
        self, scheme: Scheme, runtime: OldRuntime | None = None, block: Block | None = None, images_are_open: bool = False
    ) -> None:
        self.scheme, self.runtime, self._block, self.images_are_open = scheme, runtime, block, images_are_open
        self._calls: list[Call] = []
        self._bound: dict[str, View] = {}
        self._names: set[str] = set()
        # With the array itself, whose address tells it from others only as long as it lives.
        self._weights: dict[tuple[str, Shape, int, bool], tuple[NDArray[Any], View]] = {}
        self._ordered: dict[tuple[Tensor, Shape, Shape], View] = {}

    # Tensors

    def bind(self, name: str, view: View) -> None:
        """Say where the hub's value ``name`` lies."""
        self._bound[name] = view

    def take(self, operand: Operand | None) -> View:
        """Where an input lies; a constant is laid out plain, and codes stay codes."""
        if operand is None:
            raise BackendError("tflite: a required input is missing", "check the model with onnx.checker")
        if operand.name in self._bound:
            return self._bound[operand.name]
        if operand.constant is None:
            raise BackendError(f"tflite: value '{operand.name}' is read before it is written", "sort the model topologically")
        return self.constant(operand.name, operand.constant, operand.encoding)

    def constant(self, name: str, data: NDArray[Any], encoding: Encoding | None = None) -> View:
        """A constant in plain layout; uint8 codes become int8, int64 becomes int32."""
        data = codes_as_int8(data) if encoding is not None else _narrowed(name, data)
        tensor = Tensor(self._unique(name), str(data.dtype), data.shape, encoding.as_int8() if encoding else None, data)
        return View(tensor, Layout.plain(data.shape))

    def scalar(self, value: float, like: View) -> View:
        """A constant of one element and the type of ``like``."""
        return self.constant("scalar", np.full(1, value, like.tensor.dtype))

    def indices(self, name: str, values: Sequence[int] | int) -> View:
        """An int32 constant: axes, shapes, sizes."""
        return self.constant(name, np.asarray(values, np.int64))

    def output(self, operand: Operand, layout: Layout, activation: str = "") -> View:
        """A new tensor for an operation's output."""
        encoding = operand.encoding.as_int8() if operand.encoding is not None else None
        dtype = encoding.dtype if encoding is not None else stored_dtype(operand.dtype)
        return View(Tensor(self._unique(operand.name), dtype, layout.stored, encoding), layout, activation in ("Relu", "Relu6"))

    def like(self, view: View, layout: Layout, purpose: str) -> View:
        """A new tensor of the type and encoding of ``view`` in another layout."""
        return View(replace(view.tensor, name=self._unique(f"{view.tensor.name}/{purpose}"), shape=layout.stored, data=None), layout)

    def _unique(self, name: str) -> str:
        candidates = (name if count == 0 else f"{name}_{count}" for count in range(len(self._names) + 1))
        chosen = next(candidate for candidate in candidates if candidate not in self._names)
        self._names.add(chosen)
        return chosen

    # Calls

    def run(self, operator: str, inputs: Sequence[View | None], output: View, options: Options | None = None) -> View:
        """Write one call with one output; returns ``output``."""
        self.run_many(operator, inputs, [output], options)
        return output

    def run_many(self, operator: str, inputs: Sequence[View | None], outputs: Sequence[View], options: Options | None = None) -> None:
        """Write one call; operands that the runtime cannot broadcast are spread first."""
        if self.runtime is not None and self.runtime.needs_equal_shapes(operator, len(outputs[0].stored)):
            inputs = [self._spread(view, outputs[0].stored) for view in inputs]
        tensors = tuple(None if view is None else view.tensor for view in inputs)
        self._calls.append(Call(operator, tensors, tuple(view.tensor for view in outputs), options))

    def run_blocks(
        self, operator: str, inputs: Sequence[View], outputs: Sequence[View], options: Options, graphs: Sequence[FoldedGraph]
    ) -> None:
        """Write one call that runs other graphs."""
        assert self._block is not None
        blocks = tuple(self._block(graph, self) for graph in graphs)
        read, written = (tuple(view.tensor for view in views) for views in (inputs, outputs))
        self._calls.append(Call(operator, read, written, options, blocks))

    def _spread(self, view: View | None, shape: Shape) -> View | None:
        if view is None or view.stored == shape:
            return view
        whole = self.like(view, Layout.plain(shape), "spread")
        return self.run("BROADCAST_TO", [view, self.indices("shape", shape)], whole, Options("BroadcastToOptions"))

    def unary(self, operator: str, x: View, purpose: str = "", options: Options | None = None) -> View:
        """An elementwise step inside a lowering that takes several."""
        return self.run(operator, [x], self.like(x, x.layout, purpose or operator.lower()), options)

    def binary(self, operator: str, x: View, y: View, options: Options | None = None) -> View:
        """An elementwise step of ``x`` with a scalar or with a tensor that lies alike."""
        return self.run(operator, [x, y], self.like(x, x.layout, operator.lower()), options or arithmetic(operator))

    def truth(self, operator: str, x: View, y: View) -> View:
        """A comparison of ``x`` with a scalar or with a tensor that lies alike."""
        held = replace(self.like(x, x.layout, operator.lower()).tensor, dtype="bool", encoding=None)
        return self.run(operator, [x, y], View(held, x.layout), comparison(operator))

    def made_since(self, count: int) -> list[Tensor]:
        """What the calls after the first ``count`` write."""
        return [tensor for call in self._calls[count:] for tensor in call.outputs]

    @property
    def count(self) -> int:
        """How many calls there are."""
        return len(self._calls)

    # Layout

    def ordered(self, view: View, order: Shape) -> View:
        """The same hub tensor with its axes in ``order``; moves data only when the bytes differ."""
        wanted = Layout(view.shape, order)
        if view.layout.merged:
            return self.ordered(self.regrouped(view), order)
        if view.layout == wanted:
            return view
        if view.is_constant:
            return self._reordered_constant(view, wanted)
        key = (view.tensor, view.layout.order, order)
        if key not in self._ordered:
            self._ordered[key] = self._moved(view, wanted)
        return self._ordered[key]

    def plain(self, view: View) -> View:
        """The tensor as the hub has it."""
        return self.ordered(view, tuple(range(len(view.shape))))

    def image(self, view: View) -> View:
        """The tensor with channels last."""
        return self.ordered(view, channels_last(len(view.shape)))

    def _moved(self, view: View, wanted: Layout) -> View:
        if view.layout.data_order == wanted.data_order:
            return self.reread(view, wanted)
        permutation = [view.layout.order.index(axis) for axis in wanted.order]
        moved = self.like(view, wanted, "transposed")
        return self.run("TRANSPOSE", [view, self.indices("permutation", permutation)], moved, Options("TransposeOptions"))

    def _reordered_constant(self, view: View, wanted: Layout) -> View:
        assert view.tensor.data is not None
        permutation = [view.layout.order.index(axis) for axis in wanted.order]
        data = np.ascontiguousarray(view.tensor.data.transpose(permutation))
        encoding = view.encoding
        if encoding is not None and encoding.axis is not None:
            encoding = replace(encoding, axis=permutation.index(encoding.axis))
        return View(Tensor(self._unique(view.tensor.name), str(data.dtype), data.shape, encoding, data), wanted)

    def reread(self, view: View, layout: Layout, name: str = "") -> View:
        """The same bytes under another layout: a renaming where the stored shape stays, a RESHAPE where it changes."""
        if view.stored == layout.stored:
            return View(view.tensor, layout, view.non_negative)
        if view.tensor.data is not None:
            tensor = replace(
                view.tensor, name=self._unique(view.tensor.name), shape=layout.stored, data=view.tensor.data.reshape(layout.stored)
            )
            return View(tensor, layout)
        reread = self.like(view, layout, "reshaped")
        if name:
            reread = replace(reread, tensor=replace(reread.tensor, name=self._unique(name)))
        options = Options("ReshapeOptions", {"newShape": list(layout.stored)})
        return replace(self.run("RESHAPE", [view, self.indices("shape", layout.stored)], reread, options), non_negative=view.non_negative)

    def reshaped(self, view: View, shape: Shape, name: str = "") -> View:
        """ONNX Reshape of the hub tensor: a renaming or a RESHAPE where the data order allows, after a TRANSPOSE where it does not.

        A flattened image keeps its channels-last features (``Layout.merged``): whoever needs the hub's order asks for it.
        """
        if view.layout.merged:
            return self.reshaped(self.plain(view), shape, name)
        wanted = regroup(view.layout, shape)
        if Layout(view.shape, wanted.before).data_order == view.layout.data_order:
            return self.reread(view, wanted.after, name)
        if len(shape) == 2 and shape[0] == view.shape[0] and view.layout.order[0] == 0:
            return self.reread(view, Layout(view.shape, view.layout.order, merged=True), name)
        return self.reread(self.ordered(view, wanted.before), wanted.after, name)

    def regrouped(self, view: View) -> View:
        """A flattened image with its features back in the hub's order."""
        spread = self.reread(view, replace(view.layout, merged=False))
        return self.reread(self.plain(spread), Layout.plain(view.stored))

    # Codes and reals

    def real(self, view: View) -> View:
        """The real numbers of a tensor of codes; a real tensor as it is."""
        if view.encoding is None:
            return view
        real = View(Tensor(self._unique(f"{view.tensor.name}/real"), "float32", view.stored), view.layout)
        return self.run("DEQUANTIZE", [view], real, Options("DequantizeOptions"))

    def weights(self, name: str, data: NDArray[Any], encoding: Encoding | None, keeps_codes: bool) -> View:
        """Weights in stored order for an integer or hybrid kernel (``keeps_codes``) or a float one (reals, kept as codes or halves).

        TFLite expands constant codes and halves once, when the interpreter starts, so that the file stays small.
        """
        # The steps of a recurrent layer read one weight many times.
        key = (name, data.shape, data.__array_interface__["data"][0], keeps_codes)
        if key not in self._weights:
            self._weights[key] = (data, self._stored_weights(name, data, encoding, keeps_codes))
        return self._weights[key][1]

    def _stored_weights(self, name: str, data: NDArray[Any], encoding: Encoding | None, keeps_codes: bool) -> View:
        if encoding is None and self.scheme.activations == "float16" and data.dtype == np.float32 and data.size >= _HALF_PRECISION_FROM:
            return self._halved(name, data)
        held = self.constant(name, data, encoding)
        return held if keeps_codes else self.real(held)

    def _halved(self, name: str, data: NDArray[Any]) -> View:
        with np.errstate(over="ignore"):
            half = data.astype(np.float16)
        if not np.isfinite(half).all():
            raise BackendError(f"tflite: weight '{name}' does not fit float16", "use scheme fp32 or w8a8 for this target")
        held = View(Tensor(self._unique(f"{name}/half"), "float16", half.shape, None, half), Layout.plain(half.shape))
        real = View(Tensor(self._unique(name), "float32", half.shape), held.layout)
        return self.run("DEQUANTIZE", [held], real, Options("DequantizeOptions"))

    # The whole

    def copy(self, view: View, name: str) -> View:
        """A tensor of its own with the same contents, for an output that would otherwise share one."""
        copied = View(replace(view.tensor, name=self._unique(name), data=None), view.layout)
        options = Options("ReshapeOptions", {"newShape": list(view.stored)})
        return self.run("RESHAPE", [view, self.indices("shape", view.stored)], copied, options)

    def program(self, inputs: Sequence[tuple[str, View]], outputs: Sequence[tuple[str, View]], metadata: dict[str, bytes]) -> Program:
        """Everything the outputs need, in execution order."""
        needed = {view.tensor for _, view in outputs}
        calls: list[Call] = []
        for call in reversed(self._calls):
            if not needed.isdisjoint(call.outputs):
                needed.update(tensor for tensor in call.inputs if tensor is not None)
                calls.append(call)
        ends = [tuple((name, view.tensor) for name, view in pairs) for pairs in (inputs, outputs)]
        return Program(ends[0], ends[1], tuple(reversed(calls)), metadata)

    def layouts(self, program: Program) -> dict[str, list[str]]:
        """The hub values that lie in a computed tensor of their own name, by the order of their axes ("0,2,3,1").

        Whoever compares values inside an artifact needs it: the order of the axes cannot be told from the shape.
        """
        computed = {tensor for call in program.calls for tensor in call.outputs}
        held: dict[str, list[str]] = {}
        for name, view in self._bound.items():
            if view.tensor in computed and view.tensor.name == name and not view.layout.merged:
                held.setdefault(",".join(map(str, view.layout.order)), []).append(name)
        return held


def arithmetic(operator: str, activation: str = "") -> Options | None:
    """The options table of a two-operand elementwise operator, None for one without."""
    table = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}.get(operator)
    if table is None:
        return {"MAXIMUM": Options("MaximumMinimumOptions"), "MINIMUM": Options("MaximumMinimumOptions")}.get(operator)
    return Options(table, {"fusedActivationFunction": ACTIVATIONS[activation]})


def comparison(operator: str) -> Options:
    """The options table of a comparison: EQUAL -> EqualOptions, LESS_EQUAL -> LessEqualOptions."""
    return Options("".join(word.capitalize() for word in operator.split("_")) + "Options")


def is_integer(operation: Operation) -> bool:
    """Whether the operation reads and writes codes."""
    return operation.outputs[0].encoding is not None


def keeps_weight_codes(operation: Operation) -> bool:
    """Whether the kernel multiplies by weight codes: an integer one, or a hybrid one that ranges its real activations at run time.

    XNNPACK has no hybrid kernel for groups.
    """
    return is_integer(operation) or (operation.dynamic and operation.attributes.get("group", 1) == 1)


def _narrowed(name: str, data: NDArray[Any]) -> NDArray[Any]:
    if data.dtype != np.int64:
        # np.ascontiguousarray would give a scalar an axis.
        return np.asarray(data, order="C")
    limits = np.iinfo(np.int32)
    if data.size and (data.min() < limits.min or data.max() > limits.max):
        raise BackendError(
            f"tflite: constant '{name}' holds {data.min()}..{data.max()}, beyond int32", "keep integer constants within int32"
        )
    return data.astype(np.int32)
