"""What a student of Python is: everything its artifacts can depend on, found by making it.

Weights, the sources of the modules it imports from outside installed packages, the versions of those inside, the files that Python opens
while it is made and run once, the plain settings of its modules, the values that their methods name, and what it answers on its examples:
a change of any of these is another student.
Files that are read in ways Python does not see (memory maps of other libraries) belong into ``Student(files=...)`` unless they are weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache, partial
from importlib import metadata
from importlib.util import source_from_cache
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import msgspec
import numpy as np

from edgepack.converter.code import distribution_name
from edgepack.converter.digest import digest_of, held_at
from edgepack.student.load import load_student, source_name
from edgepack.student.program import Student
from edgepack.student.reached import file_of, reached
from edgepack.student.spec import StudentError

# Attributes that hold other attributes go this deep; what lies deeper is told by what the student answers.
_DEEPEST = 6
_OURS = Path(__file__).resolve().parents[1]
# Folders whose files are the machine's, not the student's.
_OF_THE_MACHINE = ("/proc/", "/sys/", "/dev/", "/etc/")


class Identity(msgspec.Struct, frozen=True):
    """A student's parts, by what they are ("weight fc.bias", "source model.py", "answer logits") -> digest or version."""

    parts: dict[str, str]

    def difference(self, other: Identity) -> str:
        """The first part in which two identities differ, "" when they are equal."""
        names = sorted({*self.parts, *other.parts})
        return next((name for name in names if self.parts.get(name) != other.parts.get(name)), "")


def identified(spec: str) -> tuple[Student, Identity]:
    """Make a student of Python, and say what it is.

    Raises:
        StudentError: it cannot be made.
    """
    file, function = spec.rsplit(":", 1) if ".py:" in spec else (spec, "")
    modules = set(sys.modules)
    with _opened_files() as opened:
        student = load_student(spec)
        # Some import and read only once they run.
        example = student.program.example()
        answer = student.program.run(example)
    imported = {name: module for name, module in sys.modules.items() if name not in modules}
    folder = Path(file).resolve().parent
    parts = {"function": function, **_sources(imported, folder), **_distributions(imported)}
    parts |= _files(opened, folder) | _declared(student.files, folder) | _of_module(student.module, folder)
    parts |= {"description": digest_of(msgspec.json.encode(student.describe(source_name(spec))).decode())}
    parts |= {f"example {name}": _token(array) for name, array in example.items()}
    parts |= {f"answer {name}": _token(array) for name, array in answer.items()}
    return student, Identity(parts)


def same_student(spec: str, identity: Path) -> Student:
    """Make a student of Python again.

    Args:
        identity: identity.json of the time before.

    Raises:
        StudentError: it is another one now.
    """
    student, found = identified(spec)
    differs = found.difference(msgspec.json.decode(identity.read_bytes(), type=Identity))
    if differs:
        raise StudentError(
            f"the student is another one each time it is made: its {differs} differs",
            "load trained weights from a file, or seed what is random",
        )
    return student


@contextlib.contextmanager
def _opened_files() -> Iterator[set[str]]:
    """The files that Python opens for reading in the block, anywhere."""
    found: set[str] = set()
    active = True

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        reads = active and (event == "ctypes.dlopen" or (event == "open" and _reads(arguments[1], arguments[2])))
        if reads and isinstance(arguments[0], str | bytes | os.PathLike):
            found.add(os.fsdecode(arguments[0]))

    # An audit hook cannot be taken away again; it only stops looking.
    sys.addaudithook(look)
    try:
        yield found
    finally:
        active = False


def _reads(mode: Any, flags: Any) -> bool:
    """Whether what a file held before is read: it is not made anew, and not only written to."""
    if isinstance(mode, str):
        return not set(mode) & set("wax")
    return not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_CREAT)


@cache
def _installed() -> tuple[str, ...]:
    """Folders of the standard library and of installed packages, each as it is named and as it really is."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(name + os.sep for path in paths if path for name in dict.fromkeys((path, os.path.realpath(path))))


def _is_installed(path: str) -> bool:
    return path.startswith(_installed()) or os.path.realpath(path).startswith(_installed())


def _is_users(file: str, folder: Path) -> bool:
    """Whether a file is the user's own: not of an installed package, unless the student itself lies in one."""
    path = Path(file).resolve()
    of_packages = _is_installed(file) or path.is_relative_to(_OURS)
    return not of_packages or (path.is_relative_to(folder) and (_is_installed(f"{folder}{os.sep}") or folder.is_relative_to(_OURS)))


def _sources(modules: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Digests of the user's own modules, by their name."""
    found = {}
    for name in modules:
        file = file_of(name)
        if name not in ("__main__", "__mp_main__") and file and _is_users(file, folder) and (path := Path(file).resolve()).is_file():
            found[f"source {_named(path, folder) if path.is_relative_to(folder) else name}"] = held_at(path).sha256
    return found


def _named(path: Path, folder: Path) -> str:
    """Relative to the student's folder, or the bare name: where a folder lies does not matter."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _distributions(modules: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the installed packages that were imported."""
    roots = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    held = {root for root in roots if root in modules and _is_installed(file_of(root))}
    found, unknown = {}, set()
    for root in held:
        name = distribution_name(root)
        try:
            found[f"tool {name}"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            unknown.add(root)
    # Reading what every installed package holds takes a quarter of a second: only for names that are no package's.
    owners = metadata.packages_distributions() if unknown else {}
    return found | {f"tool {name}": metadata.version(name) for root in unknown for name in owners.get(root, ())}


def _files(opened: set[str], folder: Path) -> dict[str, str]:
    """Digests of the user's files that were read; sources of modules are told apart, installed files by their versions."""
    found: dict[str, str] = {}
    modules = {os.path.realpath(file) for name in list(sys.modules) if (file := file_of(name))}
    for path in sorted({Path(_source_of(path)).resolve() for path in opened if _is_users(path, folder)}):
        if path.is_file() and str(path) not in modules and not str(path).startswith(_OF_THE_MACHINE):
            name = f"file {_named(path, folder)}"
            found[name] = digest_of(found.get(name, ""), held_at(path).sha256)
    return found


def _source_of(path: str) -> str:
    """The source of a compiled module: which of the two is read depends on what ran before."""
    try:
        return source_from_cache(path) if path.endswith(".pyc") else path
    except ValueError:
        return path


def _declared(files: Sequence[str | Path], folder: Path) -> dict[str, str]:
    """Digests of the files that the student says it depends on; paths are relative to its own folder."""
    found = {}
    for given in files:
        try:
            found[f"file {given}"] = held_at(folder / given).sha256
        except OSError as error:
            raise StudentError(f"file '{given}' of Student(files=...) cannot be read ({error.strerror})", "correct the path") from error
    return found


def _of_module(module: Any, folder: Path) -> dict[str, str]:
    """Weights, buffers and settings of a torch module; the program and weights of an exported one; the file of an .onnx."""
    if isinstance(module, str | Path):
        from edgepack.student.files import files_of

        return {f"file {name}": held_at(path).sha256 for name, path in files_of(str(module)).items()}
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        weights: Mapping[str, Any] = {**module.state_dict, **module.constants}
        return {"program": digest_of(str(module)), **{f"weight {name}": _token(value) for name, value in weights.items()}}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parts = {f"weight {name}": _token(tensor) for name, tensor in tensors.items()}
    parts |= {f"module {name or 'forward'}": _settings(inner) for name, inner in module.named_modules()}
    values = reached(module, lambda name: bool(file := file_of(name)) and _is_users(file, folder))
    return parts | {f"value {name}": _token(value) for name, value in values.items()}


# What torch.nn.Module keeps for itself: weights are told apart, inner modules have their own entry, hooks are told by the answer.
_OF_TORCH = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_compiled_call_impl"))


def _settings(module: Any) -> str:
    """The class of a module and its plain attributes."""
    held = {name: value for name, value in vars(module).items() if name not in _OF_TORCH and "hook" not in name}
    return digest_of(type(module).__qualname__, _token(held))


def _token(value: Any, depth: int = 0) -> str:
    """A text that is the same for equal values, whatever their address; of a kind it does not know, the kind and its attributes."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if hasattr(value, "detach") and hasattr(value, "layout"):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if depth > _DEEPEST:
        return type(value).__qualname__
    return _compound(value, depth + 1)


def _compound(value: Any, depth: int) -> str:
    kind = type(value).__qualname__
    if isinstance(value, Mapping):
        return kind + "{" + ",".join(sorted(f"{_token(key, depth)}:{_token(item, depth)}" for key, item in value.items())) + "}"
    if isinstance(value, list | tuple):
        return kind + "[" + ",".join(_token(item, depth) for item in value) + "]"
    if isinstance(value, set | frozenset):
        return kind + "{" + ",".join(sorted(_token(item, depth) for item in value)) + "}"
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}{_token(_closed_over(value), depth)}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, MethodType):
        return f"{type(value.__self__).__qualname__}.{_token(value.__func__, depth)}"
    if isinstance(value, partial):
        return f"{kind}{_token([value.func, value.args, value.keywords], depth)}"
    if isinstance(value, Path):
        return value.name
    # torch's dtypes and devices have no attributes of their own; their names say what they are.
    attributes = getattr(value, "__dict__", None)
    return f"{kind}({_token(attributes, depth)})" if attributes else _plain_name(value, kind)


def _closed_over(function: FunctionType) -> list[Any]:
    """What tells one function from another of the same source."""
    held: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            held.append(cell.cell_contents)
    return held


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _plain_name(value: Any, kind: str) -> str:
    return f"{kind}:{_ADDRESS.sub('', repr(value))}"


def _tensor(value: Any) -> str:
    import torch

    if not isinstance(value, torch.Tensor) or value.device.type == "meta":
        return f"{type(value).__qualname__}"
    kind = f"{value.dtype}{tuple(value.shape)}{value.layout}"
    if value.is_quantized:
        value = value.dequantize()
    elif value.layout != torch.strided:
        value = value.to_dense()
    flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{kind}{hashlib.sha256(flat.numpy().tobytes()).hexdigest()}"
