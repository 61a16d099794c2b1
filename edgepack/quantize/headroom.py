"""Room above what calibration saw, for the graph's outputs: an output that saturates loses the order of what it tells apart.

Inside a network a clipped extreme is one of many numbers that a later layer sums. At an output it is the answer: scores that all read the
largest code name the first class, not the best. EfficientNet-Lite0 over 66 calibration crops reaches a score of 9.1; others reach 12.7, and
12 of 20 photographs of a cat changed their class for that alone.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgepack.calibration.observe import Range, Ranges
from edgepack.quantize.placement import activation_range

if TYPE_CHECKING:
    import onnx_ir as ir

# The output's own codes get 1.5 times as coarse, 20 log10 1.5 = 3.5 dB on the last rounding of a network, one of dozens. In exchange a set
# of samples may reach half as far again as the calibration set did, on both sides.
HEADROOM = 1.5
# Codes beyond this are no numbers on a target that computes in fp16.
_LARGEST_HALF = float(np.finfo(np.float16).max)
# Operators that bound their outputs by themselves: what was observed is at most that bound already.
_BOUNDED = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0)}


def with_headroom(ranges: Ranges, graph: ir.Graph) -> Ranges:
    """The ranges with those of the graph's outputs widened, as far as their operators can reach at all."""
    wider = {output.name or "": bounds_of(output) for output in graph.outputs if (output.name or "") in ranges.tensors}
    return Ranges(ranges.samples, {name: _widened(held, wider[name]) if name in wider else held for name, held in ranges.tensors.items()})


def bounds_of(value: ir.Value) -> tuple[float, float]:
    """The smallest and largest number that the operator which makes a value can give, infinite where it has no bound."""
    node = value.producer()
    if node is None:
        return -inf, inf
    return _BOUNDED.get(node.op_type) or activation_range(node) or (-inf, inf)


def _widened(held: Range, bounds: tuple[float, float]) -> Range:
    low, high, mse_low, mse_high = (_further(number, bounds) for number in msgspec.structs.astuple(held))
    return Range(min(low, held.minimum), max(high, held.maximum), min(mse_low, held.mse_minimum), max(mse_high, held.mse_maximum))


def _further(number: float, bounds: tuple[float, float]) -> float:
    """A bound of a range, moved away from zero; never beyond what its operator gives or, if it was not there already, what fp16 holds."""
    reach = max(min(abs(number) * HEADROOM, _LARGEST_HALF), abs(number))
    return float(np.clip(np.copysign(reach, number), min(bounds[0], number), max(bounds[1], number)))
