"""Small torch modules and the files made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from edgepack import Student

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Of1(torch.nn.Module):
    """A module whose forward is a function of itself and one tensor."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any], *parts: torch.nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, torch.nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


class Of2(Of1):
    """The same of two tensors."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:  # type: ignore[override]
        return self.function(self, x, y)  # type: ignore[call-arg]


def network(seed: int = 0) -> torch.nn.Module:
    """float32 (N, 3, 8, 8) -> logits (N, 5), with BatchNorm statistics that are not the identity."""
    torch.manual_seed(seed)
    norm = torch.nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    parts = [torch.nn.Conv2d(3, 4, 3), norm, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)]
    return torch.nn.Sequential(*parts).eval()


def run_file(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An .onnx file in onnxruntime, by output name."""
    import os

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def captured(student: Student, folder: Path) -> Path:
    """The student's capture as a file."""
    path = folder / "captured.onnx"
    student.program.capture(path)
    return path


def onnx_file(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray] | None = None,
    element: int = TensorProto.FLOAT,
) -> Path:
    """A file of opset 21 with float inputs and outputs of the given shapes."""
    values = [[helper.make_tensor_value_info(name, element, shape) for name, shape in ends.items()] for ends in (inputs, outputs)]
    held = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    model = helper.make_model(helper.make_graph(nodes, "g", *values, held), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path
