"""Recurrent layers: the float64 definition, onnxruntime, TFLite in LiteRT and Core ML in the MIL interpreter compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.backends import coreml, tflite
from edgepack.backends.artifact import WriteOptions
from edgepack.backends.spelling import respell
from edgepack.hub.canonical import canonicalize, run_plain
from edgepack.hub.graph import HubError
from edgepack.hub.passes import recurrent
from edgepack.hub.reference import Float64Run
from edgepack.runner.litert import LiteRTSession
from edgepack.runner.mil import MilSession
from tests.backends.recurrent_cases import CASES, Arrays, layer

# Sums of 10 products of numbers near 1 in float32, over 4 steps: 2^-24 * sqrt(10) * 4 is 8e-7; fp16 has 2^-11 for 2^-24.
TOLERANCE = {"fp32": 4e-6, "fp16": 8e-3}


def artifact(model: onnx.ModelProto, feed: Arrays, folder: Path, backend: Any, load: Callable[[str], Any], scheme: str) -> Arrays:
    onnx.save(ir.to_proto(canonicalize(model, feed).model), folder / "hub.onnx")
    described = backend.write(folder / "hub.onnx", folder, WriteOptions(scheme))
    assert [finding for finding in backend.lint(folder / described.file) if finding.level == "error"] == []
    session = load(str(folder / described.file))
    session.set_inputs({held.name: feed[held.hub_name] for held in described.inputs})
    session.invoke()
    results = session.outputs()
    return {held.hub_name: results[held.name] for held in described.outputs}


@pytest.mark.parametrize("name", [name for name in CASES if "batchwise" not in name])
def test_the_float64_definition_agrees_with_onnxruntime(name: str) -> None:
    model, feed = CASES[name]
    truth = Float64Run(model)(feed)
    for output, found in run_plain(model, feed).items():
        np.testing.assert_allclose(found, truth[output], atol=TOLERANCE["fp32"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("backend", "load", "scheme"), [(tflite, lambda path: LiteRTSession(path, 1), "fp32"), (coreml, MilSession, "fp32")]
)
def test_both_phones_compute_the_definition(name: str, backend: Any, load: Any, scheme: str, tmp_path: Path) -> None:
    model, feed = CASES[name]
    truth = Float64Run(model)(feed)
    for output, found in artifact(model, feed, tmp_path, backend, load, "fp32").items():
        np.testing.assert_allclose(found, truth[output], atol=TOLERANCE["fp32"], err_msg=output)


@pytest.mark.parametrize("name", ["lstm both", "gru of torch", "gru one sequence", "rnn reverse"])
def test_half_precision_is_as_good_as_half_precision_is(name: str, tmp_path: Path) -> None:
    model, feed = CASES[name]
    truth = Float64Run(model)(feed)
    for output, found in artifact(model, feed, tmp_path, coreml, MilSession, "fp16").items():
        np.testing.assert_allclose(found, truth[output], atol=TOLERANCE["fp16"], err_msg=output)


@pytest.mark.parametrize(
    ("name", "operation"), [("lstm both", "lstm"), ("lstm peepholes", "lstm"), ("gru one sequence", "gru"), ("rnn reverse", "rnn")]
)
def test_core_ml_gets_its_own_operation_where_that_is_the_same(name: str, operation: str, tmp_path: Path) -> None:
    model, feed = CASES[name]
    artifact(model, feed, tmp_path, coreml, MilSession, "fp32")
    assert MilSession(str(tmp_path / "model.mlpackage")).describe()["operations"][operation] == 1


def test_a_sequence_too_long_to_write_out_is_refused_by_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "MOST_STEPS", 3)
    with pytest.raises(HubError, match=r"LSTM 'layer' has 4 steps, more than the 3 that are written out"):
        respell(ir.from_proto(layer("LSTM")[0]), [recurrent.UNROLLED])


def test_an_unknown_activation_is_named() -> None:
    model, _ = layer("RNN", activations=["Swish"])
    with pytest.raises(HubError, match=r"RNN 'layer' has activation Swish"):
        respell(ir.from_proto(model), [recurrent.UNROLLED])
