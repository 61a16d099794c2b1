"""One self-contained file for each runtime: the contract and one adapter in a zip archive that Python runs as it is."""

from __future__ import annotations

import io
import zipfile
from importlib import resources
from pathlib import Path

# Runners that go to devices. The MIL interpreter stays here: it needs edgepack.mil.
PORTABLE = ("ort", "litert", "tflite_runtime", "coreml")
# What runs an artifact on a device in place of the runner that checks it here.
_ON_DEVICES = {"mil": "coreml"}
# What each imports of this package beside the contract.
_WITH = {"tflite_runtime": ("litert",)}


def on_device(runner: str) -> str:
    """The portable runner of what ``runner`` runs on this machine."""
    return _ON_DEVICES.get(runner, runner)


# Zip entries carry a date; a fixed one keeps the bytes, and so the digests, the same on every machine (1980 is the format's zero).
_EPOCH = (1980, 1, 1, 0, 0, 0)


def bundle(runner: str, path: Path) -> Path:
    """Write the single-file program of ``runner`` of ``PORTABLE`` to ``path`` and return it."""
    if runner not in PORTABLE:
        raise ValueError(f"runner {runner} is not portable")
    path.write_bytes(_archive(runner))
    return path


def _archive(runner: str) -> bytes:
    source = resources.files("edgepack.runner")
    files = {
        "__main__.py": f"from edgepack.runner.{runner} import main\n\nraise SystemExit(main())\n",
        "edgepack/__init__.py": "",
        "edgepack/runner/__init__.py": "",
    }
    for name in ("contract", *_WITH.get(runner, ()), runner):
        files[f"edgepack/runner/{name}.py"] = (source / f"{name}.py").read_text(encoding="utf-8")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return buffer.getvalue()
