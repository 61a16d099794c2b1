"""Images read between their pixels: both formats answer as onnxruntime."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.hub.canonical import run_plain
from tests.backends.both_formats import FORMATS, artifact_outputs, one_node

RNG = np.random.default_rng(13)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


# Onnxruntime moves both coordinates to the border where one is beyond it, which a cubic sees: that form is judged by onnx's own cases.
FORMS = [
    *((mode, padding, aligned, 2) for mode, padding, aligned in product(("nearest", "linear"), ("zeros", "border", "reflection"), (0, 1))),
    *(("cubic", padding, 1, 2) for padding in ("zeros", "reflection")),
    ("linear", "reflection", 0, 3),
    ("nearest", "border", 1, 3),
]


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(("mode", "padding", "aligned", "rank"), FORMS)
def test_an_image_is_sampled_as_in_onnxruntime(mode: str, padding: str, aligned: int, rank: int, format_name: str, tmp_path: Path) -> None:
    x = normal(2, 3, *(5, 4, 3)[:rank])
    grid = RNG.uniform(-2.5, 2.5, (2, *(3, 4, 2)[:rank], rank)).astype(np.float32)
    model = one_node("GridSample", {"x": x, "grid": grid}, 2, mode=mode, padding_mode=padding, align_corners=aligned)
    feed = {"x": x, "grid": grid}
    wanted = run_plain(model, feed)["y"]
    # A coordinate of a few pixels is known to 2^-22, a pixel changes by about 3 from one to the next, and a cubic is twice as steep.
    np.testing.assert_allclose(artifact_outputs(model, feed, format_name, tmp_path)["y"], wanted, rtol=1e-5, atol=1e-5)
