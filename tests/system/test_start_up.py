"""Starting up loads no framework. (What it costs is measured by benchmarks/cost.py.)"""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "coremltools", "ai_edge_litert", "PIL", "jinja2", "numpy")


@pytest.mark.parametrize(
    "code", ["import edgepack", "import sys; sys.argv = ['edgepack', '--help']; from edgepack.cli import main; main()"]
)
def test_no_framework_is_loaded(code: str) -> None:
    ending = f"import sys, atexit; atexit.register(lambda: print('LOADED', [m for m in {FRAMEWORKS} if m in sys.modules])); "
    ended = subprocess.run([sys.executable, "-c", ending + code], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == "LOADED []", ended.stdout + ended.stderr


@pytest.mark.parametrize("verb", ["build", "inspect", "waterfall", "run", "gate", "report", "targets", "demo", "init", "doctor"])
def test_every_verb_explains_itself(verb: str) -> None:
    code = f"import sys; sys.argv = ['edgepack', '{verb}', '--help']; from edgepack.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "--json" in ended.stdout
    assert len(ended.stdout.splitlines()) > 5
