"""Whether the runtimes of a site import here, and which they are."""

import os
import sys
from typing import Any, Dict  # noqa: UP035 - see the package


def answer(asked: Dict[str, Any]) -> Dict[str, str]:  # noqa: UP006
    """Versions by distribution, from importing ``modules`` ({distribution: module}) of ``site``."""
    import importlib
    from importlib import metadata

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.path.insert(0, asked["site"])
    for module in asked["modules"].values():
        importlib.import_module(module)
    return {distribution: metadata.version(distribution) for distribution in asked["modules"]}
