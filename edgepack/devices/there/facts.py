"""What this device is, and which sites of edgepack it holds."""

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List  # noqa: UP035 - see the package


def answer(asked: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    """The fields of ``edgepack.devices.setup.Facts``; ``asked`` holds the name of the file that completes a site."""
    base = Path.home() / ".cache" / "edgepack"
    return {
        "python": platform.python_version(),
        "bits": struct.calcsize("P") * 8,
        "machine": platform.machine(),
        "glibc": glibc(),
        "home": str(Path.home()),
        "base": str(base),
        "free": shutil.disk_usage(_existing(base)).free,
        "model": _model(),
        "executable": sys.executable,
        "sites": _sites(base, asked["record"]),
        "system": platform.system(),
    }


def glibc() -> str:
    """ "2.36"; "" where the C library is another (musl knows no such name)."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError, AttributeError):
        return ""
    return version if name == "glibc" else ""


def _existing(path: Path) -> Path:
    return path if path.is_dir() else _existing(path.parent)


def _model() -> str:
    """ "Raspberry Pi 5 Model B Rev 1.0", from the device tree; of a Mac "Mac15,3"; "" where there is none."""
    if platform.system() == "Darwin":
        return _mac_model()
    try:
        return Path("/sys/firmware/devicetree/base/model").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _mac_model() -> str:
    try:
        return subprocess.check_output(["sysctl", "-n", "hw.model"], timeout=5).decode(errors="replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _sites(base: Path, record: str) -> List[Dict[str, Any]]:  # noqa: UP006
    """Complete sites, the newest first; what is no site or damaged is none."""
    found = []
    for path in sorted(base.glob(f"site-*/{record}"), key=lambda each: -each.stat().st_mtime):
        try:
            found.append({"folder": str(path.parent), "record": json.loads(path.read_text(encoding="utf-8"))})
        except (OSError, ValueError):
            continue
    return found
