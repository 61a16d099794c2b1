"""The table of docs/legacy.md: ``python -m tests.backends.tflite.old_table --write docs/legacy.md``.

A row for each operator that the writer's sources name: the version that the runtime has, and what is written in its stead.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

import edgepack.backends.tflite
from edgepack.backends.tflite.runtimes import runtime

BEGIN, END = "<!-- table: python -m tests.backends.tflite.old_table --write docs/legacy.md -->", "<!-- end of table -->"


def emitted() -> list[str]:
    """The operators that the writer's sources name, sorted."""
    folder = Path(edgepack.backends.tflite.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in (*folder.glob("lower/*.py"), folder / "emit.py", folder / "write.py")]
    names = {name for text in sources for name in re.findall(r'"([A-Z][A-Z0-9_]+)"', text)}
    return sorted(names & set(vars(schema.BuiltinOperator)))


def rows() -> Iterator[str]:
    """A line for each operator that the writer emits."""
    old = runtime("2.14")
    assert old is not None
    yield "| operator | highest version | what is done about it |"
    yield "|---|---:|---|"
    for name in emitted():
        notes = []
        if name in old.coarse:
            notes.append("int8 refused")
        if name in old.broadcasts:
            notes.append(f"operands of more than {old.broadcasts[name]} axes are spread by BROADCAST_TO")
        notes += [f"{dtype} refused" for operator, dtype in sorted(old.lacks) if operator == name]
        if name in old.finite:
            notes.append("over nothing: refused")
        yield f"| {name} | {old.highest.get(name, 'none: refused')} | {'; '.join(notes)} |"


def with_table(page: str) -> str:
    """The page with its table made anew."""
    before, _, rest = page.partition(BEGIN)
    return "\n".join([before + BEGIN, "", *rows(), "", END + rest.partition(END)[2]])


def main() -> None:
    parser = argparse.ArgumentParser(description="The operators of TensorFlow Lite 2.14 as docs/legacy.md shows them.")
    parser.add_argument("--write", type=Path, help="the page whose table is written anew")
    page = parser.parse_args().write
    if page is None:
        print("\n".join(rows()))
    else:
        page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
