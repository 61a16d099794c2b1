"""Targets: a platform with its backend, schemes, constraints and budgets; a TOML file each."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgepack.data import data_folder
from edgepack.errors import InputError
from edgepack.quantize.scheme import Scheme


class TargetError(InputError):
    """A target that does not exist or is not a target."""


class TargetConstraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the target demands of encodings. ``scale_dtype``: "float16" when it computes scales in fp16."""

    scale_dtype: str = "float32"


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an artifact must hold to pass.

    Attributes:
        fp32_below_student_db: fp32 artifact: SQNR at most this far below the student's own fp32 run, both against float64.
        quantized_below_hub_db: static scheme: SQNR at most this far below the quantized hub's own.
        accuracy_drop_points: top-1 lost against the student's fp32 run, in percentage points, at most.
    """

    fp32_below_student_db: float = 6.0
    quantized_below_hub_db: float = 1.5
    accuracy_drop_points: float = 0.5


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target, as its file says."""

    name: str
    title: str
    platform: str
    backend: str
    runner: str
    schemes: tuple[str, ...]
    minimum_os: str
    constraints: TargetConstraints = TargetConstraints()
    budgets: Budgets = Budgets()

    def __post_init__(self) -> None:
        for scheme in self.schemes:
            Scheme.parse(scheme)


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
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise TargetError(f"{path} is not a target ({error})", "compare it with one that edgepack targets lists") from error


def target_names() -> list[str]:
    """The names of the shipped targets, sorted."""
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))
