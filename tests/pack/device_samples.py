"""Measurements as ``edgepack bench`` leaves them, for the sample pack: four devices, everything that can go well or wrong on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from edgepack.latency.protocol import summarize
from edgepack.pack.manifest import Comparison, CurvePoint, Estimate, Latency, Measurement, Pack, Truth

PI5 = {
    "board": "Raspberry Pi 5 Model B Rev 1.0",
    "processor": "Cortex-A76",
    "runtime": "ONNX Runtime 1.32.0",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "cores": "4 of 4",
    "governor": "performance",
    "memory": "7.9 GiB",
    "page size": "16 KiB",
    "kernel": "Linux 6.12.25+rpt-rpi-2712",
    "architecture": "aarch64",
}
PI4 = {**PI5, "board": "Raspberry Pi 4 Model B Rev 1.5", "processor": "Cortex-A72", "governor": "ondemand", "memory": "3.7 GiB"}
DESK = {"processor": "AMD EPYC 9B14", "runtime": "LiteRT 2.3.0", "cores": "2 of 2", "memory": "23.5 GiB", "virtual machine": "yes"}
EMULATED = {"board": "Raspberry Pi 5 (emulated)", "processor": "qemu-user cortex-a76", "runtime": "ONNX Runtime 1.32.0"}
THROTTLED = "it was throttled during the run -> cool the board: a heat sink or a fan"


@dataclass(frozen=True)
class Found:
    """A check as the gate gives it."""

    target: str
    scheme: str
    name: str
    status: str
    words: str


def timed(milliseconds: float, *, ratio: float | None = None, samples: int = 1200, truth: Truth = "measured", **extra: Any) -> Latency:
    """A latency from the real protocol, around a median."""
    rng = np.random.default_rng(round(1000 * milliseconds))
    series = {
        name: (1e6 * middle * rng.lognormal(0, 0.03, samples) * np.where(rng.random(samples) < 0.01, 2.5, 1)).astype(np.int64)
        for name, middle in (("fp32", milliseconds / (ratio or 1.0)), ("own", milliseconds))
    }
    response = {"threads": 1, "warm_up_ns": {name: [int(times.min())] * 20 for name, times in series.items()}, "timer_resolution_ns": 1.0}
    found = summarize(series, response, label="own", baseline="fp32" if ratio else None, truth=truth, environment={})
    return replace(found, **{"profile": "quick", **extra})


def measured(
    pack: Pack, target: str, scheme: str, device: Mapping[str, str], latency: Latency | None, truth: Truth = "measured", **extra: Any
) -> Measurement:
    """A measurement of one of the pack's artifacts."""
    artifact = next(each for each in pack.artifacts if (each.target, each.scheme) == (target, scheme))
    record = Measurement(
        schema=1,
        edgepack="0.1.0",
        created="2026-11-28T09:12:44Z",
        target=target,
        scheme=scheme,
        artifact=artifact.file.sha256,
        device=dict(device),
        truth=truth,
        parity=replace(artifact.parity, truth=truth),
        latency=latency,
        memory_peak_bytes=61_300_000 if scheme == "fp32" else 54_800_000,
    )
    return replace(record, **extra)


def _wrong(pack: Pack) -> dict[str, Any]:
    """What a device answers whose runtime computes something else."""
    right = next(each.parity for each in pack.artifacts if (each.target, each.scheme) == ("raspberry-pi-5", "fp32"))
    outputs = tuple(replace(each, sqnr_db=12.04) for each in right.outputs)
    return {
        "parity": replace(right, outputs=outputs, truth="host"),
        "failures": ("raspberry-pi-5 fp32: output 'logits' is 12.0 dB from the float64 student, below its floor of 120.0 dB",),
    }


def sustained(first: float, last: float, seconds: float = 600.0) -> tuple[CurvePoint, ...]:
    """A board that warms up and slows down half-way."""
    at = np.linspace(0, seconds, 61)
    wobble = np.random.default_rng(5).normal(0, 0.004 * first, at.size)
    return tuple(
        CurvePoint(float(t), float(first + (last - first) / (1 + np.exp(-(t - seconds / 2) / 30)) + w))
        for t, w in zip(at, wobble, strict=True)
    )


def sample_measurements(pack: Pack) -> tuple[Measurement, ...]:
    """Newest first."""
    older = "7c4a8d09ca3762af61e59520943dc26494f8941b" + "0" * 24
    pi = "raspberry-pi-5"
    cool, warm = {"temperature": "48 °C -> 61 °C"}, {"temperature": "61 °C -> 84 °C", "frequency": "1500 to 2400 MHz"}
    slower = Comparison(older, 0.25, Estimate(1.062, 1.051, 1.074), 1.081, 0.03, 600, "regression")
    faster = Comparison(older, 0.25, Estimate(0.94, 0.931, 0.949), 0.952, 0.03, 600, "improvement")
    even = Comparison(older, 0.25, Estimate(1.004, 0.994, 1.013), None, 0.03, 80, "no difference")
    fp32 = timed(1.31, environment=cool, floor_ms=0.41)
    w8a8 = timed(
        0.62, ratio=0.47, environment=cool, floor_ms=0.19, warnings=("drift: p25 of the last third is 1.06 times that of the first third",)
    )
    hot = timed(0.7, ratio=0.47, environment=warm, floor_ms=0.19, profile="sustained", curve=sustained(0.62, 0.97), invalid=(THROTTLED,))
    return (
        measured(pack, pi, "w8a8", PI5, hot),
        measured(pack, pi, "w8a8", PI5, w8a8, comparison=slower),
        measured(pack, pi, "fp32", PI5, replace(fp32, profile="sustained", curve=sustained(1.31, 1.33))),
        measured(pack, pi, "fp32", PI5, fp32, comparison=faster),
        measured(pack, pi, "fp32", PI5, timed(1.4, environment=cool), created="2026-11-27T09:12:44Z"),
        measured(pack, pi, "w8a8", PI4, timed(1.9, ratio=0.5, samples=40, truth="host", profile="smoke"), "host", comparison=even),
        measured(pack, pi, "fp32", PI4, None, "host", **_wrong(pack)),
        measured(pack, "android", "w8a8", DESK, timed(0.31, ratio=0.41, truth="host"), "host"),
        measured(pack, "android", "fp32", DESK, timed(0.77, truth="host"), "host"),
        measured(
            pack, pi, "w8a8", EMULATED, timed(77.7, ratio=0.8, truth="emulated", curve=sustained(77.7, 78)), "emulated", comparison=even
        ),
        measured(pack, pi, "fp32", PI5, fp32, artifact="0" * 64),
    )


def sample_checks() -> tuple[Found, ...]:
    """One of every status."""
    pi = "raspberry-pi-5"
    return (
        Found(pi, "fp32", "latency p90", "pass", "1.40 ms (up to 1.42 ms) is below 2.00 ms"),
        Found(pi, "fp32", "size", "pass", "388 kB is below 1.00 MB"),
        Found(pi, "fp32", "memory peak", "no budget", "61.3 MB"),
        Found(pi, "w8a8", "latency p90", "fail", "0.66 ms (up to 0.67 ms) is above 0.50 ms"),
        Found(pi, "w8a8", "size", "pass", "122 kB is below 1.00 MB"),
        Found(pi, "w8a8", "sustained", "invalid", THROTTLED),
        Found(
            "android", "w8a8", "latency p90", "not measured", "no device that matches the target: run edgepack bench PACK --device ADDRESS"
        ),
    )
