"""Which operator versions tflite-runtime 2.14 has, asked of it: ``python -m tests.backends.tflite.probe`` prints them.

An interpreter resolves every operator code of a file when it opens it, whether an operator uses it or not: a file of one code and no
operator asks for one version.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgepack.devices.tflite_runtime import environment

# No operator of today has as many. Codes beyond those it knows are out of its range, and the code of custom operators names none.
_VERSIONS = range(1, 16)
_PROGRAM = """
import json, pathlib, sys
from tflite_runtime.interpreter import Interpreter
def knows(path):
    try:
        Interpreter(str(path))
    except ValueError as error:
        if not any(words in str(error) for words in ("Didn't find op for builtin opcode", "out of range", "custom_code")):
            raise
        return False
    return True
found = {}
for operator in pathlib.Path(sys.argv[1]).iterdir():
    for path in sorted(operator.iterdir()):
        if knows(path):
            found[operator.name] = int(path.stem)
        elif int(path.stem) > 1:
            break
print(json.dumps(found))
"""


def known_versions() -> dict[str, int]:
    """The highest version of each operator it has: up to the first it lacks, BROADCAST_TO's withdrawn number 1 apart."""
    codes = {name: number for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    held = environment()
    with tempfile.TemporaryDirectory() as folder:
        for name, number in codes.items():
            (Path(folder) / name).mkdir()
            for version in _VERSIONS:
                (Path(folder) / name / f"{version:02}.tflite").write_bytes(_file(number, version))
        command = held.command("-c", _PROGRAM, folder)
        ended = subprocess.run(command, env=held.variables(), capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, int] = json.loads(ended.stdout)
    return found


def _file(number: int, version: int) -> bytes:
    code: Any = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    graph: Any = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
    model: Any = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    """A line for each number: the operators whose highest version it is."""
    known = known_versions()
    for number in sorted(set(known.values())):
        print(f"{number}: {' '.join(sorted(name for name, highest in known.items() if highest == number))}")


if __name__ == "__main__":
    main()
