"""The digits student, as every command takes it: ``demo_app/students/digits/student.py:student``."""

from __future__ import annotations

from pathlib import Path

import torch
from digits_model import DigitsStudent
from safetensors.torch import load_file

from edgepack import ImagePreprocessing, Student, TensorSpec

WEIGHTS = Path(__file__).resolve().parent / "student.safetensors"


def network() -> DigitsStudent:
    """The distilled weights in evaluation mode: float32 (N, 1, 28, 28), values 0..1 -> logits (N, 10)."""
    net = DigitsStudent()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def student() -> Student:
    """The network with its names, preprocessing, labels and licence.

    Pixels go in as ``pixel / 255``, so an int8 input of scale 1/255 holds every one of them exactly.
    """
    return Student(
        network(),
        example_inputs=(torch.zeros(1, 1, 28, 28),),
        inputs=[TensorSpec("image", layout="NCHW")],
        outputs=[TensorSpec("logits", layout="NC")],
        name="digits",
        preprocessing=ImagePreprocessing(height=28, width=28, channels=1),
        labels=tuple("0123456789"),
        licence="Apache-2.0",
    )
