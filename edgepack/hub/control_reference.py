"""Loop and Scan by their definition (ONNX Loop-21, Scan-21), for the float64 run: onnx 1.23's own join the results of a Loop's steps along
an axis that they have, where the definition adds one, and its Scan knows neither axes nor directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def operators() -> list[Any]:
    """Both as operators of onnx's evaluator."""
    from onnx.reference.ops import op_loop, op_scan

    whole_loop: Any = op_loop.Loop
    whole_scan: Any = op_scan.Scan

    class Loop(whole_loop):  # type: ignore[misc]
        def _run(self, trips: Any, condition: Any, *states: Any, context: Any = None, **others: Any) -> tuple[Array, ...]:
            rows: list[list[Array]] = [[] for _ in range(self.K)]
            held, step = list(states), 0
            while (condition is None or bool(np.all(condition))) and (trips is None or step < int(np.ravel(trips)[0])):
                values = (np.asarray(step, np.int64), np.asarray(True), *held)
                inputs = {**(context or {}), **dict(zip(self.body.input_names, values, strict=True))}
                condition, *results = self._run_body(inputs, attributes=others.get("attributes"), bindings=others.get("bindings"))
                held = results[: self.N]
                for row, result in zip(rows, results[self.N :], strict=True):
                    row.append(result)
                step += 1
            return (*held, *(np.stack(row) if row else np.zeros(0) for row in rows))

    class Scan(whole_scan):  # type: ignore[misc]
        def __init__(self, onnx_node: Any, run_params: Any) -> None:
            whole_scan.__bases__[0].__init__(self, onnx_node, run_params)

        def _run(self, *arguments: Any, context: Any = None, **others: Any) -> tuple[Array, ...]:
            count = self.num_scan_inputs
            states, sequences = list(arguments[:-count]), arguments[-count:]
            moved = _turned(sequences, self.scan_input_axes, self.scan_input_directions)
            rows: list[list[Array]] = [[] for _ in range(len(self.body.output_names) - len(states))]
            for step in range(len(moved[0])):
                values = (*states, *(sequence[step] for sequence in moved))
                inputs = {**(context or {}), **dict(zip(self.body.input_names, values, strict=True))}
                results = self._run_body(inputs, bindings=others.get("bindings"))
                states = list(results[: len(states)])
                for row, result in zip(rows, results[len(states) :], strict=True):
                    row.append(result)
            turned = [row[::-1] if back else row for row, back in zip(rows, self.scan_output_directions or [0] * len(rows), strict=True)]
            axes = self.scan_output_axes or [0] * len(rows)
            return (*states, *(np.stack(row, axis) for row, axis in zip(turned, axes, strict=True)))

    return [Loop, Scan]


def _turned(sequences: Sequence[Array], axes: Sequence[int] | None, directions: Sequence[int] | None) -> list[Array]:
    """Sequences with the axis that is scanned first, the first step first."""
    moved = [np.moveaxis(held, axis, 0) for held, axis in zip(sequences, axes or [0] * len(sequences), strict=True)]
    return [held[::-1] if back else held for held, back in zip(moved, directions or [0] * len(sequences), strict=True)]
