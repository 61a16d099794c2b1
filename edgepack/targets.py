"""Targets: a platform with its backend, schemes, constraints and budgets; a TOML file each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import structs

from edgepack.data import data_folder
from edgepack.errors import InputError
from edgepack.quantize.scheme import Scheme


class TargetError(InputError):
    """A target that does not exist or is not a target."""


# A target's name is a folder in the pack, beside the pack's own.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_TAKEN = ("golden", "hub", "measurements", "pack.json", "report.html")

# Releases whose Core ML has no states.
_STATELESS = ("iOS15", "iOS16", "iOS17")

# No byte count or rate is larger; NaN and infinity are not below it, nor is an integer that no float holds.
MOST = 2**63


class TargetConstraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the target demands of artifacts.

    Attributes:
        scale_dtype: "float16" when it computes scales in fp16.
        runtime: the oldest release of the backend's runtime that must run them ("2.14" of TensorFlow Lite); "" for today's.
        state: where a student's state is: "passed" in and out by the app, or "kept" by the runtime (Core ML, iOS 18; docs/state.md).
    """

    scale_dtype: Literal["float32", "float16"] = "float32"
    runtime: Literal["", "2.14"] = ""
    state: Literal["passed", "kept"] = "passed"


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an artifact must hold to pass.

    Attributes:
        fp32_below_student_db: fp32 artifact: SQNR at most this far below the student's own fp32 run, both against float64.
        quantized_below_hub_db: static scheme: SQNR at most this far below the quantized hub's own.
        accuracy_drop_points: top-1 lost against the student's fp32 run, in percentage points, at most.
        miou_drop_points: the same of mean IoU, for students whose evaluation set holds masks.
        agreement_drop_points: how many of the samples that the student is sure of may change class, where its classes stand in for labels.
        latency_p90_ms: the upper end of p90's interval is below it, measured on a device that matches the target; None: no budget.
        latency_threads: of the runtime, for which ``latency_p90_ms`` is promised.
        size_bytes: of the artifact. memory_peak_bytes: of the process that runs it on the device, runtime included.
    """

    fp32_below_student_db: float = 6.0
    quantized_below_hub_db: float = 1.5
    accuracy_drop_points: float = 0.5
    miou_drop_points: float = 1.0
    agreement_drop_points: float = 2.0
    latency_p90_ms: float | None = None
    latency_threads: int = 1
    size_bytes: int | None = None
    memory_peak_bytes: int | None = None

    def __post_init__(self) -> None:
        # Nothing is ever above NaN or infinity: such a budget could not fail.
        if not all(abs(limit) < MOST for limit in structs.astuple(self) if limit is not None):
            raise ValueError("a budget must be a finite number")
        if self.latency_threads < 1:
            raise ValueError("a runtime has at least one thread (latency_threads)")

    def drop_points(self, metric: str) -> float:
        """What may be lost of ``Accuracy.metric``."""
        return {"mIoU": self.miou_drop_points, "agreement": self.agreement_drop_points}.get(metric, self.accuracy_drop_points)


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The device a target stands for: by what it is recognized, and what it can do at most.

    Upper limits: ``edgepack.latency.roofline`` says from them what no query can beat, and says nothing where one is None.

    Attributes:
        model: how the board's own name begins ("Raspberry Pi 5"); machine: as ``uname -m`` says it.
        bytes_per_second: from memory to all cores. operations_per_second: of one core, by the numbers' type ("float32", "int8"); a
            multiply and an add are two. cores: that a runtime can use. cache_bytes: all that can stay near the cores between queries.
    """

    model: str
    machine: str
    bytes_per_second: float | None = None
    operations_per_second: dict[str, float] = {}
    cores: int | None = None
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.model.strip() or not self.machine.strip():
            raise ValueError("hardware without a model and a machine is no device")
        rates = (self.bytes_per_second, self.cores, *self.operations_per_second.values())
        if not all(0 < rate < MOST for rate in rates if rate is not None) or not 0 <= (self.cache_bytes or 0) < MOST:
            raise ValueError("what hardware can do is a finite number above 0")


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target, as its file says."""

    name: str
    title: str
    platform: str
    backend: Literal["ort", "tflite", "coreml"]
    runner: Literal["ort", "litert", "tflite_runtime", "mil"]
    schemes: tuple[str, ...]
    minimum_os: str
    constraints: TargetConstraints = TargetConstraints()
    budgets: Budgets = Budgets()
    hardware: Hardware | None = None

    @property
    def computes_in_half(self) -> bool:
        """Whether the target computes every scheme but fp32 in fp16, scales included."""
        return self.constraints.scale_dtype == "float16"

    @property
    def dialect(self) -> str:
        """What is written for it: the backend, and the old runtime that must run it ("tflite@2.14")."""
        return f"{self.backend}@{self.constraints.runtime}" if self.constraints.runtime else self.backend

    def judged(self, scheme: str) -> Target:
        """What the verdict of one scheme depends on: not what else the target carries, nor what ``edgepack gate`` alone holds it to."""
        only_gated = {"latency_p90_ms": None, "latency_threads": 1, "size_bytes": None, "memory_peak_bytes": None}
        return structs.replace(self, schemes=(scheme,), hardware=None, budgets=structs.replace(self.budgets, **only_gated))

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _TAKEN:
            raise ValueError(f"name '{self.name}' cannot name a folder of a pack: use lower-case letters, digits, '.', '_', '-'")
        if not self.schemes:
            raise ValueError("it carries no scheme")
        for scheme in self.schemes:
            _demand_scheme(scheme)
        if self.constraints.state == "kept" and (self.backend != "coreml" or self.minimum_os in _STATELESS):
            raise ValueError('constraints.state "kept" is for backend coreml and minimum_os iOS18 or later')
        is_old = bool(self.constraints.runtime)
        if (self.runner == "tflite_runtime") != is_old or (is_old and self.backend != "tflite"):
            raise ValueError("runner tflite_runtime is for backend tflite with constraints.runtime 2.14, and for nothing else")


def _demand_scheme(name: str) -> None:
    """ValueError, which msgspec reports with the field's path, for a name outside the grammar."""
    try:
        Scheme.parse(name)
    except InputError as error:
        raise ValueError(f"{error.cause}; {error.hint}") from error


def load_target(name: str) -> Target:
    """A target by name ("android") or by the path of a .toml file of the user's own.

    Raises:
        TargetError: there is none, or the file is not a target.
    """
    path = Path(name) if name.endswith(".toml") else data_folder("targets") / f"{name}.toml"
    if not path.is_file():
        raise TargetError(f"no target '{name}'", f"choose from {', '.join(target_names())}, or give a .toml file")
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Target)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise TargetError(f"{path} is not a target ({error})", "compare it with one that edgepack targets lists") from error


def target_names() -> list[str]:
    """The names of the shipped targets, sorted."""
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))
