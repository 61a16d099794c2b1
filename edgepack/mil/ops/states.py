"""read_state and coreml_update_state (coremltools iOS18/states.py, coreml_dialect/ops.py)."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, State, implements


@implements("read_state", accepts=("input",), selects=True)
def read_state(operation: MilOperation) -> Kernel:
    """What the state holds now."""
    return operation.bind(("input",), lambda state: state.array)


@implements("coreml_update_state", accepts=("state", "value"), selects=True)
def update_state(operation: MilOperation) -> Kernel:
    """``value``, which the state holds from now on (write_state in the package)."""

    def kernel(state: State, value: Array) -> Array:
        state.array = np.array(value)
        return state.array

    return operation.bind(("state", "value"), kernel)
