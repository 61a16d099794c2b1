"""edgepack: a distilled student through one ONNX hub to three artifacts, each verified and timed.

The public names load on first use, so that importing the package imports no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepack.api import build as build
    from edgepack.api import gate as gate
    from edgepack.api import load_pack as load_pack
    from edgepack.calibration.manifest import CalibrationSet as CalibrationSet
    from edgepack.errors import EdgepackError as EdgepackError
    from edgepack.latency.bench import bench as bench
    from edgepack.student.huggingface.load import from_huggingface as from_huggingface
    from edgepack.student.load import load_student as load_student
    from edgepack.student.program import Student as Student
    from edgepack.student.spec import ImagePreprocessing as ImagePreprocessing
    from edgepack.student.spec import TensorSpec as TensorSpec
    from edgepack.targets import Target as Target

__version__ = "0.1.0"

_HOMES = {
    "CalibrationSet": "edgepack.calibration.manifest",
    "Target": "edgepack.targets",
    "build": "edgepack.api",
    "gate": "edgepack.api",
    "load_pack": "edgepack.api",
    "EdgepackError": "edgepack.errors",
    "bench": "edgepack.latency.bench",
    "ImagePreprocessing": "edgepack.student.spec",
    "Student": "edgepack.student.program",
    "TensorSpec": "edgepack.student.spec",
    "from_huggingface": "edgepack.student.huggingface.load",
    "load_student": "edgepack.student.load",
}
__all__ = [
    "CalibrationSet",
    "EdgepackError",
    "ImagePreprocessing",
    "Student",
    "Target",
    "TensorSpec",
    "__version__",
    "bench",
    "build",
    "from_huggingface",
    "gate",
    "load_pack",
    "load_student",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgepack' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
