"""The Silero VAD student: ``demo_app/students/silero_vad/student.py:student`` (``pip install edgepack[silero]``)."""

from __future__ import annotations

import torch
from silero_vad_model import CONTEXT, HIDDEN, STEP, network

from edgepack import Student, TensorSpec


def student() -> Student:
    """One step of 32 ms at 16 kHz: the 64 samples before and 512 new ones; its state goes from step to step."""
    return Student(
        network(),
        example_inputs=(torch.randn(1, CONTEXT + STEP, generator=torch.Generator().manual_seed(0)) / 8, torch.zeros(2, 1, HIDDEN)),
        inputs=[TensorSpec("audio", value_range=(-1.0, 1.0)), TensorSpec("state")],
        outputs=[TensorSpec("speech"), TensorSpec("next_state")],
        name="silero_vad",
        licence="MIT",
        state={"state": "next_state"},
    )
