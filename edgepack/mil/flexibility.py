"""Which shapes a package takes for an input (FeatureTypes.proto, ArrayFeatureType.ShapeFlexibility)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# An upper bound that stands for none.
_UNBOUNDED = -1


@dataclass(frozen=True)
class Flexibility:
    """Either a range of sizes for each dimension, smallest and largest (-1: any), or a list of shapes."""

    ranges: tuple[tuple[int, int], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    def allows(self, shape: Sequence[int]) -> bool:
        """Whether an input may have this shape."""
        if self.shapes:
            return tuple(shape) in self.shapes
        inside = [low <= size and high in (_UNBOUNDED, max(size, high)) for size, (low, high) in zip(shape, self.ranges, strict=False)]
        return len(shape) == len(self.ranges) and all(inside)

    def __str__(self) -> str:
        if self.shapes:
            return " or ".join(map(str, self.shapes))
        sizes = (str(low) if low == high else f"{low} to {'any' if high == _UNBOUNDED else high}" for low, high in self.ranges)
        return f"({', '.join(sizes)})"


def flexibility_of(feature: Any) -> Flexibility | None:
    """What a feature type says of the shapes it takes; None when it is the one shape, or no multi-array."""
    if feature.WhichOneof("Type") != "multiArrayType":
        return None
    array = feature.multiArrayType
    match array.WhichOneof("ShapeFlexibility"):
        case "shapeRange":
            return Flexibility(ranges=tuple((held.lowerBound, held.upperBound) for held in array.shapeRange.sizeRanges))
        case "enumeratedShapes":
            return Flexibility(shapes=tuple(tuple(held.shape) for held in array.enumeratedShapes.shapes))
    return None
