"""The page's modules without a browser, run by Node.js: they compute what the Python they mirror computes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.runner.contract import FEWEST_TICKS, MOST_INNER, WINDOW, is_settled
from edgepack.student.spec import ImagePreprocessing
from edgepack.verify.metrics import probabilities

JS = Path(__file__).resolve().parents[2] / "demo_app" / "web" / "js"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node here: it runs the page's modules")

# A clock that the queries move themselves, and that shows steps of 5 us.
_CLOCK = """
let now = 0;
globalThis.performance = { now: () => (now += 1e-4, Math.floor(now / 0.005) * 0.005) };
const query = (milliseconds) => async () => { now += milliseconds; };
"""


def node(code: str, **given: Any) -> Any:
    """What a module prints as JSON; ``given`` are its constants."""
    head = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    command = ["node", "--input-type=module", "-e", head + code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=JS)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def protocol(**changes: Any) -> dict[str, Any]:
    held = {"warm_up": 5, "pairs": 8, "seconds": 0, "warm_up_seconds": 0, "window": WINDOW}
    return {**held, "fewest_ticks": FEWEST_TICKS, "most_inner": MOST_INNER, **changes}


def test_times_settle_in_the_page_as_on_every_device() -> None:
    rng = np.random.default_rng(3)
    shapes = [(count, slope) for count in (5, 19, 20, 40) for slope in (-3, 0, 3)]
    series = [np.rint(rng.uniform(90, 110, count) + slope * np.arange(count)).tolist() for count, slope in shapes]
    code = f'import {{ isSettled }} from "{JS}/protocol.js"; console.log(JSON.stringify(series.map((each) => isSettled(each, {WINDOW}))));'
    assert node(code, series=series) == [is_settled(each) for each in series]


def test_rounds_go_forth_and_back_and_keep_every_sample() -> None:
    code = f"""import {{ interleave }} from "{JS}/protocol.js";
{_CLOCK}
const order = [];
const named = (name, cost) => async () => {{ order.push(name); now += cost; }};
const taken = await interleave([named("a", 1), named("b", 2)], [1, 3], protocol, () => undefined);
const of = (name) => taken.map((each) => [...each[name]]);
console.log(JSON.stringify({{ order: order.join(""), taken: of("taken"), starts: of("starts") }}));"""
    found = node(code, protocol=protocol(pairs=4))
    assert found["order"] == "abbb" + "bbba" + "abbb" + "bbba"
    assert [len(each) for each in found["taken"]] == [4, 4]
    assert np.allclose(found["taken"][0], 1e6, rtol=0.01) and np.allclose(found["taken"][1], 2e6, rtol=0.01)
    assert all(np.all(np.diff(each) >= 0) for each in found["starts"])


@pytest.mark.parametrize(("milliseconds", "alone"), [(0.004, False), (0.05, False), (3.0, True)])
def test_a_batch_spans_enough_steps_of_the_clock_and_no_more_than_it_must(milliseconds: float, alone: bool) -> None:
    code = f"""import {{ batchSize, clockStep }} from "{JS}/protocol.js";
{_CLOCK}
const tick = clockStep();
const count = await batchSize(query({milliseconds}), [{milliseconds} * 1e6], tick, protocol);
console.log(JSON.stringify([tick, count]));"""
    tick, count = node(code, protocol=protocol())
    ticks = count * milliseconds / 0.005
    assert tick == 5000 and ticks >= FEWEST_TICKS
    assert count == 1 if alone else ticks < 5 * FEWEST_TICKS


@pytest.mark.parametrize("permutation", [(), (0, 2, 3, 1), (3, 1, 0, 2)])
def test_axes_turn_as_numpy_turns_them(permutation: tuple[int, ...]) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    code = f"""import {{ transposed }} from "{JS}/arrays.js";
console.log(JSON.stringify([...transposed(Float32Array.from(values), shape, permutation)]));"""
    found = node(code, values=array.ravel().tolist(), shape=array.shape, permutation=permutation)
    assert found == (array.transpose(permutation) if permutation else array).ravel().tolist()


@pytest.mark.parametrize(
    "held",
    [
        ImagePreprocessing(4, 5, 1),
        ImagePreprocessing(4, 5, 1, invert=True),
        ImagePreprocessing(4, 5, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ImagePreprocessing(4, 5, 3, mean=(0.5,), std=(0.25,), folded=True),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_become_what_the_student_takes(held: ImagePreprocessing, layout: str) -> None:
    from PIL import Image

    rgb = np.random.default_rng(5).integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(rgb, "RGB")
    rgba = np.concatenate([rgb, np.full((4, 5, 1), 255, np.uint8)], axis=2)
    code = f"""import {{ sample }} from "{JS}/preprocess.js";
const canvas = {{ getContext: () => ({{ getImageData: () => ({{ data: pixels }}) }}) }};
console.log(JSON.stringify([...sample(canvas, {{ preprocessing, layout }}, {{ permutation: [] }})]));"""
    fields = {name: getattr(held, name) for name in ("width", "height", "channels", "mean", "std", "invert", "folded")}
    found = node(code, pixels=rgba.ravel().tolist(), preprocessing=fields, layout=layout)
    assert np.allclose(found, held.sample(image, layout).ravel(), atol=1e-6)


@pytest.mark.parametrize("scores", [[2.0, -1.0, 0.5], [0.7, 0.1, 0.2], [900.0, 899.0, -900.0]])
def test_scores_become_probabilities_as_everywhere(scores: list[float]) -> None:
    code = f"""import {{ named }} from "{JS}/answers.js";
console.log(JSON.stringify(named({{ data: scores, shape: [1, 3] }}, {{ permutation: [] }}, ["a", "b", "c"])));"""
    found = {each["label"]: each["share"] for each in node(code, scores=scores)}
    assert np.allclose([found[name] for name in "abc"], probabilities(np.asarray([scores]))[0])


def test_the_largest_class_of_a_segmenter_is_by_pixels() -> None:
    scores = np.zeros((1, 2, 2, 2), np.float32)
    scores[0, 1, 0] = 1.0
    scores[0, 0, 1] = 1.0
    scores[0, 1, 1, 1] = 2.0
    nhwc = scores.transpose(0, 2, 3, 1)
    code = f"""import {{ named }} from "{JS}/answers.js";
const output = {{ data: Float32Array.from(values), shape: [1, 2, 2, 2] }};
console.log(JSON.stringify(named(output, {{ permutation: [0, 2, 3, 1] }}, ["ground", "thing"])));"""
    assert node(code, values=nhwc.ravel().tolist()) == [{"label": "thing", "share": 0.75}, {"label": "ground", "share": 0.25}]
