"""Who may import whom (DESIGN.md, "Layout"), read from the source of every module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "edgepack"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts)


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any level, except for type checking; ``from a import b`` counts as a.b where that is a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    return {name for node in ast.walk(tree) for name in _names(node)}


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        assert node.level == 0, "imports are absolute"
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if _is_module(f"{node.module}.{alias.name}"))


def _is_module(name: str) -> bool:
    path = PACKAGE.parent / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def room(path: Path) -> str:
    """ "hub" for edgepack/hub/canonical.py, "" for a module at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_command_line_imports_the_command_line(path: Path) -> None:
    if room(path) != "cli":
        assert [module for module in imports(path) if module.startswith("edgepack.cli")] == []


@pytest.mark.parametrize("backend", ["ort", "tflite", "coreml"])
def test_a_backend_imports_hub_and_quantize_types_and_no_other_backend(backend: str) -> None:
    allowed = ("edgepack.errors", "edgepack.hub", "edgepack.quantize", f"edgepack.backends.{backend}")
    # edgepack itself for its version, which artifacts record.
    shared = ("edgepack", *(f"edgepack.backends{module}" for module in ("", ".table", ".artifact", ".spelling", ".control")))
    # The interpreter's quiet import of coremltools and its reader of packages; it knows nothing of ONNX.
    reading = ("edgepack.mil",) if backend == "coreml" else ()
    for path in (PACKAGE / "backends" / backend).rglob("*.py"):
        ours = {module for module in imports(path) if module.startswith("edgepack")} - set(shared)
        assert [module for module in ours if not module.startswith((*allowed, *reading))] == [], path


@pytest.mark.parametrize("module", ["latency/statistics.py", "latency/detectors.py", "verify/metrics.py"])
def test_statistics_and_metrics_are_pure_numpy(module: str) -> None:
    found = {each for each in imports(PACKAGE / module) if each.partition(".")[0] not in sys.stdlib_module_names}
    assert found <= {"numpy", "numpy.typing", "edgepack.latency.statistics"}


@pytest.mark.parametrize(
    ("runner", "runtime"), [("ort", "onnxruntime"), ("litert", "ai_edge_litert"), ("tflite_runtime", "tflite_runtime")]
)
def test_a_portable_runner_imports_the_standard_library_numpy_its_runtime_and_the_contract(runner: str, runtime: str) -> None:
    # The old TFLite's runner is LiteRT's with another interpreter; it is bundled with it.
    ours = {"edgepack.runner", "edgepack.runner.contract", *(("edgepack.runner.litert",) if runner == "tflite_runtime" else ())}
    for path, extra in ((PACKAGE / "runner" / f"{runner}.py", {runtime}), (PACKAGE / "runner" / "contract.py", set())):
        others = {module for module in imports(path) if module not in ours}
        assert {each.partition(".")[0] for each in others} - sys.stdlib_module_names - {"__future__"} <= {"numpy"} | extra, path


def test_the_interpreter_knows_nothing_of_onnx_or_of_the_frontend() -> None:
    for path in (PACKAGE / "mil").rglob("*.py"):
        found = imports(path)
        assert not [each for each in found if each.startswith(("onnx", "edgepack.backends", "edgepack.hub", "edgepack.quantize"))], path


def test_the_hub_and_the_student_do_not_know_what_is_made_of_them() -> None:
    later = ("edgepack.backends", "edgepack.quantize", "edgepack.pack", "edgepack.latency", "edgepack.devices")
    for path in MODULES:
        if room(path) in ("hub", "student"):
            assert not [each for each in imports(path) if each.startswith(later)], path


def test_the_checker_sees_what_it_must(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text("import a.b\ndef f():\n    from edgepack.cli import build\nif TYPE_CHECKING:\n    import hidden\n")
    assert imports(sample) == {"a.b", "edgepack.cli", "edgepack.cli.build"}
