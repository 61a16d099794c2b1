"""Generate with one artifact of a SmolLM2 pack, in a process of its own.

    python -m tests.system.smollm2_tokens PACK TARGET COUNT TOKEN...

Prints the tokens as JSON. TARGET may be "torch": transformers' own greedy search.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from demo_app.students.smollm2.student import generate, language_model

Arrays = dict[str, Any]


def _session(runner: str, path: str) -> Any:
    if runner == "ort":
        from edgepack.runner.ort import OrtSession

        return OrtSession(path, 1)
    if runner == "litert":
        from edgepack.runner.litert import LiteRTSession

        return LiteRTSession(path, 1)
    from edgepack.runner.mil import MilSession

    return MilSession(path)


def _runs(pack: Path, target: str) -> Callable[[Arrays], Arrays]:
    from edgepack.pack.files import load_pack

    (artifact,) = [held for held in load_pack(pack).artifacts if held.target == target]
    session = _session(artifact.runner, str(pack / artifact.file.path))
    inputs = {held.hub_name: held for held in artifact.inputs}
    outputs = {held.name: held.hub_name for held in artifact.outputs}

    def run(feed: Arrays) -> Arrays:
        session.set_inputs({inputs[name].name: array.astype(inputs[name].dtype) for name, array in feed.items()})
        session.invoke()
        return {outputs[name]: array for name, array in session.outputs().items()}

    return run


def _by_torch(prompt: list[int], count: int) -> list[int]:
    import torch

    held = language_model().generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None)
    return [int(token) for token in held[0, len(prompt) :]]


def main() -> None:
    """The command."""
    pack, target, count, *words = sys.argv[1:]
    prompt = [int(word) for word in words]
    tokens = _by_torch(prompt, int(count)) if target == "torch" else generate(_runs(Path(pack), target), prompt, int(count))
    print(json.dumps(tokens))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
