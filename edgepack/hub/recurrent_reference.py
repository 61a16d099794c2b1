"""LSTM, GRU and RNN in numpy by their definition (ONNX LSTM-14, GRU-14, RNN-14), for the float64 run.

onnx 1.23's own evaluators ignore activations, clip, input_forget and sequence_lens. Written sequence by sequence, apart from the spelling
in edgepack/hub/passes/recurrent.py, so that each judges the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[[Array], Array]

# Name -> the function, and the defaults of alpha and beta (None where it has none).
_FUNCTIONS: dict[str, tuple[Callable[[Array, float, float], Array], float | None, float | None]] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "elu": (lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), 1.0, None),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "leakyrelu": (lambda x, a, b: np.where(x < 0, a * x, x), 0.01, None),
    "relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), None, None),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "tanh": (lambda x, a, b: np.tanh(x), None, None),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), 1.0, None),
}
# An LSTM's f and g are clipped, its h reads the cell as it is: so onnxruntime and OpenVINO read "applied to the input of activations".
_CELL = 2
_DEFAULTS: dict[str, tuple[str, ...]] = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


def operators() -> list[Any]:
    """The three as operators of onnx's evaluator."""
    from onnx.reference.op_run import OpRun

    def made(kind: str) -> Any:
        def run(self: Any, *tensors: Any, **attributes: Any) -> tuple[Array, ...]:
            return recurrent(kind, tensors, attributes)[: len(self.onnx_node.output)]

        return type(kind, (OpRun,), {"_run": run})

    return [made(kind) for kind in _DEFAULTS]


def recurrent(kind: str, tensors: tuple[Array | None, ...], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
    """Y, Y_h and, of an LSTM, Y_c.

    Args:
        kind: "LSTM", "GRU" or "RNN".
        tensors: X, W, R, B, sequence_lens, initial_h, initial_c, P; absent ones None or left out.
        attributes: the node's; absent ones None.
    """
    held: list[Array | None] = [*tensors, *[None] * (8 - len(tensors))]
    x, w, r, b, lengths, *others = held
    assert x is not None and w is not None and r is not None
    batchwise = bool(attributes.get("layout"))
    x = np.swapaxes(x, 0, 1) if batchwise else x
    states = [np.swapaxes(state, 0, 1) if batchwise and state is not None else state for state in others[:2]]
    steps, batch, count, hidden = x.shape[0], x.shape[1], w.shape[0], r.shape[-1]
    y = np.zeros((steps, count, batch, hidden), x.dtype)
    lasts = [np.zeros((count, batch, hidden), x.dtype) for _ in range(2)]
    functions = list(_functions(kind, count, attributes))
    per_direction = len(functions) // count
    for d in range(count):
        backwards = attributes.get("direction") == "reverse" or d == 1
        step = _STEPS[kind](w[d], r[d], _row(b, d), _row(others[2], d), functions[d * per_direction :][:per_direction], attributes)
        for n in range(batch):
            state = [np.zeros(hidden, x.dtype) if initial is None else initial[d, n] for initial in states]
            length = steps if lengths is None else int(lengths[n])
            for t in range(length)[:: -1 if backwards else 1]:
                state = step(x[t, n], *state)
                y[t, d, n] = state[0]
            for last, found in zip(lasts, state, strict=True):
                last[d, n] = found
    if batchwise:
        y, lasts = y.transpose(2, 0, 1, 3), [last.swapaxes(0, 1) for last in lasts]
    return (y, *lasts[: 2 if kind == "LSTM" else 1])


def _row(held: Array | None, direction: int) -> Array | None:
    return None if held is None else held[direction]


def _functions(kind: str, directions: int, attributes: Mapping[str, Any]) -> Iterator[Function]:
    alphas, betas = (list(attributes.get(f"activation_{which}") or ()) for which in ("alpha", "beta"))
    # The default of RNN's schema has two directions whatever the node has.
    names = (attributes.get("activations") or list(_DEFAULTS[kind]) * directions)[: len(_DEFAULTS[kind]) * directions]
    gates = [kind != "LSTM" or place < _CELL for place in range(len(_DEFAULTS[kind]))] * directions
    for name, is_gate in zip(names, gates, strict=True):
        function, alpha, beta = _FUNCTIONS[name.lower()]
        a = alphas.pop(0) if alpha is not None and alphas else alpha
        b = betas.pop(0) if beta is not None and betas else beta
        yield _bounded(function, a or 0.0, b or 0.0, attributes.get("clip") if is_gate else None)


def _bounded(function: Callable[[Array, float, float], Array], a: float, b: float, limit: float | None) -> Function:
    return lambda x: function(np.clip(x, -limit, limit) if limit else x, a, b)


Step = Callable[..., list[Array]]


def _lstm(w: Array, r: Array, b: Array | None, p: Array | None, functions: list[Function], attributes: Mapping[str, Any]) -> Step:
    wi, wo, wf, wc = np.split(w, 4)
    ri, ro, rf, rc = np.split(r, 4)
    size = len(wi)
    bi, bo, bf, bc = np.split(np.zeros(4 * size) if b is None else b[: 4 * size] + b[4 * size :], 4)
    pi, po, pf = np.split(np.zeros(3 * size) if p is None else p, 3)
    f, g, h = functions

    def step(x: Array, hidden: Array, cell: Array) -> list[Array]:
        i = f(wi @ x + ri @ hidden + pi * cell + bi)
        forget = 1 - i if attributes.get("input_forget") else f(wf @ x + rf @ hidden + pf * cell + bf)
        cell = forget * cell + i * g(wc @ x + rc @ hidden + bc)
        o = f(wo @ x + ro @ hidden + po * cell + bo)
        return [o * h(cell), cell]

    return step


def _gru(w: Array, r: Array, b: Array | None, p: Array | None, functions: list[Function], attributes: Mapping[str, Any]) -> Step:
    wz, wr, wh = np.split(w, 3)
    rz, rr, rh = np.split(r, 3)
    bz, br, bh, cz, cr, ch = np.split(np.zeros(6 * len(wz)) if b is None else b, 6)
    f, g = functions

    def step(x: Array, hidden: Array, unused: Array) -> list[Array]:
        z, reset = f(wz @ x + rz @ hidden + bz + cz), f(wr @ x + rr @ hidden + br + cr)
        past = reset * (rh @ hidden + ch) if attributes.get("linear_before_reset") else rh @ (reset * hidden) + ch
        return [(1 - z) * g(wh @ x + past + bh) + z * hidden, unused]

    return step


def _rnn(w: Array, r: Array, b: Array | None, p: Array | None, functions: list[Function], attributes: Mapping[str, Any]) -> Step:
    size = len(w)
    bias = np.zeros(size) if b is None else b[:size] + b[size:]

    def step(x: Array, hidden: Array, unused: Array) -> list[Array]:
        return [functions[0](w @ x + r @ hidden + bias), unused]

    return step


_STEPS: dict[str, Callable[..., Step]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
