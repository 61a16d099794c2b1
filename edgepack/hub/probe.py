"""Probing: a hub with open sizes, pinned at several of them, for formats whose writers need every size known.

What is equal at all probes holds for the whole range; what differs must be explained by whoever joins them. Probes are sizes of 2 or
more, since a size of 1 hides things (an axis that is moved for nothing, a broadcast), two of them neighbours, since windows round, and
where possible no sizes that the model has of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepack.hub.graph import HubError
from edgepack.hub.pin import pinned, symbols

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = tuple[int, ...]
Ranges = Mapping[str, tuple[int, int]]
# Two tell a line, a third whether it is one.
_FEWEST = 3


@dataclass(frozen=True)
class Probe:
    """A hub with every size known: ``sizes`` of the open symbols, the static ``model``."""

    sizes: Mapping[str, int]
    model: ir.Model


def probes(model: ir.Model, example: Mapping[str, Shape], sizes: Ranges) -> list[Probe]:
    """The hub pinned at every one of ``assignments``; symbols that are not open get the example's size.

    Args:
        example: input name -> sizes of the example.
        sizes: open symbol -> (smallest, largest).

    Raises:
        HubError: the hub fixed a size that is declared open, or a range is too narrow to tell a rule from.
    """
    held = symbol_sizes(model, example)
    for symbol in sizes:
        if symbol not in held:
            raise HubError(f"the captured model has no symbol '{symbol}' in its inputs ({', '.join(symbols(model)) or 'none'})", _HINT)
    found = assignments({symbol: held[symbol] for symbol in sizes}, sizes, _own_sizes(model))
    return [Probe(chosen, pinned(model, shapes_at(model, {**held, **chosen}))) for chosen in found]


_HINT = "give the size a fixed value: leave it out of sizes"


def assignments(
    example: Mapping[str, int], sizes: Mapping[str, tuple[int, int]], own: frozenset[int] = frozenset()
) -> list[dict[str, int]]:
    """Sizes to probe at: symbol -> size, the base first, the largest of all last.

    Every symbol moves by itself while the others stay at the base, which is the example where that has no size of 1.

    Args:
        own: sizes that the model has whatever its inputs are; probes avoid them as far as they can.
    """
    moves = {symbol: _sizes_to_probe(symbol, example[symbol], held, own) for symbol, held in sizes.items()}
    base = {symbol: chosen[0] for symbol, chosen in moves.items()}
    moved = [{**base, symbol: size} for symbol, chosen in moves.items() for size in chosen[1:]]
    largest = {symbol: high for symbol, (_, high) in sizes.items()}
    return [held for held in [base, *moved] if held != largest] + [largest]


def _sizes_to_probe(symbol: str, example: int, held: tuple[int, int], own: frozenset[int]) -> list[int]:
    """Sizes of one symbol, the base first: the example's, three from the lower middle of the range, and the largest.

    Two are neighbours: what rounds by any step but 1 is no line through both and a third.
    """
    low, high = max(held[0], 2), held[1]
    if high - low + 1 < _FEWEST:
        cause = f"'{symbol}' is open from {held[0]} to {held[1]}, which leaves fewer than {_FEWEST} sizes above 1 to try"
        raise HubError(cause, "widen the range, or " + _HINT)
    start = low + (high - low) // 3
    # A window of the range is enough: nobody needs to look at a million lengths of audio.
    nearby = [*range(start, min(high, start + 256)), *range(low, start)][:512]
    pairs = sorted(((size, size + 1) for size in nearby if size < high), key=lambda pair: sum(size in own for size in pair))
    third = next((size for size in sorted(nearby, key=lambda size: size in own) if size not in (*pairs[0], example, high)), high)
    return list(dict.fromkeys([*([example] if example > 1 else []), *pairs[0], third, high]))


def shapes_at(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Input name -> shape, where every symbol has the given size."""
    return {
        value.name or "": tuple(size if isinstance(size, int) else sizes[str(size.value)] for size in value.shape or ())
        for value in model.graph.inputs
    }


def symbol_sizes(model: ir.Model, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """What every symbol of the inputs is where they have these shapes."""
    pairs = (pair for value in model.graph.inputs for pair in zip(value.shape or (), shapes[value.name or ""], strict=True))
    return {str(dimension.value): int(size) for dimension, size in pairs if not isinstance(dimension, int)}


def _own_sizes(model: ir.Model) -> frozenset[int]:
    shapes = [value.shape for value in model.graph.initializers.values()]
    shapes += [value.shape for node in model.graph for value in node.outputs] + [value.shape for value in model.graph.inputs]
    return frozenset(size for shape in shapes for size in shape or () if isinstance(size, int))
