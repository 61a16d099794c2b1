"""A student's state as Core ML's own: tensors that an ``MLState`` keeps between invocations (StateType, iOS 18).

Sources: coremltools iOS18/states.py, coreml_dialect/ops.py, and backend/mil/load.py, which takes states of static shape in float16 and no
others. A state in a program of float32, or of whole numbers, therefore stays an input and an output.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgepack.backends.coreml.operations import Hub
from edgepack.backends.table import BackendError

# The first release that has states.
RELEASE = 18


def own_states(hub: Hub, declared: Mapping[str, str], dtype: str, ios: int) -> tuple[dict[str, str], list[str]]:
    """Of a declared state (hub input -> hub output) what the package keeps itself, and a note for each part that it does not.

    Raises:
        BackendError: the package is for a system without states, or nothing would be left that it gives.
    """
    if not declared:
        return {}, []
    if ios < RELEASE:
        cause = f"coreml: input '{next(iter(declared))}' is to be a state of Core ML, which has them from iOS {RELEASE} on"
        raise BackendError(f"{cause}; the package is for iOS {ios}", f'set minimum_os = "iOS{RELEASE}", or leave out constraints.state')
    types = {held.name: held.dtype for held in hub.inputs}
    kept = {source: result for source, result in declared.items() if dtype == "float16" and types[source].startswith("float")}
    if kept and {held.name for held in hub.outputs} <= set(kept.values()):
        hint = "give the student an output that is no state, or leave out constraints.state"
        raise BackendError(f"coreml: the student gives nothing but its state ('{hub.outputs[0].name}')", hint)
    reason = "Core ML keeps float16 alone"
    return kept, [f"state '{source}' ({types[source]}) stays an input and an output: {reason}" for source in declared if source not in kept]
