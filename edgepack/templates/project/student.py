"""The student to export: build your own nn.Module here, load its weights, and say what goes in and out.

edgepack inspect student.py:student
edgepack build student.py:student -c calibration.toml -o pack/
"""

import torch
from torch import nn

from edgepack import ImagePreprocessing, Student, TensorSpec

LABELS = ("disc", "square", "stripes")
SIZE = 64


class Net(nn.Module):
    """Three convolutions over an RGB image; replace it with your distilled network."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.classify = nn.Linear(32, len(LABELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(image).mean(dim=(2, 3)))


def student() -> Student:
    """Called by edgepack. The weights here are random; load yours, for example with safetensors.torch.load_model."""
    torch.manual_seed(0)
    return Student(
        Net(),
        example_inputs=(torch.zeros(1, 3, SIZE, SIZE),),
        inputs=[TensorSpec("image", layout="NCHW")],
        outputs=[TensorSpec("logits", layout="NC")],
        name="my-student",
        # (pixel / 255 - mean) / std, exactly as in training.
        preprocessing=ImagePreprocessing(height=SIZE, width=SIZE, channels=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        labels=LABELS,
        licence="unspecified",
    )
