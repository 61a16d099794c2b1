"""Sizes that a program computes when it runs, each once: vectors of one int32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgepack.backends.coreml.emitter import Var
from edgepack.backends.coreml.probes import Line, Measure, Place


@dataclass
class RunTimeSizes:
    """Emits what sizes take into the function being built.

    Attributes:
        values: what was emitted for each place.
        symbols: where an open size is read: an input of the program, and its axis there.
    """

    values: Mapping[Place, Var]
    symbols: Mapping[str, tuple[Place, int]]
    lines: dict[Line, Var] = field(default_factory=dict)
    shapes: dict[Place, Var] = field(default_factory=dict)
    sizes: dict[tuple[Place, int], Var] = field(default_factory=dict)

    def on(self, line: Line) -> Var:
        """The value of a line."""
        if line not in self.lines:
            self.lines[line] = self._computed(line)
        return self.lines[line]

    def _computed(self, line: Line) -> Var:
        from coremltools.converters.mil.mil import Builder

        value = self._measured(line.measure)
        value = value if line.factor == 1 else Builder.mul(x=value, y=np.int32(line.factor))
        return value if line.offset == 0 else Builder.add(x=value, y=np.int32(line.offset))

    def _measured(self, measure: Measure) -> Var:
        from coremltools.converters.mil.mil import Builder

        if not measure.symbols:
            return self._size(measure.place, measure.axis)
        value, *others = (self._size(*self.symbols[symbol]) for symbol in measure.symbols)
        for other in others:
            value = Builder.mul(x=value, y=other)
        return value

    def _size(self, place: Place, axis: int) -> Var:
        """The size of a value along an axis."""
        from coremltools.converters.mil.mil import Builder

        if place not in self.shapes:
            self.shapes[place] = Builder.shape(x=self.values[place])
        if (place, axis) not in self.sizes:
            self.sizes[place, axis] = Builder.slice_by_size(x=self.shapes[place], begin=[axis], size=[1])
        return self.sizes[place, axis]
