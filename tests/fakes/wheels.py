"""Tiny wheels that stand for the real ones of a device: right names, tags and modules, nothing in them. pip finds them in a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgepack.devices.wheels import MACHINES, NEEDS, PYTHONS, wanted

# Distribution -> the module it holds; those with code of a processor's are tagged for each Python and machine.
_MODULES = {"onnxruntime": "onnxruntime", "ai-edge-litert": "ai_edge_litert/interpreter", "numpy": "numpy", "pillow": "PIL"}
_TAGS = [f"cp{python.replace('.', '')}-cp{python.replace('.', '')}-manylinux_2_28_{machine}" for python in PYTHONS for machine in MACHINES]


def make_wheels(folder: Path, versions: dict[str, str] | None = None, **modules: str) -> None:
    """Every wheel of a device, for every Python and machine.

    Args:
        versions: instead of this environment's.
        modules: source of a module, by its distribution with ``_`` for ``-``.
    """
    for distribution, version in (versions or wanted()).items():
        source = modules.get(distribution.replace("-", "_"), f"__version__ = {version!r}\n")
        for tag in _TAGS if distribution in _MODULES else ["py3-none-any"]:
            make_wheel(folder, distribution, version, tag, source)


def make_wheel(folder: Path, distribution: str, version: str, tag: str, source: str) -> Path:
    name = f"{distribution.replace('-', '_').replace('.', '_')}-{version}"
    info = f"{name}.dist-info"
    module = _MODULES.get(distribution, distribution.replace("-", "_").replace(".", "_"))
    files = {
        f"{module}{'.py' if '/' in module else '/__init__.py'}": source,
        f"{name}.data/platlib/{distribution.replace('-', '_').replace('.', '_')}_more.py": "",
        f"{name}.data/scripts/tool": "#!python\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: {tag}\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{name}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return path


def pip_settings(folder: Path) -> dict[str, str]:
    """What makes pip find wheels in a folder and nowhere else."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}


assert set(_MODULES) <= set(NEEDS)
