"""A stand-in of coremltools on a Mac, for tests only: its proto is the real one's, ``MLModel.predict`` asks edgepack's MIL interpreter.

Put the folder that holds this package first on a program's path, with a file ``mac.json`` in it: {"real": folder of the real coremltools,
"interpreter": socket of a tests.fakes.mac.Interpreter}, and how it is to behave: "without_core_ml": true (as on Linux),
"fails_on": unit, "not_finite_on": unit, "wrong_on": unit, "seconds": of a prediction, "no_module": true.
"""

import json
from enum import Enum
from pathlib import Path

_SETTINGS = json.loads((Path(__file__).parents[1] / "mac.json").read_text())
if _SETTINGS.get("no_module"):
    raise ModuleNotFoundError("No module named 'coremltools'")
# The real one's protobuf modules, without its own start-up.
__path__.append(_SETTINGS["real"])


class ComputeUnit(Enum):
    """As coremltools has it."""

    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


from coremltools import models as models  # noqa: E402
