"""A rewrite and its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepack.hub.graph import HubError

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
