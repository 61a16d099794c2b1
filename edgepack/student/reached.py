"""What a module's methods can read and that is neither a weight nor an attribute: globals, class attributes, defaults, closures.

Their sources tell most of it. What they are set to while a program runs (from the environment, by another module) only they tell. Only
code of the user's is followed, and only what it names: a global that no method can reach is no part of a student.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, np.ndarray, np.generic, tuple, list, set, frozenset, dict, partial)
Held = Iterator[tuple[str, Any]]


def reached(module: Any, is_users: Callable[[str], bool]) -> dict[str, Any]:
    """Values by where they are kept ("model.LIMIT", "model.Net.scale", "model.activation.<limit>").

    Args:
        module: a torch.nn.Module; is_users: whether a module of this name is the user's.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: list[Any] = [item for inner in module.modules() for item in (type(inner), *vars(inner).values())]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        for name, value in _named_by(item, is_users):
            inner = _unwrapped(value)
            if isinstance(inner, FunctionType | type):
                waiting.append(inner)
            elif isinstance(inner, _PLAIN) or hasattr(inner, "detach") or is_dataclass(inner) or is_users(type(inner).__module__):
                found[name] = inner
                waiting += [inner.func] if isinstance(inner, partial) else []
    return found


def _named_by(item: Any, is_users: Callable[[str], bool]) -> Held:
    inner = _unwrapped(item)
    if isinstance(inner, type):
        for kind in inner.__mro__:
            if is_users(kind.__module__):
                names = (pair for pair in vars(kind).items() if not _is_pythons(*pair))
                yield from ((f"{kind.__module__}.{kind.__qualname__}.{name}", value) for name, value in names)
    elif isinstance(inner, FunctionType) and is_users(inner.__module__):
        yield from _of_function(inner, is_users)


# What Python itself keeps in a class: __doc__, __dict__, abc's caches. Methods such as __call__ are the user's.
def _is_pythons(name: str, value: Any) -> bool:
    return name == "_abc_impl" or (name.startswith("__") and name.endswith("__") and not isinstance(value, FunctionType))


def _unwrapped(value: Any) -> Any:
    """The function behind a method, a class method, a property, a functools.wraps."""
    for name in ("__func__", "fget"):
        if isinstance(value, MethodType | staticmethod | classmethod | property):
            value = getattr(value, name, value)
    return value


def _of_function(function: FunctionType, is_users: Callable[[str], bool]) -> Held:
    where = f"{function.__module__}.{function.__qualname__}"
    yield f"{where}.<defaults>", (function.__defaults__, function.__kwdefaults__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{where}.<{name}>", cell.cell_contents
        except ValueError:  # not filled yet
            continue
    names = set(_names(function.__code__))
    for name in sorted(names & set(function.__globals__)):
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            yield from _of_module(value, names, is_users)
        else:
            yield f"{function.__module__}.{name}", value


def _of_module(module: ModuleType, names: set[str], is_users: Callable[[str], bool]) -> Held:
    """config.LIMIT of a user's own module."""
    if is_users(module.__name__):
        yield from ((f"{module.__name__}.{name}", value) for name, value in vars(module).items() if name in names)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def file_of(module: str) -> str:
    """The file of an imported module, "" for one that has none."""
    name = getattr(sys.modules.get(module), "__file__", None)
    return name if isinstance(name, str) else ""
