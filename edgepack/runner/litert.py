"""The runner for .tflite artifacts on LiteRT. Imports only the standard library, numpy, ai_edge_litert and the contract."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.runner import contract

SIGNATURE = "serving_default"

# How LiteRT names the node that stands for one delegated partition in its execution plan.
_DELEGATE = "DELEGATE"


class LiteRTSession:
    """One .tflite file behind its signature; the XNNPACK delegate is LiteRT's default.

    Args:
        artifact: path of the file.
        threads: of the interpreter.
    """

    def __init__(self, artifact: str, threads: int) -> None:
        self._interpreter = self._open(artifact, threads)
        self._allocate()

    def _allocate(self) -> None:
        self._interpreter.allocate_tensors()
        runner = self._interpreter.get_signature_runner(SIGNATURE)
        self._inputs: dict[str, Any] = runner.get_input_details()
        self._outputs: dict[str, Any] = runner.get_output_details()

    @staticmethod
    def _open(artifact: str, threads: int) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=artifact, num_threads=threads)

    def set_inputs(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Copy one sample in, with the inputs resized where their signature leaves a size open.

        Ints of another width and float64 are cast, a change of kind or of a fixed size is refused.

        Raises:
            ValueError: a name, shape or kind of type does not match.
        """
        if feed.keys() != self._inputs.keys():
            raise ValueError(f"inputs {sorted(feed)} are not the artifact's {sorted(self._inputs)}")
        moved = [name for name, array in feed.items() if _is_resized(array, self._inputs[name])]
        for name in moved:
            self._interpreter.resize_tensor_input(self._inputs[name]["index"], feed[name].shape, strict=True)
        if moved:
            self._allocate()
        for name, array in feed.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], _fitting(name, array, self._inputs[name]))

    def invoke(self) -> None:
        """Compute."""
        self._interpreter.invoke()

    def outputs(self) -> contract.Arrays:
        """Copies of the results."""
        return {name: np.array(self._interpreter.get_tensor(detail["index"])) for name, detail in self._outputs.items()}

    def describe(self) -> dict[str, Any]:
        """``partitions``: delegated parts; ``operators``: of the file; ``outside``: how many of each run in no partition."""
        rows: list[dict[str, Any]] = self._interpreter._get_ops_details()
        delegates = [row for row in rows if row["op_name"] == _DELEGATE]
        operators = [row for row in rows if row["op_name"] != _DELEGATE]
        inside = {index for delegate in delegates for index in _members(delegate, operators)}
        outside = Counter(str(row["op_name"]) for row in operators if row["index"] not in inside)
        return {"partitions": len(delegates), "operators": len(operators), "outside": dict(sorted(outside.items()))}


def _members(delegate: Mapping[str, Any], operators: Sequence[Mapping[str, Any]]) -> set[int]:
    """The operators one partition replaces: from its outputs back to its inputs."""
    ends = set(map(int, delegate["inputs"]))
    wanted = set(map(int, delegate["outputs"]))
    members: set[int] = set()
    for row in reversed(operators):
        if wanted & set(map(int, row["outputs"])):
            members.add(row["index"])
            wanted |= set(map(int, row["inputs"])) - ends
    return members


class LiteRTRuntime:
    """LiteRT on this machine's processor."""

    name = "litert"
    truth = "host"

    def __init__(self) -> None:
        self.version = _installed_version()

    def load(self, artifact: str, threads: int) -> LiteRTSession:
        """Open an artifact."""
        return LiteRTSession(artifact, threads)


def _installed_version() -> str:
    try:
        return metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        return "unknown"


def _is_resized(array: NDArray[Any], detail: Mapping[str, Any]) -> bool:
    """Whether the sample has another size than the tensor, on axes that are open alone."""
    held, signature = [int(size) for size in detail["shape"]], [int(size) for size in detail["shape_signature"]]
    if list(array.shape) == held or len(signature) != array.ndim:
        return False
    return all(given == size or is_open == -1 for given, size, is_open in zip(array.shape, held, signature, strict=True))


def _fitting(name: str, array: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    shape = tuple(int(size) for size in detail["shape"])
    if tuple(array.shape) != shape:
        raise ValueError(f"input {name} has shape {tuple(array.shape)}, the artifact takes {shape}")
    if not np.can_cast(array.dtype, detail["dtype"], "same_kind"):
        raise ValueError(f"input {name} is {array.dtype}, the artifact takes {np.dtype(detail['dtype'])}")
    # np.ascontiguousarray would give a scalar an axis.
    return np.asarray(array, dtype=detail["dtype"], order="C")


RUNTIME: contract.Runtime = LiteRTRuntime()


def main() -> int:
    """Answer one request file."""
    return contract.main(RUNTIME)


if __name__ == "__main__":
    sys.exit(main())
