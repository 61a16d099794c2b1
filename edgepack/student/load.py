"""Loaders: ``file.py:function``, ``.pt2``, ``.onnx`` and a Hugging Face model folder."""

from __future__ import annotations

import importlib.util
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgepack.errors import EdgepackError, one_line
from edgepack.student.huggingface.folder import exported_in
from edgepack.student.program import Student
from edgepack.student.spec import StudentError

_FORMS = "give file.py:function, a .pt2 file, an .onnx file or a Hugging Face model folder"


def load_student(spec: str) -> Student:
    """The student that ``spec`` names.

    Args:
        spec: "student.py:student" (a function without arguments that returns a Student), "model.pt2", "model.onnx" or a folder that
            Hugging Face's libraries wrote.

    Raises:
        StudentError: it does not exist, cannot be loaded or is not a student.
    """
    path, _, function = spec.rpartition(":") if _is_factory(spec) else (spec, "", "")
    file = Path(path)
    if file.is_dir():
        return _from_folder(file)
    loader = _LOADERS.get(file.suffix)
    if loader is None:
        raise StudentError(f"student '{spec}' is of no known form", _HINTS.get(file.suffix, _FORMS))
    if not file.is_file():
        raise StudentError(f"student file {file} does not exist", _FORMS)
    return loader(file, function)


def is_known_to_hold_codes(spec: str) -> bool:
    """Whether an .onnx student carries QuantizeLinear nodes, found without loading weights.

    False for a file that is no model, which loading refuses, and for students of Python, which only running would tell.
    """
    from edgepack.hub.reading import load_model

    path = exported_in(Path(spec)) if Path(spec).is_dir() else Path(spec)
    # Most models hold no such word, and importing onnx to find that out would be a tenth of an unchanged rebuild.
    if path is None or path.suffix != ".onnx" or not path.is_file() or not _mentions(path, b"QuantizeLinear"):
        return False
    try:
        model = load_model(path, weights=False)
    except EdgepackError:  # whatever is wrong with the file, load_student names it
        return False
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return any(node.op_type == "QuantizeLinear" for node in nodes)


def _mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds a word anywhere; False for one that cannot be read, which loading refuses."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(word) >= 0
    except (OSError, ValueError):
        return False


def source_name(spec: str) -> str:
    """How a student is named in a pack: the file name and the function, never a folder of this machine."""
    path, colon, function = spec.rpartition(":") if _is_factory(spec) else (spec, "", "")
    return (Path(path).name or Path(path).resolve().name) + colon + function


def _is_factory(spec: str) -> bool:
    return ".py:" in spec


def _from_factory(file: Path, function: str) -> Student:
    """Run the user's factory with its own folder importable, as ``python file.py`` would have it."""
    factory = load_function(file, function)
    try:
        student = factory()
    except EdgepackError:
        raise
    except Exception as error:
        raise StudentError(f"{file.name}:{function} raised {one_line(error)}", "make it run on its own first") from error
    if not isinstance(student, Student):
        raise StudentError(f"{file.name}:{function} returned a {type(student).__name__}", "return edgepack.Student(...)")
    return student


def load_function(file: Path, function: str) -> Callable[..., Any]:
    """A function of a user's file, imported with its folder first on the path.

    Raises:
        StudentError: the file does not exist, does not import, or has no such function.
    """
    if file.suffix != ".py":
        raise StudentError(f"'{file.name}' is no Python file", "give file.py:function")
    if not file.is_file():
        raise StudentError(f"{file} does not exist", "give file.py:function")
    _prefer_siblings(file.parent.resolve())
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except EdgepackError:
        raise
    except Exception as error:
        raise StudentError(f"{file.name} does not import: {one_line(error)}", "make it run on its own first") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise StudentError(f"{file.name} has no function '{function}'", f"name a function of {file.name} after the colon")
    return found  # type: ignore[no-any-return]


# Folders of user files loaded so far in this process.
_folders: set[Path] = set()


def _prefer_siblings(folder: Path) -> None:
    """Put ``folder`` first on the path, and forget what another user's folder gave: its ``model.py`` is not this one's."""
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin).parent in _folders - {folder}:
            del sys.modules[name]
    _folders.add(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]


def _from_exported(file: Path, _: str) -> Student:
    from edgepack.student.exported import load_exported

    return Student(load_exported(file), name=file.stem)


def _from_onnx(file: Path, _: str) -> Student:
    return Student(file, name=file.stem)


def _from_folder(folder: Path) -> Student:
    from edgepack.student.huggingface.load import from_huggingface

    return from_huggingface(folder)


def _no_function(file: Path, function: str) -> Student:
    if not function:
        raise StudentError(f"{file} names no function", f"write {file.name}:student for its function student()")
    return _from_factory(file, function)


_LOADERS: dict[str, Callable[[Path, str], Student]] = {".py": _no_function, ".pt2": _from_exported, ".onnx": _from_onnx}
_PICKLED = "it holds a TorchScript or pickled module; write a factory student.py:student that builds the nn.Module and loads its weights"
_HINTS = dict.fromkeys((".pt", ".pth", ".jit", ".ts", ".bin"), _PICKLED)
