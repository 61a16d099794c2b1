"""The products of a recurrent layer are counted where it is one operation."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.registry import backend
from edgepack.hub.canonical import canonicalize
from edgepack.inspection.coreml_file import inspect
from edgepack.inspection.macs import products
from tests.backends.recurrent_cases import BATCH, CASES, HIDDEN, STEPS, WIDTH

# Four gates, two directions.
MACS = STEPS * BATCH * 4 * HIDDEN * (WIDTH + HIDDEN) * 2


def test_an_lstm_multiplies_its_input_and_its_state_at_every_step(tmp_path: Path) -> None:
    model, feed = CASES["lstm both"]
    hub = ir.to_proto(canonicalize(model, feed).model)
    assert sum(product.macs or 0 for product in products(hub)) == MACS
    onnx.save(hub, tmp_path / "hub.onnx")
    written = backend("coreml").write(tmp_path / "hub.onnx", tmp_path, WriteOptions("fp32"))
    assert inspect(tmp_path / written.file).macs == MACS
