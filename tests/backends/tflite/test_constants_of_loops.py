"""What a loop hands on unchanged may be a constant: elementwise operators find one where a graph without loops would have folded it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.tflite import write
from tests.backends.tflite.models import run_litert

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[1, 3] x, float limit) => (float[1, 3] y, float[1, 3] z) <float[1, 3] held = {{1.5, -2.0, 0.5}}, bool on = {{1}}> {{
  z, kept = Loop ("", on, x, held) <body = each (int64 i, bool c, float[1, 3] s, float[1, 3] t)
    => (bool below, float[1, 3] grown, float[1, 3] same) {{
      grown = Add (s, t)
      same = Identity (t)
      largest = ReduceMax <keepdims = 0> (grown)
      below = Less (largest, limit)
  }}>
  y = {operator} (kept)
}}
"""


@pytest.mark.parametrize(
    ("operator", "wanted"),
    [("ThresholdedRelu", [1.5, 0, 0]), ("Shrink", [1.5, -2, 0]), ("Celu", [1.5, np.expm1(-2), 0.5]), ("Selu", None), ("Softsign", None)],
)
def test_an_elementwise_operator_takes_a_constant_that_a_loop_keeps(operator: str, wanted: list[float] | None, tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(MODEL.format(operator=operator)))
    onnx.save(model, tmp_path / "hub.onnx")
    feed = {"x": np.zeros((1, 3), np.float32), "limit": np.float32(4)}
    answers = run_litert(write(tmp_path / "hub.onnx", tmp_path, WriteOptions("fp32")), tmp_path, feed)
    expected = onnx.reference.ReferenceEvaluator(model).run(None, feed)
    np.testing.assert_allclose(answers["y"], expected[0], rtol=1e-6)
    np.testing.assert_allclose(answers["z"], expected[1], rtol=1e-6)
    assert wanted is None or np.allclose(answers["y"], [wanted], rtol=1e-6)
