"""The smallest part of a graph that still fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx

from tests.fuzz.builder import Graph, Value, described
from tests.fuzz.oracle import Arrays, all_values

Fails = Callable[[Graph], bool]
# A failing graph has a dozen nodes at most; each try takes a tenth of a second.
_MOST_TRIES = 60


def shrink(graph: Graph, fails: Fails) -> Graph:
    """Drop outputs and turn what nodes compute into inputs, while ``fails`` says that the rest fails still."""
    tries = 0
    smaller = _parts(graph)
    while (part := next(smaller, None)) is not None and tries < _MOST_TRIES:
        tries += 1
        if fails(part):
            graph, smaller = part, _parts(part)
    return graph


def _parts(graph: Graph) -> Iterator[Graph]:
    """The graph with one output only, each node's result as the only output, then with each node's result as an input."""
    known = all_values(graph.model, graph.feed)
    outputs = [output.name for output in graph.model.graph.output]
    if len(outputs) > 1:
        yield from (part for name in outputs if (part := _between(graph, known, set(), [name])))
    written = [name for node in graph.model.graph.node for name in node.output if name and name not in outputs]
    yield from (part for name in written if len(outputs) == 1 and (part := _between(graph, known, set(), [name])))
    yield from (part for name in reversed(written) if (part := _between(graph, known, {name}, outputs)))


def _between(graph: Graph, known: Arrays, given: set[str], wanted: list[str]) -> Graph | None:
    """The nodes that lead to ``wanted`` when ``given`` is fed; None when nothing was lost."""
    held, names, kept = graph.model.graph, set(wanted), []
    for node in reversed(held.node):
        if names & (set(node.output) - given):
            kept.insert(0, node)
            names |= set(node.input)
    if not kept or (len(kept) == len(held.node) and len(wanted) == len(held.output) and not given):
        return None
    written = {name for node in kept for name in node.output} - given
    constants = {tensor.name for tensor in held.initializer}
    fed = [name for name in known if name in names and name not in written and name not in constants]
    if given and len(kept) == len(held.node):
        return None
    part = onnx.helper.make_graph(
        kept,
        held.name,
        [described(Value(name, known[name])) for name in fed],
        [described(Value(name, known[name])) for name in wanted],
        [tensor for tensor in held.initializer if tensor.name in names],
    )
    model = onnx.helper.make_model(part, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)
    return Graph(model, {name: known[name] for name in fed})
