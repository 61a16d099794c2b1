"""Comparisons of real models on this machine while another process comes and goes: false alarms, and injected slowdowns that are found.

make bench-latency

Each trial loads two sessions of one model and compares them as ``edgepack bench --against`` does: the product's own adapter, timing loop
and ``compare``, in this process, with sessions loaded anew for every re-run. A/A trials must find nothing; in A/B trials every query of B
is held back until it took 5 % longer than it did (10 % on two threads). A process beside them spins and sleeps in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx  # noqa: TID253 - this program makes the models that it times
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

from edgepack.latency.compare import LOOKS, MARGIN, Outcome, Pairs, compare
from edgepack.runner import contract
from edgepack.runner.ort import RUNTIME

# The bars of the project: of the trials of a cell.
FALSE_ALARMS, FOUND = 0.01, 0.99
# What the harness may add to a query: 5 us and 0.5 %.
OVERHEAD_NS, OVERHEAD_SHARE = 5000, 0.005
INJECTED: Mapping[int, float] = {1: 1.05, 2: 1.10}
# Stretches that the other process spins or sleeps, seconds: shorter and longer than a trial.
BUSY, IDLE = (0.02, 0.6), (0.02, 1.2)
WARM_UP, WARM_UP_SECONDS = 20, 0.2

Feed = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Model:
    """A file with one input ``x`` of this shape."""

    name: str
    path: Path
    shape: tuple[int, ...]

    @property
    def feed(self) -> Feed:
        """The sample that every query computes."""
        return {"x": np.random.default_rng(0).standard_normal(self.shape).astype(np.float32)}


@dataclass(frozen=True)
class Tally:
    """Trials of one kind: how many ended in which verdict, the looks they took, and the wall time of all."""

    trials: int
    verdicts: dict[str, int]
    looks: dict[str, int]
    seconds: float
    ratios: list[float]

    def count(self, *verdicts: str) -> int:
        """Trials that ended in one of these."""
        return sum(self.verdicts.get(verdict, 0) for verdict in verdicts)


@dataclass(frozen=True)
class Cell:
    """One model on one number of threads; ``same``: A against A, ``slower``: A against the slowed B; overhead of the harness."""

    name: str
    threads: int
    same: Tally
    slower: Tally
    query_ns: float
    overhead_ns: float

    @property
    def misses(self) -> list[str]:
        """The bars it does not meet."""
        alarms, found = self.same.count("regression", "improvement"), self.slower.count("regression")
        allowed = OVERHEAD_NS + OVERHEAD_SHARE * self.query_ns
        held = {
            f"{alarms} false alarms of {self.same.trials}": alarms <= FALSE_ALARMS * self.same.trials,
            f"found {found} of {self.slower.trials}": found >= FOUND * self.slower.trials,
            f"overhead {self.overhead_ns:.0f} ns a query, {allowed:.0f} allowed": self.overhead_ns <= allowed,
        }
        return [what for what, ok in held.items() if not ok]


def models(folder: Path) -> list[Model]:
    """A float convolutional network, an int8 stack of matrix products, and a network of the size of the digits student."""
    rng = np.random.default_rng(0)
    made = [("conv", _convolutions(rng, (3, 24, 24, 32)), (1, 3, 40, 40)), ("int8", _products(rng, 768, 4), (16, 768))]
    made.append(("digits", _convolutions(rng, (1, 16, 24, 24)), (1, 1, 28, 28)))
    found = []
    for name, (nodes, weights), shape in made:
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, key) for key, array in weights.items()],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / f"{name}.onnx")
        found.append(Model(name, folder / f"{name}.onnx", shape))
    return found


Graph = tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]


def _convolutions(rng: np.random.Generator, channels: Sequence[int]) -> Graph:
    nodes, weights, last = [], dict[str, NDArray[np.generic]](), "x"
    for index, (wide, out) in enumerate(pairwise(channels)):
        weights[f"w{index}"] = (rng.standard_normal((out, wide, 3, 3)) / wide).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    return nodes, weights


def _products(rng: np.random.Generator, size: int, layers: int) -> Graph:
    nodes, last = [], "x"
    weights: dict[str, NDArray[np.generic]] = {"scale": np.array(0.02, np.float32), "zero": np.array(0, np.int8)}
    for index in range(layers):
        weights[f"w{index}"] = rng.integers(-60, 60, (size, size)).astype(np.int8)
        to = "y" if index == layers - 1 else f"m{index}"
        nodes.append(helper.make_node("QuantizeLinear", [last, "scale", "zero"], [f"q{index}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", "scale", "zero"], [f"d{index}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"w{index}", "scale", "zero"], [f"v{index}"]))
        nodes.append(helper.make_node("MatMul", [f"d{index}", f"v{index}"], [to]))
        last = to
    return nodes, weights


def query_of(model: Model, threads: int) -> contract.Query:
    """A session loaded anew, as the runner loads it."""
    session = RUNTIME.load(str(model.path), threads)
    session.set_inputs(model.feed)
    return session.invoke


def slowed(invoke: contract.Query, factor: float) -> contract.Query:
    """A query that takes ``factor`` times what ``invoke`` takes each time."""

    def query() -> None:
        start = time.perf_counter_ns()
        invoke()
        until = start + factor * (time.perf_counter_ns() - start)
        while time.perf_counter_ns() < until:
            pass

    return query if factor > 1 else invoke


def trial(model: Model, threads: int, factor: float, seed: int) -> Outcome:
    """One comparison of a model with itself, or with itself slowed."""

    def measure_more(pairs: int) -> Pairs:
        queries = [query_of(model, threads), slowed(query_of(model, threads), factor)]
        for query in queries:
            contract.settle(query, WARM_UP, WARM_UP_SECONDS)
        _, (base, other) = contract.interleave(queries, pairs, 0, [1, 1])
        return Pairs(base, other)

    return compare(measure_more, MARGIN, threads, seed=seed)


def tally(model: Model, threads: int, factor: float, trials: int) -> Tally:
    """All trials of one kind."""
    start = time.monotonic()
    outcomes = [trial(model, threads, factor, seed) for seed in range(trials)]
    return Tally(
        trials,
        dict(Counter(outcome.verdict for outcome in outcomes)),
        {str(looks): count for looks, count in sorted(Counter(outcome.looks for outcome in outcomes).items())},
        time.monotonic() - start,
        [round(outcome.ratio.value, 4) for outcome in outcomes],
    )


def overhead(model: Model, threads: int, chunks: int = 600, queries: int = 8) -> tuple[float, float]:
    """Nanoseconds of a query in a bare loop, and what the harness records more: the median over interleaved chunks of both.

    Chunks of either kind take turns in who is first, and are short: what disturbs a pair of them is one of 600 in the median.
    """
    invoke = query_of(model, threads)
    contract.settle(invoke, WARM_UP, WARM_UP_SECONDS)
    bare, more = [], []
    for index in range(chunks):
        kinds = (_bare, _harness) if index % 2 else (_harness, _bare)
        means = {kind: kind(invoke, queries) for kind in kinds}
        bare.append(means[_bare])
        more.append(means[_harness] - means[_bare])
    return statistics.median(bare), statistics.median(more)


def _bare(invoke: contract.Query, queries: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(queries):
        invoke()
    return (time.perf_counter_ns() - start) / queries


def _harness(invoke: contract.Query, queries: int) -> float:
    _, (samples,) = contract.interleave([invoke], queries, 0, [1])
    return float(samples.mean())


@contextmanager
def other_load() -> Iterator[None]:
    """A process that spins and sleeps in turn, as long as the block lasts."""
    process = multiprocessing.get_context("spawn").Process(target=_come_and_go, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _come_and_go() -> None:
    chance = random.Random(0)
    while True:
        until = time.monotonic() + chance.uniform(*BUSY)
        while time.monotonic() < until:
            math.sqrt(2.0)
        time.sleep(chance.uniform(*IDLE))


def bound(count: int, trials: int) -> tuple[float, float]:
    """One-sided 95 % Clopper-Pearson bounds of a share: the lower and the upper one (Biometrika 26 (1934) 404-413)."""

    def reached(p: float, most: int) -> float:
        return sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(most + 1))

    upper = 1.0 if count == trials else _root(lambda p: reached(p, count) - 0.05)
    lower = 0.0 if count == 0 else _root(lambda p: reached(p, count - 1) - 0.95)
    return lower, upper


def _root(falling: Callable[[float], float]) -> float:
    """Where a function that falls between 0 and 1 crosses zero, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low


def measured(model: Model, threads: int, trials: int) -> Cell:
    """One cell: its overhead alone, its trials beside the other process."""
    query_ns, more_ns = overhead(model, threads)
    with other_load():
        same, slower = tally(model, threads, 1.0, trials), tally(model, threads, INJECTED[threads], trials)
    return Cell(model.name, threads, same, slower, query_ns, more_ns)


def described(cell: Cell) -> str:
    """A cell in words."""
    same, slower = cell.same, cell.slower
    kinds = {"A/A": same, f"+{INJECTED[cell.threads] - 1:.0%}": slower}
    alarms, found = same.count("regression", "improvement"), slower.count("regression")
    told = {
        "A/A": f"false alarms {alarms}/{same.trials}, at most {bound(alarms, same.trials)[1]:.1%}",
        f"+{INJECTED[cell.threads] - 1:.0%}": f"found {found}/{slower.trials}, at least {bound(found, slower.trials)[0]:.1%}",
    }
    return "\n".join(
        [
            f"{cell.name}, {cell.threads} thread(s), {cell.query_ns / 1e6:.3f} ms a query, overhead {cell.overhead_ns / 1000:+.2f} us",
            *(f"  {kind}: {told[kind]}; {_rest(counted)}" for kind, counted in kinds.items()),
            *(f"  MISSED: {miss}" for miss in cell.misses),
        ]
    )


def _rest(counted: Tally) -> str:
    unsure, ratios = counted.count("inconclusive") / counted.trials, sorted(counted.ratios)
    return f"inconclusive {unsure:.1%}; looks {counted.looks}; ratios {ratios[0]:.3f} to {ratios[-1]:.3f}; {counted.seconds:.0f} s"


def finished(path: Path | None) -> list[Cell]:
    """Cells of an earlier, interrupted run."""
    if path is None or not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Cell(**{**row, "same": Tally(**row["same"]), "slower": Tally(**row["slower"])}) for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the cells, as JSON at the end; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="False alarms and found slowdowns of latency comparisons, on this machine.")
    parser.add_argument("--trials", type=int, default=300, help="A/A and A/B trials a cell, each")
    parser.add_argument("--cells", default="", help="only these, such as conv-1,int8-2")
    parser.add_argument("--resume", type=Path, help="leave out the cells in this file, and append those that finish")
    given = parser.parse_args(arguments)
    # As in a runner's own process; one thread comes first, since a process that has a pool keeps it.
    RUNTIME.owns_process = True
    cells = finished(given.resume)
    done, asked = {f"{cell.name}-{cell.threads}" for cell in cells}, set(filter(None, given.cells.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        for model, threads in ((model, threads) for threads in INJECTED for model in models(Path(folder))):
            name = f"{model.name}-{threads}"
            if name in done or (asked and name not in asked):
                continue
            cells.append(measured(model, threads, given.trials))
            print(described(cells[-1]), flush=True)
            if given.resume:
                with given.resume.open("a") as file:
                    file.write(json.dumps(asdict(cells[-1])) + "\n")
    rows = [{**asdict(cell), "misses": cell.misses} for cell in cells]
    print(json.dumps({"machine": platform.machine(), "cores": os.cpu_count(), "margin": MARGIN, "looks": LOOKS, "cells": rows}))
    return 1 if any(cell.misses for cell in cells) else 0


if __name__ == "__main__":
    raise SystemExit(main())
