"""int8 operators in isolation, written by both integer backends: FACTS' table, against float64 first and ONNX Runtime second.

The default run takes a few settings of each operator; ``-m slow`` takes 30 settings and about a million codes of each.
``python -m tests.backends.test_int8_isolation`` prints the table of the long form.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgepack.backends import coreml, tflite
from edgepack.backends.artifact import WriteOptions
from edgepack.mil.program import Program
from edgepack.runner import litert
from tests.backends.int8_cases import CASES, Array, Arrays, Bar, Case, Quantized, fp16_bounds, settings
from tests.backends.tflite.models import run_litert, run_ort

Run = Callable[[Arrays], Array]

# Codes this near to half a step are ties for any arithmetic that rounds its own sums.
_NEAR_TIE = 1e-3

# Builtin kernels beside the partition, exact all the same. XNNPACK has none: a maximum in float between two conversions is one partition
# but slower (131 against 114 us amid 56x56x32 convolutions), an uneven nearest resize as a product likewise (151 against 60).
BESIDE = {"tile", "resize_nearest", "maximum"}


@dataclass(frozen=True)
class Found:
    """What one setting gave.

    Attributes:
        ours, reference: codes of the artifact and of ONNX Runtime. exact: float64 positions before rounding.
        bound, noise: how far fp16 arithmetic puts a position off in steps, at most and as a root mean square; zeros where there is none.
    """

    ours: Array
    reference: Array
    exact: Array
    bound: Array
    noise: Array

    @property
    def delta(self) -> float:
        """max |code - exact position| - 0.5 in steps, what the arithmetic allows taken off."""
        return float((np.abs(self.ours - self.exact) - self.bound).max()) - 0.5

    @property
    def equal_exact(self) -> Array:
        """Whether a code is the exact position rounded half to even."""
        return np.asarray(self.ours == np.rint(self.exact))

    @property
    def equal_reference(self) -> Array:
        """Whether a code is ONNX Runtime's."""
        return np.asarray(self.ours == self.reference)

    @property
    def is_clear(self) -> Array:
        """Whether the exact position lies further from half a step than anything here rounds."""
        return np.asarray(np.abs(self.exact - np.floor(self.exact) - 0.5) > _NEAR_TIE + self.bound)

    @property
    def step(self) -> int:
        """The largest difference from the reference or from float64's code."""
        return int(max(np.abs(self.ours - self.reference).max(), np.abs(self.ours - np.rint(self.exact)).max()))


def measured(name: str, target: str, count: int, samples: int, folder: Path) -> list[Found]:
    """``count`` settings of a case, written by a backend and run."""
    case, found = CASES[name], []
    for quantized in settings(count, SCALE_DTYPES[target], case, folder, samples):
        onnx.save(quantized.model, folder / "hub.onnx")
        run = RUNS[target](folder, quantized)
        found.append(_joined([_found(case, quantized, run, feed, folder, target) for feed in quantized.samples]))
    return found


def _found(case: Case, quantized: Quantized, run: Run, feed: Arrays, folder: Path, target: str) -> Found:
    ours, reference = (quantized.codes(y).ravel() for y in (run(feed), run_ort(folder, feed)["y"]))
    exact = quantized.exact(feed).ravel()
    bounds = fp16_bounds(case, quantized, feed) if target == "coreml" and case.bar.step else (np.zeros(exact.shape),) * 2
    return Found(ours, reference, exact, *(bound.ravel() for bound in bounds))


def _joined(found: Sequence[Found]) -> Found:
    return Found(*(np.concatenate([getattr(one, name) for one in found]) for name in ("ours", "reference", "exact", "bound", "noise")))


def _tflite(folder: Path, quantized: Quantized) -> Run:
    images = {held.name: "NCHW" for held in quantized.model.graph.input if len(held.type.tensor_type.shape.dim) == 4}
    ends = {held.name: "NCHW" for held in quantized.model.graph.output if len(held.type.tensor_type.shape.dim) == 4}
    description = tflite.write(folder / "hub.onnx", folder, WriteOptions("w8a8", images, ends))
    return lambda feed: run_litert(description, folder, feed)["y"]


def _coreml(folder: Path, quantized: Quantized) -> Run:
    program = Program.load(folder / coreml.write(folder / "hub.onnx", folder, WriteOptions("w8a8")).file)
    return lambda feed: np.asarray(program.run(feed)["y"])


RUNS: dict[str, Callable[[Path, Quantized], Run]] = {"tflite": _tflite, "coreml": _coreml}
# Core ML holds scales in fp16; the constraints round them when it is among the targets.
SCALE_DTYPES = {"tflite": "float32", "coreml": "float16"}


def demand(bar: Bar, found: list[Found]) -> None:
    """The row of the table a case stands in, what fp16 adds to it included."""
    total = _joined(found)
    assert total.delta <= bar.delta
    assert total.step <= bar.step
    assert total.equal_exact[total.is_clear].all() or not bar.ties
    if bar.ties:
        return
    # An error of e steps carries a position drawn at random over the edge between two codes with probability e.
    for equal in (total.equal_exact, total.equal_reference):
        assert equal.mean() >= bar.equal - total.noise.mean()
    for each in found:
        assert each.equal_reference.mean() >= bar.setting - each.noise.mean()


@pytest.mark.parametrize("name", CASES)
def test_tflite_codes_meet_the_table(name: str, tmp_path: Path) -> None:
    demand(CASES[name].bar, measured(name, "tflite", 3, 1, tmp_path))


@pytest.mark.parametrize("name", CASES)
def test_coreml_codes_meet_the_table_and_what_fp16_adds(name: str, tmp_path: Path) -> None:
    demand(CASES[name].bar, measured(name, "coreml", 1, 1, tmp_path))


@pytest.mark.parametrize("name", CASES)
def test_exceptions_are_the_operators_whose_exact_results_lie_on_half_a_step(name: str, tmp_path: Path) -> None:
    """Means of four or six codes do so often, whatever the scale; a product of float32 scales hardly ever, and a moved code never."""
    (quantized,) = settings(1, "float32", CASES[name], tmp_path, 1)
    exact = quantized.exact(quantized.samples[0])
    on_half = float((np.abs(exact - np.floor(exact) - 0.5) < _NEAR_TIE / 1000).mean())
    assert on_half > 0.01 if CASES[name].bar.ties else on_half < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNS)
@pytest.mark.parametrize("name", CASES)
def test_codes_meet_the_table_over_a_million_codes(name: str, target: str, tmp_path: Path) -> None:
    demand(CASES[name].bar, measured(name, target, *LONG, tmp_path))


# Settings, and samples in each: of some 5,800 codes, 1 M in all.
LONG = (30, 6)


@pytest.mark.parametrize("name", [name for name in CASES if name not in BESIDE])
def test_the_delegate_takes_the_operator_whole(name: str, tmp_path: Path) -> None:
    (quantized,) = settings(1, "float32", CASES[name], tmp_path, 1)
    onnx.save(quantized.model, tmp_path / "hub.onnx")
    _tflite(tmp_path, quantized)
    assert litert.RUNTIME.load(str(tmp_path / "model.tflite"), 1).describe()["outside"] == {}


def row(name: str, target: str, count: int, samples: int) -> str:
    """A line of the measured table."""
    with tempfile.TemporaryDirectory() as folder:
        found = measured(name, target, count, samples, Path(folder))
    total = _joined(found)
    clear = total.equal_exact[total.is_clear].mean() if total.is_clear.any() else np.nan
    worst = min(each.equal_reference.mean() for each in found)
    shares = [100 * share for share in (total.equal_exact.mean(), clear, total.equal_reference.mean(), worst)]
    distance = float(np.abs(total.ours - total.exact).max()) - 0.5
    figures = " | ".join(f"{share:8.4f}" for share in shares)
    halves = f"{100 * total.noise.mean():.2f} | {total.bound.max():.2f}"
    return f"{target} | {name} | {total.ours.size} | {figures} | {total.step} | {distance:.1e} | {halves}"


def main(arguments: list[str]) -> None:
    """Print the table; arguments: settings and samples of each, then names of targets and cases (all of them when there are none)."""
    count, samples = map(int, arguments[:2] or map(str, LONG))
    print("target | operator | codes | % equal float64 | % of no ties | % equal ORT | worst setting | step | delta | % fp16 noise | most")
    chosen = set(arguments[2:])
    for target in [target for target in RUNS if target in chosen] or RUNS:
        for name in [name for name in CASES if name in chosen] or CASES:
            print(row(name, target, count, samples), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
