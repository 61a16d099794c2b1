"""Which MIL operations the Core ML backend can emit, found in its code: nothing has to be listed by hand."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from edgepack.mil.environment import coremltools

_BACKEND = "edgepack.backends.coreml"
# What coremltools' converter adds itself at a program's inputs and outputs.
_BOUNDARY = ("cast", "identity")
_EXPORTS = "__all__"


def emitted() -> list[str]:
    """The MIL operations named anywhere in the backend, sorted.

    A name may be a literal in the source, a value of a table, or held by a closure (``_reduction("reduce_mean")``). A literal that only
    happens to be the name of an operation counts too, so the list may be too long, never too short.
    """
    return sorted((set(_BOUNDARY) | _words()) & set(known()))


def known() -> list[str]:
    """Every operation of MIL that does something, from coremltools' own registry."""
    coremltools()
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    return sorted(set(SSAOpRegistry.core_ops) - {"const"})


def _words() -> set[str]:
    package = importlib.import_module(_BACKEND)
    names = [held.name for held in pkgutil.walk_packages(package.__path__, f"{_BACKEND}.")]
    modules = [importlib.import_module(name) for name in names]
    seen: set[int] = set()
    values = [value for module in modules for name, value in vars(module).items() if name != _EXPORTS]
    held = {word for value in values for word in _strings(value, seen)}
    return held | {word for module in modules for word in _literals(inspect.getsource(module))}


def _literals(source: str) -> Iterator[str]:
    """The strings in a module's code; ``__all__`` holds names of files, such as resize."""
    statements = [held for held in ast.parse(source).body if not _is_exports(held)]
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_exports(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and any(isinstance(target, ast.Name) and target.id == _EXPORTS for target in statement.targets)


def _strings(value: Any, seen: set[int]) -> Iterator[str]:
    """All strings within a module's value: cells of closures, members of collections, attributes of our own objects."""
    if isinstance(value, str):
        yield value
    if id(value) in seen or isinstance(value, str | bytes | int | float | None):
        return
    seen.add(id(value))
    for part in _parts(value):
        yield from _strings(part, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or ()] if _is_ours(value) else []
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return list(vars(value).values()) if _is_ours(value) and hasattr(value, "__dict__") else []


def _is_ours(value: Any) -> bool:
    """Defined in the backend, or the table of operators that it fills."""
    owner = str(getattr(value, "__module__", None) or type(value).__module__)
    return owner.startswith((_BACKEND, "edgepack.backends.table"))
