"""The scenes student, as every command takes it: ``demo_app/students/digit_scenes/student.py:student``."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from scenes_model import LABELS, ScenesStudent

from edgepack import ImagePreprocessing, Student, TensorSpec

WEIGHTS = Path(__file__).resolve().parent / "student.safetensors"
SIZE = 96


def network() -> ScenesStudent:
    """The distilled weights in evaluation mode: float32 (N, 3, 96, 96), values 0..1 -> logits (N, 11, 96, 96)."""
    net = ScenesStudent()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def student() -> Student:
    """The network with its names, preprocessing, labels and licence.

    Pixels go in as ``pixel / 255``, so an int8 input of scale 1/255 holds every one of them exactly.
    """
    return Student(
        network(),
        example_inputs=(torch.zeros(1, 3, SIZE, SIZE),),
        inputs=[TensorSpec("image", layout="NCHW")],
        outputs=[TensorSpec("logits", layout="NCHW")],
        name="digit_scenes",
        preprocessing=ImagePreprocessing(height=SIZE, width=SIZE, channels=3),
        labels=LABELS,
        licence="Apache-2.0",
    )
