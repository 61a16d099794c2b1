"""Our .tflite against litert-torch's and litert-quantizer's on this machine, and our int8 .onnx against its fp32.

EfficientNet-Lite0 in fp32 and int8; MiniLM, MobileNetV3 and a DiT block (modules.py) in fp32.

    make bench-peers        (or: python benchmarks/peers/compare.py --peers PYTHON [--json])

One thread, each pair interleaved ABBA, p25 ratio with its moving-block bootstrap interval: the protocol of ``edgepack.latency``. Where
memory happens to lie moves a session by some per cent for as long as its process lives, so every pair is timed in several fresh
processes, which take turns in what is loaded first. Truth kind ``host``: this machine is not a phone. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

import edgepack
from edgepack.latency import statistics
from edgepack.runner.supervisor import LOCK

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
STUDENT = ROOT / "demo_app/students/efficientnet_lite0/student.py:student"
MANIFEST = ROOT / "calibration/efficientnet_photos.toml"
TARGETS = ("android", "raspberry-pi-5")
WARM_UP, PAIRS, PROCESSES = 10, 60, 6
# The bars: not slower than a peer by more than 5 % at the upper end of the interval; int8 at least twice as fast as fp32 in ORT.
SLOWER_AT_MOST, ORT_AT_MOST = 1.05, 0.5

Query = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One comparison: ratio of p25, ours over theirs, with its 95 % interval."""

    what: str
    against: str
    ratio: float
    low: float
    high: float
    bar: float

    @property
    def holds(self) -> bool:
        """Whether the upper end of the interval is within the bar."""
        return self.high <= self.bar


def tflite(path: Path) -> tuple[Query, str]:
    """A query of one .tflite on one thread with the default delegate, and how it is partitioned."""
    from edgepack.runner.litert import LiteRTSession

    session = LiteRTSession(str(path), 1)
    session.set_inputs({name: np.zeros(detail["shape"], detail["dtype"]) for name, detail in session._inputs.items()})
    facts = session.describe()
    return session.invoke, f"{facts['partitions']} partition(s), outside: {facts['outside'] or 'nothing'}"


def onnx(path: Path) -> tuple[Query, str]:
    """A query of one .onnx in ONNX Runtime on one thread."""
    from edgepack.runner.ort import OrtSession

    session = OrtSession(str(path), 1)
    session.set_inputs({"image": np.zeros((1, 3, 224, 224), np.float32)})
    return session.invoke, "ONNX Runtime"


def load(path: Path) -> tuple[Query, str]:
    """By the file's name."""
    return tflite(path) if path.suffix == ".tflite" else onnx(path)


def interleaved(ours: Path, theirs: Path, ours_first: bool) -> tuple[list[int], list[int]]:
    """Nanoseconds of ``PAIRS`` queries each, in the order ABBA ABBA ..., in this process."""
    loaded = {path: load(path)[0] for path in ((ours, theirs) if ours_first else (theirs, ours))}
    queries = (loaded[ours], loaded[theirs])
    for _ in range(WARM_UP):
        for query in queries:
            query()
    taken: tuple[list[int], list[int]] = ([], [])
    for index in range(PAIRS):
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            start = time.perf_counter_ns()
            queries[which]()
            taken[which].append(time.perf_counter_ns() - start)
    return taken


def row(what: str, against: str, ours: Path, theirs: Path, bar: float) -> Row:
    """Time one pair, alone on this machine as far as other edgepacks go."""
    mine: list[int] = []
    other: list[int] = []
    with Path(LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for index in range(PROCESSES):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                first, second = process.submit(interleaved, ours, theirs, index % 2 == 0).result()
            mine += first
            other += second
    found = statistics.ratio(np.asarray(other, np.float64), np.asarray(mine, np.float64), statistics.ratio_quantile(1))
    assert found is not None, "more samples than the quantile needs were taken"
    return Row(what, against, found.typical.value, found.typical.low, found.typical.high, bar)


def compare(pack: Path, peers: Path) -> tuple[list[Row], dict[str, str]]:
    """Every row, and how each .tflite was partitioned. Of the quantizer's recipes the one that is fastest counts."""
    ours = {artifact.target + " " + artifact.scheme: pack / artifact.file.path for artifact in edgepack.load_pack(pack).artifacts}
    theirs = {path.stem: path for path in sorted(peers.glob("*.tflite"))}
    rows = [row("android fp32", "litert-torch fp32", ours["android fp32"], theirs["fp32"], SLOWER_AT_MOST)]
    recipes = [name for name in theirs if name.startswith("static_")]
    against = [row("android w8a8", f"litert-quantizer {name}", ours["android w8a8"], theirs[name], SLOWER_AT_MOST) for name in recipes]
    rows += [max(against, key=lambda each: each.ratio)]
    rows += [row("raspberry-pi-5 w8a8", "its fp32", ours["raspberry-pi-5 w8a8"], ours["raspberry-pi-5 fp32"], ORT_AT_MOST)]
    named = {f"ours {name}": path for name, path in ours.items() if name.startswith("android")} | theirs
    return rows, {name: load(path)[1] for name, path in named.items()}


def export_peers(python: Path, calibration: Path, out: Path) -> None:
    """The peers' artifacts, calibrated on the samples our build calibrated on, in their own environment."""
    from edgepack.calibration.readers import Samples

    (images,) = Samples.open(calibration).arrays.values()
    np.savez(out / "calibration.npz", images=images[:, 0])
    subprocess.run([python, HERE / "litert.py", out / "calibration.npz", out], check=True, stdout=sys.stderr)


def of_efficientnet(python: Path, scratch: Path) -> tuple[list[Row], dict[str, str]]:
    """EfficientNet-Lite0: built, exported by the peers, compared."""
    pack, work, peers = (scratch / name for name in ("pack", "work", "peers"))
    peers.mkdir()
    edgepack.build(str(STUDENT), pack, targets=TARGETS, schemes=("fp32", "w8a8"), calibration=str(MANIFEST), latency="none", work=work)
    export_peers(python, work / "samples" / "calibration.npz", peers)
    return compare(pack, peers)


def of_modules(python: Path, scratch: Path) -> tuple[list[Row], dict[str, str]]:
    """The networks of modules.py in fp32, and how each .tflite was partitioned."""
    names = ("minilm", "mobilenet_v3", "dit_block")
    subprocess.run([python, HERE / "modules_litert.py", scratch / "theirs"], check=True, stdout=sys.stderr, env=_HIDDEN)
    rows, partitions = [], {}
    for name in names:
        pack = scratch / name
        edgepack.build(f"{HERE / 'modules.py'}:{name}_student", pack, targets=("android",), schemes=("fp32",), latency="none")
        (artifact,) = edgepack.load_pack(pack).artifacts
        ours, theirs = pack / artifact.file.path, scratch / "theirs" / f"{name}.tflite"
        rows.append(row(f"{name} fp32", "litert-torch fp32", ours, theirs, SLOWER_AT_MOST))
        partitions |= {f"ours {name}": load(ours)[1], name: load(theirs)[1]}
    return rows, partitions


# Nothing is looked up on a network.
_HIDDEN = {**os.environ, "HF_HUB_OFFLINE": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--peers", type=Path, required=True, help="the python of the peers' environment")
    parser.add_argument("--only", choices=("efficientnet", "modules"), help="one part alone")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        parts = {"efficientnet": of_efficientnet, "modules": of_modules}
        found = [part(options.peers, Path(scratch)) for name, part in parts.items() if options.only in (None, name)]
    rows = [each for held, _ in found for each in held]
    partitions = {name: facts for _, held in found for name, facts in held.items()}
    if options.json:
        print(json.dumps({"rows": [vars(each) for each in rows], "partitions": partitions}, indent=1))
    else:
        print(
            *(f"{each.what} / {each.against}: {each.ratio:.3f} [{each.low:.3f}, {each.high:.3f}], bar {each.bar}" for each in rows),
            sep="\n",
        )
        print(*(f"{name}: {facts}" for name, facts in partitions.items()), sep="\n")
    return 0 if all(each.holds for each in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
