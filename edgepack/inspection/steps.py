"""The step that looks at one model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgepack.backends.artifact import Finding
from edgepack.backends.registry import backend
from edgepack.converter.step import Progress
from edgepack.errors import one_line
from edgepack.inspection.facts import FileFacts, InspectionError, Port

# Suffixes: the module that reads such files, and the backend whose linter knows them.
FORMATS = {".onnx": "ort", ".tflite": "tflite", ".mlpackage": "coreml", ".mlmodel": "coreml"}


def look(file: Path, out: Path, progress: Progress) -> None:
    """Write facts.json: everything about the file, and what the linter of our backend for its format says.

    Raises:
        InspectionError: the file does not exist, or cannot be read.
    """
    if not file.exists():
        raise InspectionError(f"{file} does not exist", "name an .onnx, .tflite or .mlpackage, a pack, or a student")
    facts = _reader(FORMATS[file.suffix])(file)
    progress(1, 2)
    facts = msgspec.structs.replace(
        facts,
        inputs=tuple(map(with_layout, facts.inputs)),
        outputs=tuple(map(with_layout, facts.outputs)),
        findings=(*facts.findings, *_lint(file, facts)),
    )
    (out / "facts.json").write_bytes(_encoded(facts, file))
    progress(2, 2)


def _encoded(facts: FileFacts, file: Path) -> bytes:
    """As JSON that reads back; what does not (sizes beyond 64 bits, text that is none) says that the file is damaged."""
    try:
        content = msgspec.json.encode(facts)
        msgspec.json.decode(content, type=FileFacts)
    except (msgspec.MsgspecError, OverflowError, UnicodeError, TypeError) as error:
        raise InspectionError(f"{file} holds what cannot be told ({one_line(error)})", "it is damaged: write it again") from error
    return content


# Channels that an image has.
_CHANNELS = (1, 3, 4)
_IMAGE_RANK = 4


def with_layout(port: Port) -> Port:
    """A tensor of four axes of which exactly one, the second or the last, is as long as images have channels: its layout is plain."""
    if port.layout or len(port.shape) != _IMAGE_RANK:
        return port
    first, last = port.shape[1] in _CHANNELS, port.shape[-1] in _CHANNELS
    return msgspec.structs.replace(port, layout="NCHW" if first else "NHWC") if first != last else port


def _reader(kind: str) -> Callable[[Path], FileFacts]:
    from edgepack.inspection import coreml_file, onnx_file, tflite_file

    return {"ort": onnx_file.inspect, "tflite": tflite_file.inspect, "coreml": coreml_file.inspect}[kind]


def _lint(file: Path, facts: FileFacts) -> list[Finding]:
    """What our linter says, if it was not said already; a file of another tool may be beyond it."""
    if any(found.level == "error" for found in facts.findings):
        return []
    try:
        found = backend(FORMATS[file.suffix]).lint(file)
    except Exception as error:
        return [Finding("warning", file.name, f"the linter cannot look at it ({one_line(error)})")]
    return [each for each in found if each not in facts.findings]
