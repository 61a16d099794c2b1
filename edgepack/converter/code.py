"""What the code of a step is: its sources, all sources it can reach inside its package, and the distributions they import.

Read from the sources, never by importing them: a key must be cheap. Every import at any level counts, and every quoted name of a module of
ours (a registry, ``python -m``); what is imported for type checking only does not. Too much may be counted, nothing may be missed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_OURS = "edgepack"
# What every step runs in.
_EVERYWHERE = ("edgepack.converter.worker", "edgepack.converter.process")

_TYPE_CHECKING = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
_FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([\w., \t]+)", re.MULTILINE)
# A quoted name of a module of ours. That of a package, and the beginning of one in an f-string, stand for every module of the package.
_QUOTED = re.compile(r"[\"'](edgepack(?:\.\w+)+\.?)")
# Import names that are not their distribution's with dashes for underscores.
_DISTRIBUTIONS = {"PIL": "pillow", "google": "protobuf", "yaml": "pyyaml", "skimage": "scikit-image", "sklearn": "scikit-learn"}
# Libraries that a library imports though it does not require them: torch.onnx.export.
_BEHIND = {"torch": ("onnx", "onnx-ir", "onnxscript")}


@dataclass(frozen=True)
class Code:
    """The code of a step: sources as (path from the package's folder, sha256), and (distribution, version)."""

    sources: tuple[tuple[str, str], ...]
    distributions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Scan:
    """One source: its digest, the modules it may reach, and the distributions it imports."""

    digest: str
    modules: frozenset[str]
    foreign: frozenset[str]


@cache
def code_of(function: str) -> Code:
    """The code behind "package.module:function"."""
    module = function.partition(":")[0]
    roots = frozenset({_OURS, module.partition(".")[0]})
    seen: dict[str, _Scan] = {}
    waiting = [module, *_EVERYWHERE]
    while waiting:
        name = waiting.pop()
        if name in seen or (path := _source(name)) is None:
            continue
        seen[name] = scan = _scan(path, roots)
        # A package's own file runs before its modules; edgepack's names its whole public API, lazily.
        waiting += [*_parents(name), *(scan.modules if name not in roots else ())]
    foreign = frozenset().union(*(scan.foreign for scan in seen.values()))
    sources = sorted((_short(name), scan.digest) for name, scan in seen.items())
    return Code(tuple(sources), tuple(sorted(_versions(foreign).items())))


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts)))


@cache
def _root_folder(root: str) -> Path | None:
    try:
        spec = find_spec(root)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


@cache
def _source(name: str) -> Path | None:
    """The file of a module of ours, None where there is none of that name."""
    root, *rest = name.split(".")
    folder = _root_folder(root)
    if folder is None:
        return None
    place = folder.joinpath(*rest)
    for path in (place / "__init__.py", place.parent / f"{place.name}.py"):
        if path.is_file():
            return path
    return None


def _short(name: str) -> str:
    path = _source(name)
    suffix = "/__init__.py" if path is not None and path.name == "__init__.py" else ".py"
    return name.replace(".", "/") + suffix


@cache
def _scan(path: Path, roots: frozenset[str]) -> _Scan:
    content = path.read_bytes()
    text = _TYPE_CHECKING.sub("", content.decode("utf-8"))
    named = {*_imported(text), *_quoted(text)}
    ours = frozenset(name for name in named if name.partition(".")[0] in roots)
    foreign = frozenset(root for name in named if (root := name.partition(".")[0]) not in roots | sys.stdlib_module_names)
    return _Scan(hashlib.sha256(content).hexdigest(), ours, foreign)


def _imported(text: str) -> Iterator[str]:
    """Every module that an import may name; "from a import b" counts as a and as a.b."""
    for module, names in _FROM.findall(text):
        yield module
        yield from (f"{module}.{name.split()[0]}" for name in re.split(r"[,\n]", names.strip("() \t\n")) if name.split())
    for names in _IMPORT.findall(text):
        yield from (name.split()[0] for name in names.split(",") if name.split())


def _quoted(text: str) -> Iterator[str]:
    for name in _QUOTED.findall(text):
        path = _source(name.rstrip("."))
        if path is not None and path.name == "__init__.py":
            yield from _modules_in(name.rstrip("."), path.parent)
        yield name.rstrip(".")


def _modules_in(package: str, folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        inner = path.relative_to(folder).with_suffix("")
        yield ".".join((package, *(part for part in inner.parts if part != "__init__")))


def _versions(roots: frozenset[str]) -> dict[str, str]:
    """Versions of the distributions of these import names and of all they require; what is not installed has none."""
    found: dict[str, str] = {}
    waiting = [distribution_name(root) for root in roots]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], required = _distribution(name)
            waiting += required
    return {name: version for name, version in found.items() if version}


def distribution_name(root: str) -> str:
    """The distribution that an import name most likely belongs to."""
    return _DISTRIBUTIONS.get(root, root.replace("_", "-"))


@cache
def _distribution(name: str) -> tuple[str, tuple[str, ...]]:
    """Version and requirements (those of extras left out); ("", ()) for what is not installed."""
    try:
        held = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        return "", ()
    required = (line for line in held.requires or () if "extra ==" not in line)
    names = (re.match(r"[\w.-]+", line) for line in required)
    direct = tuple(re.sub(r"[-_.]+", "-", match[0]).lower() for match in names if match)
    return held.version, (*direct, *_BEHIND.get(name, ()))
