"""Declarations of Android and androidx that stand in for classes are held to signatures that chaquopy-stubgen read out of the real ones.

The stubs are Python's: they keep names, parameters and base classes, and blur numbers that are returned (``int`` for int and long alike).
CameraX and LiteRT have no such stubs.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.program import ROOT

HERE = ROOT / "demo_app" / "android"
UNDESCRIBED = ("androidx.camera.", "org.tensorflow.")
# How the stubs write what Java calls otherwise, by the last name of each.
WORDS = {"jint": "int", "jlong": "long", "jfloat": "float", "jboolean": "boolean", "str": "String", "bool": "boolean", "None": "void"}
# Returned numbers are blurred.
RETURNED = {"int": {"int", "long", "short", "byte"}, "float": {"float", "double"}}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Member:
    """A method, a constructor (named as the class) or a field (no parameters)."""

    owner: str
    name: str
    parameters: tuple[str, ...] | None
    returns: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}" + ("" if self.parameters is None else f"({', '.join(self.parameters)}) -> {self.returns}")


def last(name: str) -> str:
    """The last part of a class's name, without what it is generic in."""
    return re.split(r"[.$]", re.sub(r"<.*>", "", name.strip()))[-1]


# --- ours, by javap ---


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    if shutil.which("javac") is None or shutil.which("javap") is None:
        pytest.skip("no Java compiler is installed")
    out = tmp_path_factory.mktemp("declared")
    subprocess.run(["javac", "-nowarn", "-d", out, *HERE.glob("declarations/**/*.java")], check=True)
    classes = sorted(path.relative_to(out).with_suffix("").as_posix().replace("/", ".") for path in out.rglob("*.class"))
    kept = [name for name in classes if not name.startswith(UNDESCRIBED)]
    said = subprocess.run(["javap", "-protected", "-cp", out, *kept], check=True, capture_output=True, text=True).stdout
    return list(members(said))


def members(said: str) -> Iterator[Member]:
    owner = ""
    for line in said.splitlines():
        opened = re.match(r".*?(?:class|interface|enum) ([\w.$]+)", line)
        if opened and line.endswith("{"):
            owner = opened[1]
        elif line.startswith("  ") and line.strip().endswith(";") and "static {}" not in line:
            yield member(owner, re.sub(r"\b(public|protected|static|final|abstract|default|native)\b|throws.*", "", line).strip(" ;"))


def member(owner: str, words: str) -> Member:
    words = re.sub(r"^\s*<[^(]*?>\s+(?=\S+\s+\S+\()", "", words)
    if "(" not in words:
        kind, name = words.rsplit(" ", 1)
        return Member(owner, name, None, last(kind))
    head, inside = words.rstrip(") ").split("(", 1)
    kind, _, name = head.rpartition(" ")
    return Member(owner, last(name), tuple(last(each) for each in commas(inside)), last(kind) if kind else "void")


def commas(inside: str) -> list[str]:
    """Parameters, without what they are generic in."""
    while "<" in inside:
        inside = re.sub(r"<[^<>]*>", "", inside)
    return [each for each in inside.split(",") if each.strip()]


# --- the real ones, by stubs ---


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ast.ClassDef]:
    folder, found = tmp_path_factory.mktemp("stubs"), dict[str, ast.ClassDef]()
    for name, pinned in json.loads((HERE / "toolchain.json").read_text())["pypi"].items():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), f"{name}=={pinned['version']}"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"pip brings no {name}")
        (wheel,) = folder.glob(f"{name.replace('-', '_')}-*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == pinned["sha256"]
        with zipfile.ZipFile(wheel) as held:
            for path in (each for each in held.namelist() if each.endswith("__init__.pyi")):
                module = Path(path).parent.as_posix().replace("-stubs", "").replace("/", ".")
                found.update(classes(ast.parse(held.read(path)).body, module))
    return found


def classes(body: list[ast.stmt], prefix: str, join: str = ".") -> Iterator[tuple[str, ast.ClassDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield f"{prefix}{join}{node.name}", node
            yield from classes(node.body, f"{prefix}{join}{node.name}", "$")


def family(name: str, described: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """A class and all above it."""
    if name in described:
        yield described[name]
        for base in described[name].bases:
            words = ast.unparse(base).split("[")[0]
            for known in (words, f"{name.rpartition('.')[0]}.{words}"):
                yield from family(nested(known), described)


def nested(name: str) -> str:
    """As Java's compiler names a class within a class: "android.view.View$Callback"."""
    return re.sub(r"(?<=\.)([A-Z]\w*)\.", r"\1$", name)


def typed(annotation: ast.expr | None) -> str:
    """The first of ``int | java.jint | ...`` that says which Java type it is."""
    words = ast.unparse(annotation) if annotation else "None"
    array = re.match(r"java\.chaquopy\.JavaArray\[(.*)\]", words)
    if array:
        return last(array[1]) + "[]"
    parts = [last(part) for part in re.sub(r"\[.*\]", "", words).split("|")]
    exact = next((part for part in parts if part.startswith("j") and part in WORDS), parts[0])
    return WORDS.get(exact, exact)


def fits(wanted: Member, owner: ast.ClassDef) -> bool:
    name = "__init__" if wanted.name == last(wanted.owner) else wanted.name
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and wanted.parameters is None and ast.unparse(node.target) == name:
            return True
        if isinstance(node, ast.FunctionDef) and node.name == name and wanted.parameters is not None:
            found = [typed(each.annotation) for each in (*node.args.posonlyargs, *node.args.args) if each.arg != "self"]
            if all(map(alike, found, wanted.parameters)) and len(found) == len(wanted.parameters) and returns(node, wanted):
                return True
    return False


def alike(found: str, wanted: str) -> bool:
    """The same type; a type variable stands for anything."""
    return found == wanted or found.startswith("_") or (len(wanted) == 1 and wanted.isupper())


def returns(node: ast.FunctionDef, wanted: Member) -> bool:
    found = typed(node.returns)
    return wanted.returns in RETURNED.get(found, {found}) or alike(found, wanted.returns)


def test_every_declared_member_of_android_and_androidx_is_in_the_real_class(
    declared: list[Member], described: Mapping[str, ast.ClassDef]
) -> None:
    assert len(declared) > 60
    strangers = [str(each) for each in declared if not any(fits(each, owner) for owner in family(each.owner, described))]
    assert strangers == []


def test_a_made_up_member_is_found_out(described: Mapping[str, ast.ClassDef]) -> None:
    made_up = [
        Member("android.os.PowerManager", "getHeat", (), "int"),
        Member("android.os.PowerManager", "getCurrentThermalStatus", ("int",), "int"),
        Member("android.os.PowerManager", "getCurrentThermalStatus", (), "String"),
        Member("android.os.NoManager", "getCurrentThermalStatus", (), "int"),
    ]
    assert [any(fits(each, owner) for owner in family(each.owner, described)) for each in made_up] == [False] * 4
    real = Member("android.os.PowerManager", "getCurrentThermalStatus", (), "int")
    assert any(fits(real, owner) for owner in family(real.owner, described))
