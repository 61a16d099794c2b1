"""Loops, scans and branches that only a run decides: both formats answer as onnxruntime and float64, and refuse what has no fixed shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.backends import coreml, tflite
from edgepack.backends.artifact import WriteOptions
from edgepack.backends.table import BackendError
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import canonicalize, run_plain
from edgepack.hub.passes import control
from edgepack.hub.reference import Float64Run
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.bias_correction import correct_biases
from edgepack.quantize.constraints import Demands
from edgepack.quantize.placement import carries_codes
from edgepack.runner.litert import LiteRTSession
from edgepack.runner.mil import MilSession
from tests.backends.both_formats import FORMATS
from tests.backends.loop_cases import CASES, LONGEST, Case
from tests.fuzz.worker import ARITHMETIC
from tests.old_runtime import RUNTIME, OldSession, demanded
from tests.quantize.graphs import ranges_of

_WRITERS: dict[str, Any] = {"tflite": tflite, "coreml": coreml}


@pytest.fixture(autouse=True)
def short_loops_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops of a known number of rounds stay as well, as those too long to write out do."""
    monkeypatch.setattr(control, "MOST_NODES", LONGEST)


def hub_of(model: onnx.ModelProto, feed: dict[str, Any], folder: Path) -> Path:
    path = folder / "hub.onnx"
    ir.save(canonicalize(model, feed).model, path)
    return path


class Written:
    """An artifact of a case, without findings, that answers feeds of the hub's names and types."""

    def __init__(self, case: Case, format_name: str, folder: Path, scheme: str = "fp32", runtime: str = "") -> None:
        hub, writer = hub_of(case.model, case.feeds[0], folder), _WRITERS[format_name]
        self._written = writer.write(hub, folder, WriteOptions(scheme, runtime=runtime))
        artifact = folder / self._written.file
        assert writer.lint(artifact) == []
        plain: Any = OldSession if runtime else lambda path: LiteRTSession(path, 1)
        self._session = plain(str(artifact)) if format_name == "tflite" else MilSession(artifact)

    def __call__(self, feed: dict[str, Any]) -> dict[str, Any]:
        names = {held.hub_name: held.name for held in self._written.inputs}
        self._session.set_inputs({names[name]: _narrow(array) for name, array in feed.items()})
        self._session.invoke()
        found = self._session.outputs()
        return {held.hub_name: found[held.name] for held in self._written.outputs}


def _narrow(array: Any) -> Any:
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _assert_right(case: Case, answer: Written) -> None:
    """2^-24 for each of some tens of roundings, which no body here amplifies by more than ten."""
    exact = Float64Run(case.model)
    for feed in case.feeds:
        found, runs = answer(feed), (run_plain(case.model, feed), exact(feed))
        for name, array in found.items():
            for wanted in (held[name] for held in runs):
                np.testing.assert_allclose(array, wanted, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(wanted).max()), err_msg=name)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_loop_that_only_a_run_ends_answers_as_onnxruntime_and_float64(case: Case, format_name: str, tmp_path: Path) -> None:
    _assert_right(case, Written(case, format_name, tmp_path))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_tensorflow_lite_2_14_runs_the_same_loops(case: Case, tmp_path: Path) -> None:
    demanded()
    _assert_right(case, Written(case, "tflite", tmp_path, runtime=RUNTIME))


def test_an_fp16_package_takes_as_many_rounds_as_float32(tmp_path: Path) -> None:
    """1e-3 next to a root of 10 is less than a step of fp16: only a loop in float32 sees its condition fail when it should."""
    case = CASES["until the step is small"]
    answer = Written(case, "coreml", tmp_path, "fp16")
    for feed in case.feeds:
        assert answer(feed)["rounds"] == run_plain(case.model, feed)["rounds"]


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            """g (float[1,3] x, int64[1] count) => (float[N,3] y)
            { y = Loop (count, , x) <body = b (int64 i, bool c, float[M,3] s) => (bool c2, float[K,3] s2)
                { c2 = Identity (c)  s2 = Concat <axis = 0> (s, x) }> }""",
            r"has shape \[1,3\], and .* in its place \[2,3\]",
        ),
        (
            """g (float[1,3] x, int64[1] count) => (float[1,3] y, float[N,1,3] rows)
            { y, rows = Loop (count, , x) <body = b (int64 i, bool c, float[1,3] s) => (bool c2, float[1,3] s2, float[1,3] row)
                { c2 = Identity (c)  s2 = Add (s, x)  row = Neg (s2) }> }""",
            "a place for every round, and only a run tells how many",
        ),
        (
            """g (float[1,3] x, int64[1] count) => (float[1,3] y)
            { y = Loop (count, , x) <body = b (int64 i, bool c, float[1,3] s) => (bool c2, float[1,3] s2)
                { c2 = Identity (c)  n = NonZero (s)  f = Cast <to = 1> (n)  m = ReduceMean <keepdims = 0> (f)  s2 = Add (s, m) }> }""",
            "NonZero .* inside it gives",
        ),
    ],
    ids=["a state that grows", "rows without number", "a size inside"],
)
def test_what_has_no_fixed_shape_is_refused_by_the_name_of_the_loop(text: str, words: str, format_name: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>\n' + text)
    hub = hub_of(model, {"x": np.ones((1, 3), np.float32), "count": np.asarray([2])}, tmp_path)
    with pytest.raises(BackendError, match=f"Loop 'Loop_y': .*{words}"):
        _WRITERS[format_name].write(hub, tmp_path, WriteOptions("fp32"))


@pytest.mark.parametrize("format_name", FORMATS)
def test_static_int8_around_a_loop_leaves_the_loop_real(format_name: str, tmp_path: Path) -> None:
    """The body reads an input that its neighbours read as codes, and the biases around it are corrected through it."""
    case = CASES["images"]
    model = case.model
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(LONGEST), "count"))
    del model.graph.input[1]
    random = np.random.default_rng(7)
    samples = Samples({"x": random.standard_normal((16, 1, 3, 5, 5)).astype(np.float32)})
    hub = canonicalize(model, {"x": samples.arrays["x"][0]}).model
    quantized, _ = quantize_static(hub, ranges_of(hub, samples), Demands(ARITHMETIC[format_name]))
    correct_biases(hub, quantized, samples, lambda done, total: None)
    (loop,) = (node for node in quantized.graph if node.op_type == "Loop")
    assert not carries_codes(loop.attributes["body"].as_graph())
    ir.save(quantized, tmp_path / "codes.onnx")
    writer = _WRITERS[format_name]
    written = writer.write(tmp_path / "codes.onnx", tmp_path, WriteOptions("w8a8"))
    artifact = tmp_path / written.file
    session = LiteRTSession(str(artifact), 1) if format_name == "tflite" else MilSession(artifact)
    for x in samples.arrays["x"][:4]:
        session.set_inputs({written.inputs[0].name: x})
        session.invoke()
        wanted = run_plain(ir.to_proto(quantized), {"x": x})["y"]
        step = np.ptp(wanted) / 255
        # Codes of the first convolution may round to either side; the loop and the last convolution spread one such step over its window.
        np.testing.assert_allclose(session.outputs()[written.outputs[0].name], wanted, atol=4 * step)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_while_loop_of_torch_converts(format_name: str, tmp_path: Path) -> None:
    import torch
    from torch._higher_order_ops.while_loop import while_loop

    class Relaxed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            def goes_on(turn: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
                return (turn < 20) & (state.abs().max() < 4.5)  # type: ignore[no-any-return]

            def body(turn: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return turn + 1, torch.tanh(self.linear(state)) * 1.2 + x

            turns, state = while_loop(goes_on, body, (torch.tensor(0), x.clone()))
            return state, turns.reshape(1)

    torch.manual_seed(0)
    feeds = tuple({"x": scale * torch.randn(1, 6).numpy()} for scale in (1, 3, 10))
    exported = torch.onnx.export(Relaxed().eval(), (torch.zeros(1, 6),), dynamo=True, verbose=False)
    assert exported is not None
    exported.save(tmp_path / "torch.onnx")
    model = onnx.load(tmp_path / "torch.onnx")
    model.graph.input[0].name = "x"
    _assert_right(Exported("", feeds, {}, model), Written(Exported("", feeds, {}, model), format_name, tmp_path))


@dataclass(frozen=True)
class Exported(Case):
    """A case that comes as a model."""

    given: onnx.ModelProto

    @property
    def model(self) -> onnx.ModelProto:
        """The model as it was exported."""
        return self.given
