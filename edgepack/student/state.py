"""State of a student: inputs that take, in the next step, what outputs gave in this one (docs/state.md).

A stateful student is exported with its state as plain inputs and outputs; whoever runs it carries it. Here samples are the steps of one
sequence: the first sample's state is its own, every later one's is what the step before gave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgepack.arrays import stacked
from edgepack.student.spec import StudentError, TensorSpec

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, NDArray[Any]]

# Where a model of the build says what its state is: input name -> output name, as JSON.
_METADATA = "edgepack.state"


def checked(state: Mapping[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """The state as declared.

    Raises:
        StudentError: a name is not there, or an input and its output differ in shape, type or layout.
    """
    known, given = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    for source, result in state.items():
        if source not in known or result not in given:
            missing, kind, names = (source, "input", known) if source not in known else (result, "output", given)
            raise StudentError(f"the state names {kind} '{missing}', which the student does not have", f"it has {', '.join(names)}")
        first, second = known[source], given[result]
        if (first.shape, first.dtype, first.layout) != (second.shape, second.dtype, second.layout):
            cause = f"state input '{source}' is {first.dtype}{list(first.shape or ())} and its output '{result}' is"
            raise StudentError(f"{cause} {second.dtype}{list(second.shape or ())}", "give both the same shape, type and layout")
    if len(state) == len(known):
        raise StudentError("every input of the student is state", "give it an input that a step brings")
    return dict(state)


def carried(run: Callable[[Arrays], Arrays], feeds: Sequence[Arrays], state: Mapping[str, str]) -> list[Arrays]:
    """What every step of a sequence answers; without state every feed is a sequence of its own."""
    answers: list[Arrays] = []
    for feed in feeds:
        kept = {source: answers[-1][result] for source, result in state.items()} if answers else {}
        answers.append(run({**feed, **{name: array.astype(feed[name].dtype) for name, array in kept.items()}}))
    return answers


def with_states(run: Callable[[Arrays], Arrays], feeds: Sequence[Arrays], state: Mapping[str, str]) -> Arrays:
    """The feeds of a sequence, stacked, each with the state that the steps before it left: every row can then be run by itself."""
    answers = carried(run, feeds[:-1], state)
    rows = [feeds[0], *({**feed, **{to: held[of] for to, of in state.items()}} for feed, held in zip(feeds[1:], answers, strict=True))]
    return stacked(rows)


def say_state(model: onnx.ModelProto, state: Mapping[str, str]) -> None:
    """Write the state into a model's metadata."""
    if state:
        model.metadata_props.add(key=_METADATA, value=json.dumps(dict(state), sort_keys=True))


def state_of(model: onnx.ModelProto) -> dict[str, str]:
    """The state that a model's metadata tells of, empty for none."""
    held = next((entry.value for entry in model.metadata_props if entry.key == _METADATA), "{}")
    return {str(source): str(result) for source, result in json.loads(held).items()}
