"""Writes what core's unit tests compare with: a cut of the digits pack, and numbers that edgepack computes of it.

    python demo_app/android/fixtures.py pack/        # of `edgepack demo`; then run the tests

``expected`` recomputes the numbers from the committed files alone, which a test does too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgepack.arrays import save_arrays
from edgepack.calibration.readers import Samples
from edgepack.devices.runner_process import artifact_feed, hub_arrays
from edgepack.latency.protocol import PROFILES
from edgepack.latency.statistics import fewest_samples
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Pack
from edgepack.runner import contract
from edgepack.student.spec import ImagePreprocessing
from edgepack.verify.metrics import cosine, max_abs_error, non_finite, probabilities, sqnr_db

RESOURCES = Path(__file__).parent / "core/src/test/resources"
Array = NDArray[Any]


def cut(pack: Path, folder: Path) -> None:
    """The part of a pack that the tests read: android's artifacts without their files, golden samples, and LiteRT's answers to these."""
    held = json.loads((pack / "pack.json").read_text())
    held["artifacts"] = [{**each, "latency": None} for each in held["artifacts"] if each["target"] == "android"]
    (folder / "pack/golden").mkdir(parents=True, exist_ok=True)
    (folder / "pack/pack.json").write_text(json.dumps(held, indent=1) + "\n")
    for name in ("inputs.npz", "reference.npz"):
        shutil.copyfile(pack / "golden" / name, folder / "pack/golden" / name)
    save_arrays(folder / "answers.npz", {each["scheme"]: _answers(pack, each["scheme"]) for each in held["artifacts"]})


def _answers(pack: Path, scheme: str) -> Array:
    """The stacked first output of an android artifact for the golden samples, by LiteRT."""
    from edgepack.runner.litert import LiteRTSession

    artifact = _artifact(load_pack(pack), scheme)
    session = LiteRTSession(str(pack / artifact.file.path), 1)
    feed = _feed(pack, scheme)
    taken = []
    for index in range(len(next(iter(feed.values())))):
        session.set_inputs({name: stacked[index] for name, stacked in feed.items()})
        session.invoke()
        taken.append(session.outputs()[artifact.outputs[0].name])
    return np.stack(taken)


def expected(folder: Path) -> dict[str, Any]:
    """What edgepack itself says of the committed files and of made-up numbers."""
    pack = load_pack(folder / "pack")
    return {
        "feed": {each.scheme: _digests(_feed(folder / "pack", each.scheme)) for each in pack.artifacts},
        "parity": {each.scheme: _parity(folder, pack, each.scheme) for each in pack.artifacts},
        "probabilities": _probabilities(folder),
        "quantiles": _quantiles(),
        "settled": _settled(),
        "profiles": [[each.name, each.warm_up, each.pairs, each.seconds, each.warm_up_seconds] for each in PROFILES.values()],
        "window": [contract.WINDOW, contract.FEWEST_TICKS, contract.MOST_INNER],
        "images": [_image(case) for case in IMAGES],
    }


def _artifact(pack: Pack, scheme: str) -> Any:
    return next(each for each in pack.artifacts if (each.target, each.scheme) == ("android", scheme))


def _feed(pack: Path, scheme: str) -> dict[str, Array]:
    return artifact_feed(Samples.open(pack / "golden/inputs.npz").arrays, _artifact(load_pack(pack), scheme).inputs)


def _digests(arrays: dict[str, Array]) -> dict[str, str]:
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def _parity(folder: Path, pack: Pack, scheme: str) -> dict[str, Any]:
    artifact = _artifact(pack, scheme)
    with np.load(folder / "answers.npz") as answers, np.load(folder / "pack/golden/reference.npz") as golden:
        given = hub_arrays({artifact.outputs[0].name: answers[scheme]}, artifact.outputs)
        reference = dict(golden)
    ((name, actual),) = given.items()
    true = reference[name]
    return {
        "name": name,
        "sqnr_db": sqnr_db(true, actual),
        "max_abs_error": max_abs_error(true, actual),
        "cosine": cosine(true, actual),
        "non_finite": non_finite(actual),
    }


def _probabilities(folder: Path) -> list[dict[str, list[float]]]:
    with np.load(folder / "answers.npz") as answers:
        rows = [answers["fp32"][0].reshape(1, -1), np.array([[0.25, 0.7, 0.05]])]
    return [{"scores": row[0].astype(np.float64).tolist(), "shares": probabilities(row)[0].tolist()} for row in rows]


def _quantiles() -> dict[str, Any]:
    """A long-tailed series, and quantiles by numpy's default (type 7), which is what the pack's estimates are."""
    samples = np.random.default_rng(7).lognormal(13, 0.3, 1200).astype(np.int64)
    qs = (0.5, 0.9, 0.99)
    return {
        "samples": samples.tolist(),
        "quantiles": {str(q): float(np.quantile(samples, q)) for q in qs},
        "fewest": {str(q): fewest_samples(q) for q in qs},
    }


def _settled() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    series = [
        [*range(40, 20, -1)],
        [*range(20, 40)],
        [5] * 20,
        [5] * 19,
        *(rng.integers(90, 110, 20).tolist() for _ in range(8)),
        *(np.sort(rng.integers(90, 200, 25))[::-1].tolist() for _ in range(2)),
    ]
    return [{"times": times, "settled": contract.is_settled(times)} for times in series]


# (width, height) of an image, and how it is taken: wide, tall, the size itself, larger.
IMAGES: tuple[tuple[int, int, ImagePreprocessing], ...] = (
    (61, 37, ImagePreprocessing(24, 24, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))),
    (37, 61, ImagePreprocessing(28, 28, 1, invert=True)),
    (61, 37, ImagePreprocessing(24, 32, 3, "stretch", "bicubic", (0.5,), (0.5,))),
    (32, 24, ImagePreprocessing(24, 32, 3, "stretch")),
    (19, 11, ImagePreprocessing(30, 30, 3, "cover", "bicubic")),
    (61, 37, ImagePreprocessing(20, 30, 3, "cover", "nearest")),
    (64, 48, ImagePreprocessing(15, 20, 1, folded=True)),
    (96, 128, ImagePreprocessing(40, 40, 3)),
    # A box whose edges float32 does not hold.
    (64, 47, ImagePreprocessing(24, 36, 3)),
)


def made_up(width: int, height: int) -> Array:
    """(height, width, 3) uint8 that Kotlin makes by the same rule: slopes, edges and a pattern."""
    y, x, channel = np.ogrid[:height, :width, :3]
    return np.asarray((7 * x + 13 * y + 29 * channel + 5 * ((x * y) % 31)) % 256, np.uint8)


def _image(case: tuple[int, int, ImagePreprocessing]) -> dict[str, Any]:
    width, height, preprocessing = case
    image = Image.fromarray(made_up(width, height)).convert("L" if preprocessing.channels == 1 else "RGB")
    rows_first = _rows_first(image, preprocessing)
    fitted = msgspec.structs.replace(preprocessing, folded=True).sample(image, "NHWC").astype(np.uint8)
    samples = {layout: preprocessing.normalize(rows_first, layout) for layout in ("NCHW", "NHWC")}
    return {
        "width": width,
        "height": height,
        "preprocessing": msgspec.structs.asdict(preprocessing),
        "rows_first": base64.b64encode(rows_first.tobytes()).decode(),
        "fitted": base64.b64encode(fitted.tobytes()).decode(),
        "samples": _digests(samples),
    }


def _rows_first(image: Image.Image, preprocessing: ImagePreprocessing) -> Array:
    """(H, W, C) pixels, one axis after the other: Pillow before 13 always began with rows, and 13 begins with either."""
    method, (width, height) = Image.Resampling[preprocessing.interpolation.upper()], (preprocessing.width, preprocessing.height)
    left, top, right, bottom = _box(image, width, height) if preprocessing.resize == "cover" else (0, 0, *image.size)
    rows = image.resize((width, image.height), method, (left, 0, right, image.height))
    return np.asarray(rows.resize((width, height), method, (0, top, width, bottom))).reshape(height, width, -1)


def _box(image: Image.Image, width: int, height: int) -> tuple[float, float, float, float]:
    """The largest part in the middle of these proportions."""
    wide, high = min(image.width, image.height * width / height), min(image.height, image.width * height / width)
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    return left, top, left + wide, top + high


if __name__ == "__main__":
    cut(Path(sys.argv[1]), RESOURCES)
    (RESOURCES / "expected.json").write_text(json.dumps(expected(RESOURCES), indent=1) + "\n")
