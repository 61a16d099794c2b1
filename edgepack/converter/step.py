"""A step: one function over files, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepack.errors import InputError

# Reports (done, total) of the work inside a step.
Progress = Callable[[int, int], None]


# A fortnight: longer waits overflow what threading and poll take on some systems.
_LONGEST = 14 * 24 * 3600


@dataclass(frozen=True)
class Limits:
    """What a step may use: wall-clock ``seconds`` and ``bytes`` of data (heap and private mappings, what RLIMIT_DATA counts)."""

    seconds: float = 600.0
    bytes: int = 8 * 2**30

    def __post_init__(self) -> None:
        if not (0 < self.seconds <= _LONGEST and self.bytes > 0):
            raise InputError(f"limits of {self.seconds:g} s and {self.bytes} bytes cannot hold", f"give above 0, and at most {_LONGEST} s")


@dataclass(frozen=True)
class Output:
    """A file that another step writes."""

    step: str
    file: str


@dataclass(frozen=True)
class Step:
    """A pure function of its inputs and parameters.

    Attributes:
        name: unique in the plan, what failures are reported under ("android w8a8: write").
        function: "package.module:function"; called as ``function(**inputs, **parameters, out=folder, progress=progress)``, where
            every input is a Path. It writes its outputs into ``out`` and returns nothing.
        inputs: argument name -> a file of another step, or a path that exists before the build.
        parameters: argument name -> JSON data.
        outputs: files and folders the function must have written; nothing else it writes is kept.
        limits: time and memory.
        unkeyed: parameters on which the result does not depend: where something lies, how long it may take.
        reads: files from outside that it reads beside its inputs, by what they are ("data photos/a.jpg"): those behind a parameter or
            a manifest. One that is not there is for the step to refuse.
        cached: False for a step whose result cannot be known from its inputs (it runs Python of the user's): it runs each time, and
            what follows only where it wrote something else.
    """

    name: str
    function: str
    inputs: Mapping[str, Output | Path] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    limits: Limits = Limits()
    unkeyed: frozenset[str] = frozenset()
    reads: Mapping[str, Path] = field(default_factory=dict)
    cached: bool = True

    def __getitem__(self, file: str) -> Output:
        """A reference to one of this step's outputs."""
        if file not in self.outputs:
            raise KeyError(f"step {self.name} writes no {file}")
        return Output(self.name, file)
