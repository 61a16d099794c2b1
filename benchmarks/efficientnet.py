"""EfficientNet-Lite0 on the committed crops: what every target keeps of it, and int8 against onnxruntime's own quantization.

make bench-efficientnet

The pack is built as anybody builds it (``edgepack.build``), and what is judged are the answers that its artifacts, read back from disk,
gave in the runners of the product. The crops have no labels: classes are compared with the student's own. onnxruntime's
``quantize_static`` gets the same hub and the same calibration crops, with its per-channel defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack import build
from edgepack.arrays import load_arrays, save_arrays
from edgepack.calibration.crops import read_crops
from edgepack.calibration.readers import Samples
from edgepack.converter.execute import folder_of
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import Request, run_local
from edgepack.pack.manifest import Pack
from edgepack.student.load import load_student
from edgepack.verify.metrics import agreement, probabilities, sqnr_db, top1

ROOT = Path(__file__).resolve().parents[1]
STUDENT = f"{ROOT / 'demo_app/students/efficientnet_lite0/student.py'}:student"
MANIFEST = ROOT / "calibration" / "efficientnet_photos.toml"
CROPS = ROOT / "calibration" / "efficientnet" / "crops.csv"
ORT, TFLITE, CORE_ML = "raspberry-pi-5", "android", "ios"
TARGETS = (ORT, TFLITE, CORE_ML)
# A target of its own, so that one build gives Core ML in fp16 too.
HALF = "ios-half"

# The bars of the project.
FP32_BELOW_TORCH_DB, FP16_DB = 6.0, 45.0
SURE, SURE_AGREEMENT = 0.3, 0.98
BELOW_ORT_DB = {TFLITE: 0.5, CORE_ML: 1.0}
SIZE_RATIO = 0.30
RESAMPLES = 20_000

Scores = NDArray[Any]


@dataclass(frozen=True)
class Figure:
    """One measured number and what it must be: ``bound`` is a floor, or a ceiling when ``at_most``; None when there is no bar."""

    what: str
    value: float
    bound: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the bar holds."""
        return self.bound is None or (self.value <= self.bound if self.at_most else self.value >= self.bound)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation crops through everything that is compared; scores are (crops, 1000).

    Attributes:
        scene: of each crop. exact: the student in float64; torch: in float32. peer: onnxruntime's own quantization.
        artifacts: by (target, scheme). bytes: their sizes.
    """

    scene: NDArray[Any]
    exact: Scores
    torch: Scores
    peer: Scores
    artifacts: dict[tuple[str, str], Scores]
    bytes: dict[tuple[str, str], int]

    @property
    def sure(self) -> NDArray[np.bool_]:
        """The crops of which the student is at least SURE."""
        return probabilities(self.torch).max(axis=1) >= SURE

    def same(self, scores: Scores) -> NDArray[np.bool_]:
        """Where scores name the student's class."""
        return top1(scores) == top1(self.torch)


def paired_interval(difference: NDArray[np.float64], scene: NDArray[Any], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of a mean over crops, scenes being the chance: all crops of a scene are drawn or left together.

    Pairs cluster bootstrap: Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered errors".
    """
    names, index = np.unique(scene, return_inverse=True)
    sums, counts = np.bincount(index, difference), np.bincount(index)
    draws = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def figures(held: Evaluation) -> Iterator[Figure]:
    """Every figure of bars 5 and 6, with its bar."""
    floor = sqnr_db(held.exact, held.torch) - FP32_BELOW_TORCH_DB
    yield Figure("torch fp32: dB to float64", floor + FP32_BELOW_TORCH_DB)
    for target in TARGETS:
        yield Figure(f"{target} fp32: dB to float64", sqnr_db(held.exact, held.artifacts[target, "fp32"]), floor)
    half = held.artifacts[HALF, "fp16"]
    yield Figure("ios fp16: dB to float64", sqnr_db(held.exact, half), FP16_DB, note=f"{np.count_nonzero(~np.isfinite(half))} not finite")
    yield Figure("crops of which the student is sure", float(held.sure.sum()), note=f"of {len(held.scene)}, probability >= {SURE}")
    yield from _peer(held)
    for target in TARGETS:
        yield from _int8(held, target)


def _peer(held: Evaluation) -> Iterator[Figure]:
    same = held.same(held.peer)
    yield Figure("onnxruntime quantize_static: agreement, sure crops", float(same[held.sure].mean()))
    yield Figure("onnxruntime quantize_static: agreement, all crops", float(same.mean()))
    yield Figure("onnxruntime quantize_static: dB to float64", sqnr_db(held.exact, held.peer))


def _int8(held: Evaluation, target: str) -> Iterator[Figure]:
    scores = held.artifacts[target, "w8a8"]
    same, peer = held.same(scores), held.same(held.peer)
    low, high = paired_interval(same.astype(np.float64) - peer, held.scene)
    yield Figure(f"{target} w8a8: agreement, sure crops", float(same[held.sure].mean()), SURE_AGREEMENT)
    yield Figure(f"{target} w8a8: agreement, all crops", agreement(top1(scores), top1(held.torch)))
    # The bar is that the interval lies above 0, so its lower end must be more than that.
    yield Figure(f"{target} w8a8: lower end of ours - onnxruntime's", low, float(np.nextafter(0, 1)), note=f"upper end {high:.3f}")
    reached = sqnr_db(held.exact, scores)
    ort = sqnr_db(held.exact, held.artifacts[ORT, "w8a8"])
    yield Figure(f"{target} w8a8: dB to float64", reached, ort - BELOW_ORT_DB[target] if target in BELOW_ORT_DB else None)
    size, full = held.bytes[target, "w8a8"], held.bytes[target, "fp32"]
    yield Figure(f"{target} w8a8: bytes over fp32's", size / full, SIZE_RATIO, at_most=True, note=f"{size} of {full}")


def measured(pack: Path, work: Path, tell: Callable[[str], None]) -> tuple[Pack, Evaluation]:
    """Build the pack, and collect what its artifacts, the student and onnxruntime's own quantization answer."""
    work.mkdir(parents=True, exist_ok=True)
    tell("building the pack")
    target = _half_target(work)
    limits = Limits(seconds=1800)
    manifest = build(
        STUDENT, pack, targets=(*TARGETS, str(target)), calibration=str(MANIFEST), latency="none", limits=limits, work=work / "steps"
    )
    steps = work / "steps"
    samples = Samples.open(folder_of(steps, "samples") / "evaluation.npz").arrays["image"]
    tell("onnxruntime quantize_static")
    hub = next(record for record in manifest.hubs if record.scheme == "fp32")
    peer = _run(_quantized_by_onnxruntime(pack / hub.file.path, steps, work), samples, work, limits)
    tell("the student in float64")
    program = load_student(STUDENT).program
    exact = np.concatenate([program.run_float64({"image": sample})["logits"] for sample in samples])
    student = _rows(folder_of(steps, "reference") / "evaluation_outputs.npz")
    keys = [(artifact.target, artifact.scheme) for artifact in manifest.artifacts]
    answers = {key: _rows(folder_of(steps, f"{key[0]} {key[1]}: run") / "evaluation.npz") for key in keys}
    sizes = {(artifact.target, artifact.scheme): artifact.file.bytes for artifact in manifest.artifacts}
    scene = np.array([crop.scene for crop in read_crops(CROPS) if crop.split == "evaluation"])
    return manifest, Evaluation(scene, exact, student, peer, answers, sizes)


def _half_target(work: Path) -> Path:
    """The shipped ios target with fp16 as its one scheme, as a user would write it."""
    lines = (ROOT / "targets" / "ios.toml").read_text().splitlines()
    replaced = {"name": f'name = "{HALF}"', "schemes": 'schemes = ["fp16"]'}
    path = work / f"{HALF}.toml"
    path.write_text("\n".join(replaced.get(line.partition(" ")[0], line) for line in lines) + "\n")
    return path


def _quantized_by_onnxruntime(hub: Path, steps: Path, work: Path) -> Path:
    """``quantize_static`` with its per-channel defaults: QDQ, QUInt8 activations, QInt8 weights, min-max."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(Samples.open(folder_of(steps, "samples") / "calibration.npz").arrays["image"])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            sample = next(self._samples, None)
            return None if sample is None else {"image": sample}

    prepared, quantized = work / "prepared.onnx", work / "onnxruntime.onnx"
    quant_pre_process(str(hub), str(prepared))
    quantize_static(
        str(prepared),
        str(quantized),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return quantized


def _run(model: Path, samples: NDArray[Any], work: Path, limits: Limits) -> Scores:
    """A model in the product's own onnxruntime runner, whose int8 sums are exact on every processor."""
    save_arrays(work / "inputs.npz", {"image": samples})
    request = Request("run", {"artifact": str(model)}, str(work / "inputs.npz"), str(work / "outputs.npz"))
    run_local("ort", request, work, limits)
    return _rows(work / "outputs.npz")


def _rows(path: Path) -> Scores:
    """The one output of a file of stacked samples as (crops, classes)."""
    (scores,) = load_arrays(path).values()
    return scores.reshape(len(scores), -1)


def _by_scene(held: Evaluation) -> dict[str, dict[str, float]]:
    answers = {"onnxruntime": held.peer, **{target: held.artifacts[target, "w8a8"] for target in TARGETS}}
    return {
        str(scene): {name: round(float(held.same(scores)[held.scene == scene].mean()), 3) for name, scores in answers.items()}
        for scene in np.unique(held.scene)
    }


def _print(rows: Sequence[Figure], scenes: dict[str, dict[str, float]], failures: Sequence[str]) -> None:
    for row in rows:
        bar = "" if row.bound is None else f"{'<=' if row.at_most else '>='} {row.bound:.3f}  {'ok' if row.ok else 'MISSED'}"
        print(f"{row.what:52} {row.value:9.3f}  {bar:22} {row.note}")
    print("\nagreement by scene, int8")
    for scene, by_name in scenes.items():
        print(f"  {scene:12}", "  ".join(f"{name} {value:.2f}" for name, value in by_name.items()))
    for line in failures:
        print("gate:", line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; exit code 1 when one misses its bar."""
    parser = argparse.ArgumentParser(description="EfficientNet-Lite0 on the committed crops, against its bars.")
    parser.add_argument("--out", type=Path, help="keep the pack and the files of every step here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.out or Path(scratch)
        manifest, held = measured(folder / "pack", folder / "work", lambda line: None if given.json else print(line, flush=True))
    rows, scenes = list(figures(held)), _by_scene(held)
    failures = [line for artifact in manifest.artifacts for line in artifact.failures]
    if given.json:
        print(json.dumps({"figures": [{**asdict(row), "ok": row.ok} for row in rows], "by_scene": scenes, "gates": failures}, indent=1))
    else:
        _print(rows, scenes, failures)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
