"""A rewrite and its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import HubError
from edgepack.hub.passes.editing import initializer

if TYPE_CHECKING:
    import onnx_ir as ir

Condition = Callable[["ir.Model"], str | None]


@dataclass(frozen=True)
class Outcome:
    """Whether a rewrite changed the model."""

    modified: bool


@dataclass(frozen=True)
class Rewrite:
    """A rewrite with its contract.

    Attributes:
        name: as messages and packs name it.
        apply: rewrites in place and says whether anything changed.
        requires, ensures: what must hold before and after; each answers what does not hold, or None.
    """

    name: str
    apply: Callable[[ir.Model], bool]
    requires: Condition = lambda model: None
    ensures: Condition = lambda model: None

    def __call__(self, model: ir.Model) -> Outcome:
        """Apply between the two conditions; HubError naming this rewrite when one does not hold."""
        self._demand(self.requires(model), "needs")
        names = [value.name or "" for value in model.graph.outputs]
        modified = self.apply(model)
        _keep_output_names(model.graph, names)
        _compute_outputs(model.graph)
        self._demand(self.ensures(model), "did not leave")
        return Outcome(modified)

    def _demand(self, broken: str | None, verb: str) -> None:
        if broken:
            raise HubError(f"rewrite {self.name} {verb} what it must: {broken}", "report this model")


def _keep_output_names(graph: ir.Graph, names: list[str]) -> None:
    """Outputs keep their names and number when a pass finds that two of them are one value: the second becomes an Identity."""
    import onnx_ir as ir

    kept: set[int] = set()
    for index, name in enumerate(names):
        value = graph.outputs[index]
        if id(value) in kept:
            copy = ir.node("Identity", [value], name=f"Identity_{name}")
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            graph.outputs[index] = value = copy.outputs[0]
        kept.add(id(value))
        if value.name != name:
            value.name = name


# The attribute of a Constant node, and the type of its numbers where it is no tensor (ONNX Constant-21).
_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def _compute_outputs(graph: ir.Graph) -> None:
    """An output that no input changes (a detector's anchors) is an Identity of an initializer: backends give what is computed."""
    import onnx_ir as ir

    for value in list(graph.outputs):
        producer, name = value.producer(), value.name or ""
        array = _constant_of(value)
        if array is None:
            continue
        held = initializer(graph, f"{name}/constant", array)
        copy = ir.node("Identity", [held], name=f"Identity_{name}")
        copy.outputs[0].type, copy.outputs[0].shape = held.type, held.shape
        graph.append(copy)
        value.replace_all_uses_with(copy.outputs[0], replace_graph_outputs=True)
        graph.initializers.pop(name, None)
        if producer is not None:
            graph.remove(producer, safe=True)
        copy.outputs[0].name = name


def _constant_of(value: ir.Value) -> NDArray[Any] | None:
    """The numbers of an initializer, or of a Constant node that no pass lifted because its output is the model's."""
    producer = value.producer()
    if producer is None:
        return None if value.const_value is None else np.asarray(value.const_value.numpy())
    if producer.op_type != "Constant":
        return None
    held = producer.attributes.get("value")
    if held is not None:
        return np.asarray(held.as_tensor().numpy())
    numbers = {name: producer.attributes[name].value for name in _NUMBERS if name in producer.attributes}
    return next((np.asarray(given, _NUMBERS[name]) for name, given in numbers.items()), None)
