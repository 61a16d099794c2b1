"""What counts as a step's code, against a reading of the same sources with Python's own parser."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgepack.converter import code
from edgepack.converter.code import code_of

PACKAGE = Path(code.__file__).resolve().parents[1]
STEPS = [
    "edgepack.student.steps:capture",
    "edgepack.student.steps:reference",
    "edgepack.hub.steps:canonicalize",
    "edgepack.calibration.steps:collect",
    "edgepack.calibration.steps:observe",
    "edgepack.quantize.steps:static",
    "edgepack.quantize.steps:weights",
    "edgepack.backends.steps:write",
    "edgepack.verify.steps:run",
    "edgepack.verify.steps:judge",
]


def file_of(name: str) -> Path | None:
    place = PACKAGE.parent.joinpath(*name.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def imported(path: Path) -> set[str]:
    """Modules of ours that a source imports at any level, but for type checking."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("edgepack.") and file_of(name)}


def reachable(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imported(file_of(name) or PACKAGE / "__init__.py")
    return {str((file_of(name) or Path()).relative_to(PACKAGE.parent)) for name in seen}


@pytest.mark.parametrize("function", STEPS)
def test_everything_that_pythons_parser_finds_imported_counts(function: str) -> None:
    assert reachable(function.partition(":")[0]) <= {path for path, _ in code_of(function).sources}


@pytest.mark.parametrize(
    ("function", "loaded_by_name"),
    [
        ("edgepack.backends.steps:write", "edgepack/backends/tflite/lower/pooling.py"),
        ("edgepack.backends.steps:write", "edgepack/backends/coreml/lower/resize.py"),
        ("edgepack.backends.steps:write", "edgepack/backends/ort/write.py"),
        ("edgepack.verify.steps:run", "edgepack/runner/litert.py"),
        ("edgepack.verify.steps:run", "edgepack/runner/contract.py"),
        ("edgepack.verify.steps:run", "edgepack/mil/ops/convolution.py"),
        ("edgepack.hub.steps:canonicalize", "edgepack/converter/worker.py"),
        ("edgepack.hub.steps:canonicalize", "edgepack/__init__.py"),
    ],
)
def test_what_is_loaded_by_name_counts_too(function: str, loaded_by_name: str) -> None:
    assert loaded_by_name in {path for path, _ in code_of(function).sources}


def test_a_step_does_not_depend_on_code_it_cannot_reach() -> None:
    hub = {path for path, _ in code_of("edgepack.hub.steps:canonicalize").sources}
    assert not [path for path in hub if path.startswith(("edgepack/backends", "edgepack/quantize", "edgepack/cli", "edgepack/pack"))]
    student = {path for path, _ in code_of("edgepack.student.steps:capture").sources}
    assert not [
        path for path in student if path.startswith(("edgepack/backends", "edgepack/quantize", "edgepack/mil", "edgepack/runner/ort"))
    ]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("edgepack.student.steps:capture", "torch"),
        ("edgepack.student.steps:capture", "onnxscript"),
        ("edgepack.hub.steps:canonicalize", "onnx-ir"),
        ("edgepack.hub.steps:canonicalize", "numpy"),
        ("edgepack.calibration.steps:collect", "pillow"),
        ("edgepack.backends.steps:write", "coremltools"),
        ("edgepack.backends.steps:write", "ai-edge-litert"),
        ("edgepack.backends.steps:write", "protobuf"),
        ("edgepack.verify.steps:run", "onnxruntime"),
    ],
)
def test_libraries_count_with_their_versions_and_what_they_require(function: str, name: str) -> None:
    from importlib.metadata import version

    assert dict(code_of(function).distributions)[name] == version(name)


def test_a_changed_source_changes_the_code_of_the_steps_that_reach_it_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    copy = tmp_path / "edgepack"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def look() -> list[object]:
        for cached in (code.code_of, code._root_folder, code._source, code._scan):
            cached.cache_clear()
        return [code_of("edgepack.backends.steps:write"), code_of("edgepack.hub.steps:canonicalize")]

    monkeypatch.setattr(code, "find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [str(tmp_path / name)]}))
    try:
        before = look()
        with (copy / "backends" / "tflite" / "lower" / "pooling.py").open("a") as file:
            file.write("# changed\n")
        after = look()
    finally:
        monkeypatch.undo()
        look()
    assert before[0] != after[0] and before[1] == after[1]
