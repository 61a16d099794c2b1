"""``torch.export`` programs from anyone, checked before torch loads them.

``torch.export.load`` unpickles, evaluates symbolic sizes and guards as Python, writes names from the file into code that it compiles,
looks operators up by any dotted path under ``torch`` and opens compiled libraries (torch 2.13: ``torch/export/pt2_archive/_package.py``,
``torch/_export/serde/serialize.py``, ``torch/fx/graph.py``). Here an archive may hold known members only, its pickles tensors only, its
operators come from a list, its sizes from a grammar, and no name can be more than a name.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from edgepack.errors import EdgepackError, one_line
from edgepack.student.spec import StudentError

_SAVE_AGAIN = "write it with torch.export.save of torch 2.9 or newer"
_UNTRUSTED = "do not trust this file; ask its author for an .onnx"

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|extra/.*"
)
_MODEL = "models/model.json"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = {"data/weights/": "data/weights/model_weights_config.json", "data/constants/": "data/constants/model_constants_config.json"}
# A network of ten thousand nodes writes 20 MB of JSON; Python holds it in about ten times that.
_MOST_JSON = 64 * 2**20
# Subgraphs of control flow nest a few deep at 12 levels of JSON each; torch reads them recursively.
_DEEPEST = 200
# torch stores members as they are; .pt members inside may be compressed by other writers, never by this much.
_MOST_MEMBERS = 100_000

_PURE_MATH = "acos acosh asin asinh atan atan2 atanh ceil cos cosh exp floor log log10 log1p log2 sin sinh sqrt tan tanh trunc"
_PURE_OPERATORS = "add sub mul truediv floordiv mod pow neg pos abs lt le gt ge eq ne and_ or_ xor not_ invert getitem"
# Operators that call graphs of the file itself, checked like the rest of it.
_HIGHER_ORDER = "cond while_loop map_impl scan associative_scan wrap_with_set_grad_enabled wrap_with_autocast invoke_subgraph"
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|onnx|onnx_symbolic)\.\w+(\.\w+)?"
    rf"|torch\.ops\.higher_order\.({_HIGHER_ORDER.replace(' ', '|')})"
    rf"|torch\.sym_(int|float|max|min|not|ite|sqrt|sum|fresh_size)|torch\._sym_[a-z0-9]+"
    rf"|_operator\.({_PURE_OPERATORS.replace(' ', '|')})|math\.({_PURE_MATH.replace(' ', '|')})",
    re.ASCII,
)

_SYMPY = (
    "Symbol Dummy Integer Float Rational Add Mul Pow Mod Max Min Abs Equality Unequality GreaterThan StrictGreaterThan LessThan "
    "StrictLessThan Eq Ne Ge Gt Le Lt And Or Not FloorDiv CeilDiv CleanDiv ModularIndexing Where PythonMod IntTrueDiv FloatTrueDiv "
    "FloatPow PowByNatural ToFloat TruncToFloat TruncToInt CeilToInt FloorToInt RoundToInt RoundDecimal Identity "
    "IsNonOverlappingAndDenseIndicator floor ceiling"
)
_FUNCTIONS = frozenset(_SYMPY.split())
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_VALUES = frozenset({"true", "false", "oo", "int_oo", "zoo", "nan", "Half", "NegativeOne", "One", "Zero"})
_LONGEST_EXPRESSION = 4096
_HIGHEST_POWER = 8
_EXPRESSION_NODES = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub, ast.UAdd),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_LARGEST = 2**64

_CONTAINERS = frozenset(
    {
        None,
        *("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"),
        *("torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict"),
    }
)
# Text that torch keeps beside the graph and never makes code of; guards are dropped after loading.
_FREE_TEXT = frozenset({"metadata", "guards_code", "torch_version", "verifiers"})
# Quotes, backslashes, brackets and line ends: what a name would need to be more than a name in generated code.
_NOT_OF_NAMES = re.compile(r"[^\w.\-/:+ ]")
_NOT_OF_STRINGS = re.compile(r"[\"'\\`{}\x00-\x1f\x7f]")
_STRINGS = frozenset({"as_string", "as_strings"})
_IDENTIFIERS = frozenset({"name", "as_name", "forward_arg_names"})


def load_exported(file: Path) -> Any:
    """A checked ``torch.export.ExportedProgram``.

    Raises:
        StudentError: it is none, is of an older form, or holds what a network does not need.
    """
    from torch.export.pt2_archive._package import load_pt2

    try:
        _check(file)
        program = load_pt2(str(file)).exported_programs["model"]
    except EdgepackError:
        raise
    except Exception as error:
        raise StudentError(f"{file} is not a torch.export program ({one_line(error)})", _SAVE_AGAIN) from error
    program._guards_code = []
    return program


def _check(file: Path) -> None:
    """StudentError, or torch's own error, for an archive that must not be loaded."""
    import torch

    reader = torch._C.PyTorchFileReader(str(file))
    members = reader.get_all_records()
    foreign = [member for member in members if not _MEMBERS.fullmatch(member)]
    if foreign or _MODEL not in members:
        what = f"it holds {foreign[0][:80]!r}" if foreign else f"it holds no {_MODEL}"
        raise StudentError(f"{file} is not a torch.export program: {what}", _SAVE_AGAIN)
    sizes = _sizes(reader, members, file)
    for folder, config in _CONFIGS.items():
        _check_payloads(_json(reader, config, sizes), folder, sizes, file)
    _check_pickle(reader.get_record(_SAMPLE_INPUTS), file)
    for place, key, value in _walk(_json(reader, _MODEL, sizes)):
        _check_value(place, key, value, file)


def _sizes(reader: Any, members: list[str], file: Path) -> dict[str, int]:
    """Bytes of each member, as the reader that loads them has it; together no more than the file, so nothing is compressed."""
    if len(members) > _MOST_MEMBERS or len(set(members)) < len(members):
        raise StudentError(f"{file} holds {len(members)} members, some under one name or too many", _UNTRUSTED)
    sizes = {member: int(reader.get_record_size(member)) for member in members}
    if sum(sizes.values()) > file.stat().st_size:
        raise StudentError(f"{file} unpacks to more than its own size", _SAVE_AGAIN)
    return sizes


def _json(reader: Any, member: str, sizes: dict[str, int]) -> Any:
    if sizes.get(member, 0) > _MOST_JSON:
        raise StudentError(f"{member} of the program has {sizes[member]} bytes", f"at most {_MOST_JSON} are read; export to .onnx")
    try:
        return json.loads(reader.get_record(member))
    except RecursionError as error:
        raise StudentError(f"{member} of the program nests too deep", _UNTRUSTED) from error


def _check_payloads(config: Any, folder: str, sizes: dict[str, int], file: Path) -> None:
    """Every weight is stored as plain numbers, and is no larger than what is stored."""
    for name, held in config["config"].items():
        meta = held.get("tensor_meta") or {}
        if held.get("use_pickle") or held["path_name"].startswith(("custom_obj", "opaque_obj")):
            raise StudentError(f"weight {name[:80]!r} of {file} is an object, not a plain tensor", "export the network with plain tensors")
        count = math.prod(int(size["as_int"]) for size in meta["sizes"])
        if count < 0 or count > max(1, sizes[folder + held["path_name"]]) * 8:
            raise StudentError(f"weight {name[:80]!r} of {file} is declared with more numbers than are stored", _UNTRUSTED)
        _check_name("weight", name, file)


def _check_pickle(content: bytes, file: Path) -> None:
    """The example inputs: tensors in plain containers, as ``weights_only`` has them. torch would fall back to any pickle otherwise."""
    import torch

    inner = torch._C.PyTorchFileReader(io.BytesIO(content)) if content[:2] == b"PK" else None
    if inner is not None and sum(inner.get_record_size(member) for member in inner.get_all_records()) > len(content):
        raise StudentError(f"the example inputs of {file} unpack to more than their own size", _UNTRUSTED)
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise StudentError(f"the example inputs of {file} are not plain tensors ({one_line(error)})", _UNTRUSTED) from error


def _walk(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """(what holds it, key, value) of every string and key outside free text; ValueError for a tree that is too deep."""
    pending = [("", "", tree, 0)]
    while pending:
        place, key, value, depth = pending.pop()
        if depth > _DEEPEST:
            raise ValueError("the graph nests too deep")
        if isinstance(value, dict):
            yield from ((key, "key", name) for name in value)
            pending += [(key, name, held, depth + 1) for name, held in value.items() if name not in _FREE_TEXT]
        elif isinstance(value, list):
            pending += [(place, key, held, depth + 1) for held in value]
        elif isinstance(value, str):
            yield place, key, value


def _check_value(place: str, key: str, value: str, file: Path) -> None:
    if key in ("as_custom_obj", "custom_obj") or value in ("as_custom_obj", "custom_obj"):
        raise StudentError(f"{file} holds an object of a class of its own", "export the network with plain tensors")
    _CHECKS.get(key, _check_name)(place, value, file)


def _check_target(_: str, value: str, file: Path) -> None:
    """What a node calls."""
    if not _TARGET.fullmatch(value) or (value.startswith("torch.ops.") and not _is_operator(value)):
        raise StudentError(f"{file} calls {value[:80]!r}, which is no operator of a network", _UNTRUSTED)


@cache
def _is_operator(target: str) -> bool:
    """Whether a path under torch.ops is an operator, and none that reads or writes a file (aten::save, aten::from_file)."""
    import torch

    if target.startswith("torch.ops.quantized_decomposed."):
        from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators

    found: Any = torch.ops
    for name in target.split(".")[2:]:
        found = getattr(found, name, None)
    if isinstance(found, torch._ops.HigherOrderOperator):
        return True
    overloads = [getattr(found, name) for name in found.overloads()] if isinstance(found, torch._ops.OpOverloadPacket) else [found]
    return all(isinstance(each, torch._ops.OpOverload) and _opens_no_file(each) for each in overloads)


def _opens_no_file(overload: Any) -> bool:
    return all(argument.name != "filename" for argument in overload._schema.arguments)


def _check_key(place: str, value: str, file: Path) -> None:
    """Ranges are looked up by the text of a size, everything else by names."""
    (_check_string if place == "range_constraints" else _check_name)(place, value, file)


def _check_name(_: str, value: str, file: Path) -> None:
    if _NOT_OF_NAMES.search(value):
        raise StudentError(f"{file} holds the name {value[:80]!r}", "name modules and inputs with letters and digits")


def _check_identifier(place: str, value: str, file: Path) -> None:
    """A name that torch writes into code as it is: a parameter of the graph, a keyword; "" for one given by position."""
    if value and (not value.isidentifier() or keyword.iskeyword(value)):
        raise StudentError(f"{file} holds the name {value[:80]!r}", "name modules and inputs with letters and digits")


def _check_string(_: str, value: str, file: Path) -> None:
    if _NOT_OF_STRINGS.search(value):
        raise StudentError(f"{file} passes the text {value[:80]!r} to an operator", _UNTRUSTED)


def _check_tree(_: str, value: str, file: Path) -> None:
    """How arguments nest, as JSON in JSON; a type outside the list makes torch import what the file names."""
    for key, held in _tree_parts(json.loads(value)):
        if key == "type" and held not in _CONTAINERS:
            raise StudentError(
                f"{file} takes or returns a {str(held)[:80]}", "export a module that takes and returns tensors, tuples and dicts"
            )
        for name in _names_of(json.loads(held)) if key == "context" and held else ():
            _check_name("", name, file)


def _tree_parts(tree: Any) -> Iterator[tuple[str, Any]]:
    pending = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield from ((key, part.get(key)) for key in ("type", "context"))
            pending += part["children_spec"]
        elif isinstance(part, list):
            pending += part


def _names_of(context: Any) -> list[str]:
    """The keys of a dict's context; ValueError for anything but a flat list of plain keys."""
    keys = context if isinstance(context, list) else [] if context is None else [context]
    if any(not isinstance(key, str | int | float | bool | None) for key in keys):
        raise ValueError("a container has keys that are no plain names")
    return [key for key in keys if isinstance(key, str)]


def _check_expression(_: str, value: str, file: Path) -> None:
    """A symbolic size: sums and products of symbols, in sympy's names. sympy would evaluate anything else as Python."""
    try:
        tree = ast.parse(value, mode="eval") if len(value) <= _LONGEST_EXPRESSION else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if tree is None or not all(map(_is_symbolic, ast.walk(tree))) or _has_stray_text(tree) or _nests_powers(tree):
        raise StudentError(f"{file} holds the size {value[:80]!r}, which is no sum or product of sizes", _UNTRUSTED)


def _is_symbolic(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _called(node) in _FUNCTIONS and (_called(node) not in _POWERS or _is_small_power(node))
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS | _VALUES or re.fullmatch(r"[a-z]+\d+", node.id) is not None
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) or (isinstance(node.value, bool | int | float) and abs(node.value) < _LARGEST)
    return isinstance(node, _EXPRESSION_NODES)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _has_stray_text(tree: ast.AST) -> bool:
    """Whether a string is there that is neither a symbol's name nor a Float's digits: sympy evaluates strings."""
    plain = {id(call.args[0]) for call in ast.walk(tree) if isinstance(call, ast.Call) and _called(call) in _TEXTS and call.args}
    texts = {id(node): node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return any(place not in plain or not _PLAIN.fullmatch(text) for place, text in texts.items())


_TEXTS = frozenset({"Symbol", "Dummy", "Float"})
_PLAIN = re.compile(r"[A-Za-z_]\w{0,99}|[\d.e+\-]{1,40}", re.ASCII)


def _is_small_power(call: ast.Call) -> bool:
    exponent = call.args[1] if len(call.args) == 2 else None
    numbers = [node.value for node in ast.walk(exponent) if isinstance(node, ast.Constant)] if exponent is not None else []
    return len(numbers) == 1 and isinstance(numbers[0], int) and abs(numbers[0]) <= _HIGHEST_POWER


def _nests_powers(tree: ast.AST) -> bool:
    """Whether a power is taken of a power: twenty such would be a number of 8^20 digits."""
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) in _POWERS]
    return any(inner is not outer for outer in powers for inner in ast.walk(outer) if inner in powers)


_CHECKS: dict[str, Callable[[str, str, Path], None]] = {
    "key": _check_key,
    "target": _check_target,
    "as_operator": _check_target,
    "expr_str": _check_expression,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    **dict.fromkeys(_IDENTIFIERS, _check_identifier),
    **dict.fromkeys(_STRINGS, _check_string),
}
