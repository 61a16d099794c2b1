"""Loops, scans and branches that only a run decides, each with feeds that show what could go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

_HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
# Nodes that a loop of these cases may become, in place of control.MOST_NODES: less than any would.
LONGEST = 50
_RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class Case:
    """A model and its feeds; every input has at least one axis, as Core ML wants."""

    text: str
    feeds: tuple[dict[str, Any], ...]
    weights: dict[str, Any]

    @property
    def model(self) -> onnx.ModelProto:
        """The model with its weights."""
        parsed = onnx.parser.parse_model(_HEAD + self.text)
        parsed.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in self.weights.items())
        return parsed


def _real(*numbers: float) -> Any:
    return np.asarray(numbers, np.float32)


def _normal(*shape: int) -> Any:
    return _RNG.standard_normal(shape).astype(np.float32)


# Square roots: no count ends it, only that the step is small; it may be false at first.
NEWTON = Case(
    """g (float[4] a, float[1] start) => (float[4] y, int64[1] rounds)
    {
        flat = Reshape (start, none)  first = Greater (flat, zero)
        root, count = Loop (most, first, a, nothing) <
            body = b (int64 i, bool c, float[4] x, int64 n) => (bool goes_on, float[4] x2, int64 n2)
            { q = Div (a, x)  s = Add (q, x)  x2 = Mul (s, half)  d = Sub (x2, x)  e = Abs (d)  m = ReduceMax <keepdims = 0> (e)
              goes_on = Greater (m, small)  n2 = Add (n, one) }
        >
        y = Mul (root, half)  rounds = Reshape (count, one_axis)
    }""",
    tuple(
        {"a": _real(*numbers), "start": _real(start)} for numbers, start in (((2, 9, 100, 0.5), 1), ((2, 9, 100, 0.5), -1), ((1,) * 4, 1))
    ),
    {
        "most": np.asarray(2**63 - 1),
        "nothing": np.asarray(0),
        "one": np.asarray(1),
        "zero": np.asarray(0, np.float32),
        "half": np.asarray(0.5, np.float32),
        "small": np.asarray(1e-3, np.float32),
        "none": np.zeros(0, np.int64),
        "one_axis": np.asarray([1]),
    },
)

# A count of run time, a weight and a value of the outer graph in the body, and two states that change places.
COUNTED = Case(
    """g (float[1,6] x, int64[1] count, float[2] p, float[2] q) => (float[1,6] y, float[2] first, float[2] second)
    {
        begin = Relu (x)
        y, first, second = Loop (count, , begin, p, q) <
            body = b (int64 i, bool c, float[1,6] s, float[2] u, float[2] v) => (bool c2, float[1,6] s2, float[2] v2, float[2] u2)
            { c2 = Identity (c)  m = MatMul (s, w)  t = Tanh (m)  s2 = Add (t, x)  v2 = Identity (v)  u2 = Identity (u) }
        >
    }""",
    tuple({"x": _normal(1, 6), "count": np.asarray([count]), "p": _real(1, 2), "q": _real(3, 4)} for count in (3, 0, 1, -2, 20)),
    {"w": _normal(6, 6)},
)

# A loop as long as the outer one's number in a loop, a truth value that is carried, and a branch that reads beyond its table when it
# is not taken.
NESTED = Case(
    """g (float[3] x, int64[1] count, float[1] sign) => (float[3] y, int32[1] last)
    {
        flag = Greater (sign, zero)
        y, end = Loop (count, , x, flag) <
            body = b (int64 i, bool c, float[3] s, bool[1] f) => (bool goes_on, float[3] s2, bool[1] f2)
            {
                z = Loop (i, , s) <
                    body = inner (int64 j, bool c3, float[3] t) => (bool c4, float[3] t2) { c4 = Identity (c3)  t2 = Add (t, s) }
                >
                s2 = If (f) <
                    then_branch = taken () => (float[3] a) { a = Neg (z) },
                    else_branch = other () => (float[3] b) { n = Gather (table, i)  r = Cast <to = 1> (n)  b = Mul (z, r) }
                >
                f2 = Not (f)  sum = ReduceSum <keepdims = 0> (s2)  goes_on = Less (sum, limit)
            }
        >
        last = Cast <to = 6> (end)
    }""",
    tuple({"x": _real(1, 2, -0.5), "count": np.asarray([count]), "sign": _real(sign)} for count, sign in ((3, 1), (0, 1), (6, -1), (5, 1))),
    {"zero": np.asarray(0, np.float32), "limit": np.asarray(500, np.float32), "table": np.asarray([3, 1, 2, 2, 1])},
)

# A greedy decoder: the last token's embedding, a cell, the best token into its place; it ends at token 0 or when the tokens are full.
DECODER = Case(
    """g (float[1,8] x) => (int64[10] tokens, float[1,8] state, int64[1] last)
    {
        context = MatMul (x, w_in)
        last, state, tokens = Loop (length, , first, context, blank) <
            body = b (int64 i, bool c, int64[1] token, float[1,8] h, int64[10] written)
                => (bool goes_on, int64[1] best, float[1,8] h2, int64[10] written2)
            {
                e = Gather (table, token)  a = MatMul (e, w_x)  r = MatMul (h, w_h)  s = Add (a, r)  t = Add (s, context)  h2 = Tanh (t)
                logits = MatMul (h2, w_out)  best = ArgMax <axis = 1, keepdims = 0> (logits)
                place = Unsqueeze (i, axis)  written2 = ScatterElements <axis = 0> (written, place, best)
                ended = Equal (best, end)  open = Not (ended)  goes_on = Squeeze (open)
            }
        >
    }""",
    tuple({"x": _normal(1, 8)} for _ in range(6)),
    {
        **{name: 1.3 * _normal(*shape) for name, shape in {"table": (12, 8), "w_x": (8, 8), "w_h": (8, 8), "w_in": (8, 8)}.items()},
        "w_out": 1.3 * _normal(8, 12),
        "length": np.asarray(10),
        "first": np.asarray([1]),
        "blank": np.full(10, -1),
        "axis": np.asarray([0]),
        "end": np.asarray(0),
    },
)

# Images in a body, as many rounds as a run says.
IMAGES = Case(
    """g (float[1,3,5,5] x, int64[1] count) => (float[1,3,5,5] y)
    {
        begin = Conv <pads = [1,1,1,1]> (x, outer)
        end = Loop (count, , begin) <
            body = b (int64 i, bool c, float[1,3,5,5] s) => (bool goes_on, float[1,3,5,5] s2)
            { k = Conv <pads = [1,1,1,1]> (s, inner)  r = Relu (k)  s2 = Add (r, x)  m = ReduceMean <keepdims = 0> (s2)
              goes_on = Less (m, limit) }
        >
        y = Conv <pads = [1,1,1,1]> (end, outer)
    }""",
    tuple({"x": _normal(1, 3, 5, 5), "count": np.asarray([count])} for count in (0, 2, 12)),
    {"inner": 0.2 * _normal(3, 3, 3, 3), "outer": _normal(3, 3, 3, 3), "limit": np.asarray(3, np.float32)},
)

# Rows of every round of a loop that is not written out (LONGEST), real and whole ones.
ROWS = Case(
    """g (float[3] x) => (float[3] last, float[40,3] rows, int64[40] numbers)
    {
        last, rows, numbers = Loop (count, , x) <
            body = b (int64 i, bool c, float[3] s) => (bool c2, float[3] s2, float[3] row, int64 number)
            { c2 = Identity (c)  s2 = Mul (s, factor)  row = Sin (s2)  number = Mul (i, two) }
        >
    }""",
    ({"x": _real(1, -2, 30)},),
    {"count": np.asarray(40), "factor": np.asarray(0.95, np.float32), "two": np.asarray(2)},
)

# A scan that is not written out, from behind and from in front.
SCANNED = Case(
    """g (float[2] x, float[2,40] p, float[40,2] q) => (float[2] last, float[2,40] rows, float[40,2] turned)
    {
        above = Relu (x)
        last, rows, turned = Scan (x, p, q) <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
            scan_output_axes = [1, 0], scan_output_directions = [0, 1],
            body = b (float[2] s, float[2] a, float[2] b) => (float[2] s2, float[2] row, float[2] turn)
            { m = Mul (s, half)  s2 = Add (m, a)  row = Mul (s2, b)  turn = Sub (s2, above) }
        >
    }""",
    ({"x": _real(1, -2), "p": _normal(2, 40), "q": _normal(40, 2)},),
    {"half": np.asarray(0.5, np.float32)},
)

# A loop in a branch.
BRANCH = Case(
    """g (float[2,3] x, int64[1] count, float[1] sign) => (float[3,2] y)
    {
        flag = Greater (sign, zero)  columns = Transpose (x)
        y = If (flag) <
            then_branch = taken () => (float[3,2] a)
            {
                z = Loop (count, , x) <
                    body = b (int64 j, bool c, float[2,3] t) => (bool c2, float[2,3] t2) { c2 = Identity (c)  t2 = Mul (t, factor) }
                >
                a = Transpose (z)
            },
            else_branch = other () => (float[3,2] b) { row = Gather (columns, count)  b = Expand (row, shape) }
        >
    }""",
    tuple(
        {"x": _normal(2, 3), "count": np.asarray([count]), "sign": _real(sign)}
        for count, sign in ((2, 1), (0, 1), (5, 1), (1, -1), (2, -1))
    ),
    {"zero": np.asarray(0, np.float32), "factor": np.asarray(1.5, np.float32), "shape": np.asarray([3, 2])},
)

CASES = {
    "until the step is small": NEWTON,
    "as often as an input says": COUNTED,
    "a loop and a branch in a loop": NESTED,
    "a decoder": DECODER,
    "images": IMAGES,
    "a loop that collects rows": ROWS,
    "a long scan": SCANNED,
    "a loop in a branch": BRANCH,
}
