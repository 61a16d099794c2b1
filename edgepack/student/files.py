"""Which files a student that is no Python consists of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgepack.hub.external import external_tensors
from edgepack.student.huggingface.folder import folder_files


def is_python(student: str) -> bool:
    """Whether a student is named as "file.py:function"."""
    return ".py:" in student or student.endswith(".py")


def files_of(student: str) -> dict[str, Path]:
    """An .onnx or .pt2 file and the files its weights lie in, or what a model folder holds, by name.

    What is missing or damaged is for the loader to say.
    """
    path = Path(student)
    if path.is_dir():
        return _of_folder(path)
    return {path.name: path, **dict(_external(path))}


def _of_folder(root: Path) -> dict[str, Path]:
    """With the folder's own name, which the student bears too, and files of any name that its .onnx keeps weights in."""
    held, name = folder_files(root), root.resolve().name
    for path in tuple(held.values()):
        held |= {file.relative_to(root).as_posix(): file for _, file in _external(path)}
    return {f"{name}/{relative}": file for relative, file in held.items()}


def _external(path: Path) -> Iterator[tuple[str, Path]]:
    """The files beside an .onnx file that hold its weights."""
    if path.suffix != ".onnx" or not path.is_file():
        return
    try:
        locations = {held.location for held in external_tensors(path.read_bytes())}
    except (OSError, ValueError):
        return
    for location in sorted(locations):
        # One outside the model's folder is refused by the loader.
        file = path.parent / location
        if file.resolve().is_relative_to(path.parent.resolve()):
            yield location, file
