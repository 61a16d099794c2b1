"""cond and while_loop (coremltools iOS15/control_flow.py): blocks that see the values around them (``scope``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgepack.mil.operation import SCOPE, Array, Kernel, MilOperation, implements

# Turns of a loop that are taken for one without end: far more than the elements of any sequence a model steps through.
_MOST_TURNS = 1_000_000


@implements("cond", accepts=("pred", SCOPE))
def cond(operation: MilOperation) -> Kernel:
    """The results of the first block when ``pred`` is true, else of the second."""
    is_true, is_false = operation.blocks

    def kernel(pred: Array, scope: Mapping[str, Any]) -> list[Array]:
        return (is_true if np.all(pred) else is_false).run((), scope)

    return operation.bind(("pred", SCOPE), kernel)


@implements("while_loop", accepts=("loop_vars", SCOPE))
def while_loop(operation: MilOperation) -> Kernel:
    """As long as the first block, of the loop's values, is true, the values are replaced by the results of the second."""
    goes_on, body = operation.blocks

    def kernel(loop_vars: Sequence[Array], scope: Mapping[str, Any]) -> list[Array]:
        held = list(loop_vars)
        for _ in range(_MOST_TURNS):
            if not np.all(goes_on.run(held, scope)[0]):
                return held
            held = body.run(held, scope)
        raise operation.refusal(f"does not end within {_MOST_TURNS} turns")

    return operation.bind(("loop_vars", SCOPE), kernel)
