"""pack.json: the versioned schema. Every path is relative to the pack and every number says how it was got.

Truth kinds: "measured" (on a device that matches the target), "host" (real time or real runtime, but this machine is not the target),
"emulated" (qemu), "simulated" (MIL interpreter, a browser that a program drives), "predicted" (roofline).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgepack.backends.artifact import Binding, Finding
from edgepack.student.spec import StudentDescription
from edgepack.targets import Target

SCHEMA = 1
# The note of an artifact that was run on an evaluation set of which nothing could be made.
NOTHING_MEASURED = (
    "nothing was measured on the evaluation set: it has no labels that fit the first output (a class, a row of class scores, or a mask for "
    "each sample); measure with --metric"
)
Truth = Literal["measured", "host", "emulated", "simulated", "predicted"]


class FileRecord(msgspec.Struct, frozen=True):
    """A file or folder of the pack: path, size in bytes, sha256 (of a folder: over sorted names and contents)."""

    path: str
    bytes: int
    sha256: str


class Estimate(msgspec.Struct, frozen=True):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class OutputParity(msgspec.Struct, frozen=True):
    """How far one output is from the float64 run of the student, over the golden samples.

    Attributes:
        sqnr_db: 10 log10(sum reference^2 / sum error^2); None when the error is exactly zero. Always finite, as JSON has no infinity:
            at worst ``edgepack.verify.judge.WORST_DB``.
        max_abs_error: the largest absolute error; cosine: of the flattened outputs.
        student_sqnr_db: the student's own fp32 run against the same float64 run.
        floor_db: what ``sqnr_db`` must reach; None when this scheme is judged by its accuracy alone.
        floor_reason: where the floor comes from, a phrase.
        to_student_sqnr_db: artifact against the student's fp32 run.
        non_finite: NaN or infinite elements of the output; above 0 the output failed whatever the floor.
    """

    name: str
    sqnr_db: float | None
    max_abs_error: float
    cosine: float
    student_sqnr_db: float | None
    to_student_sqnr_db: float | None
    floor_db: float | None
    floor_reason: str = ""
    non_finite: int = 0


class Parity(msgspec.Struct, frozen=True):
    """Agreement of an artifact, read back from disk and run, with the student."""

    truth: Truth
    samples: int
    outputs: tuple[OutputParity, ...]


class SizeParity(msgspec.Struct, frozen=True):
    """How far an artifact with open sizes is, at some of them, from its own hub in ONNX Runtime, on one sample.

    Attributes:
        sizes: symbol -> size.
        sqnr_db: of the output that is furthest, as ``OutputParity`` has it; None when every output is equal.
        floor_db: what it must reach (``edgepack.verify.sized``).
    """

    sizes: dict[str, int]
    sqnr_db: float | None
    floor_db: float


class Accuracy(msgspec.Struct, frozen=True):
    """How well the task is done on the evaluation set, in fractions of 1.

    Attributes:
        value: with its interval: Wilson for top-1, bootstrap over images for mIoU. student: of the student's fp32 run on the same samples.
        drop: student minus artifact, paired (Bonett-Price for top-1, bootstrap for mIoU); positive means the artifact is worse.
        agreement: fraction of samples (top-1) or judged pixels (mIoU) for which artifact and student name the same class.
        metric: "top-1" where a sample has one class, "mIoU" (mean intersection over union) where every pixel has one, "agreement" where
            samples have no label: the student's own classes stand in for labels, ``samples`` and ``value`` are of those it is sure of
            (``edgepack.verify.unlabelled``), and ``agreement`` is over all.
    """

    samples: int
    value: Estimate
    student: float
    drop: Estimate
    agreement: float
    metric: Literal["top-1", "mIoU", "agreement"] = "top-1"


class Metric(msgspec.Struct, frozen=True):
    """A user's own metric (``--metric file.py:function``) of this artifact and of the student."""

    name: str
    value: float
    student: float


class CurvePoint(msgspec.Struct, frozen=True):
    """A stretch of a sustained run: seconds since its start, the median of its queries in milliseconds."""

    seconds: float
    p50_ms: float


class Latency(msgspec.Struct, frozen=True):
    """Time of one query, milliseconds, on the device the environment names.

    Attributes:
        ratio_to_fp32: p25 of this artifact over p25 of the target's fp32 artifact, interleaved in one run, moving-block bootstrap;
            None for the fp32 artifact itself.
        p50, p90, p99: None where there are too few samples for that quantile.
        warnings: what a reader must know (drift, other load).
        profile: how much was measured (``edgepack.latency.protocol.PROFILES``).
        invalid: what spoiled the measurement, each with what to do; such a latency is shown and satisfies no budget.
        curve: of a sustained run; empty otherwise.
        floor_ms: predicted from the artifact's bytes and operations and the target's hardware; no query can be faster.
    """

    truth: Truth
    samples: int
    threads: int
    warm_up: int
    p50: Estimate | None
    p90: Estimate | None
    p99: Estimate | None
    ratio_to_fp32: Estimate | None
    environment: dict[str, str]
    histogram_edges_ms: tuple[float, ...] = ()
    histogram_counts: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    profile: str = ""
    invalid: tuple[str, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    floor_ms: float | None = None


Verdict = Literal["regression", "improvement", "no difference", "inconclusive"]


class Comparison(msgspec.Struct, frozen=True):
    """An artifact against another one of the same target and scheme, interleaved in one run.

    Attributes:
        against: sha256 of the other artifact.
        quantile: which was compared (0.25 on one thread, 0.10 on several).
        ratio: this one's quantile over the other's; p90_ratio: the same at p90, without an interval, None where samples are too few.
        margin: how much slower or faster counts: 0.03 is 3 %.
        pairs: interleaved rounds behind it, all re-runs together.
        invalid: what spoiled them, as in ``Latency``; such a verdict is shown and decides nothing.
    """

    against: str
    quantile: float
    ratio: Estimate
    p90_ratio: float | None
    margin: float
    pairs: int
    verdict: Verdict
    invalid: tuple[str, ...] = ()


class Measurement(msgspec.Struct, frozen=True):
    """One artifact on one device: what ``edgepack bench`` leaves in the pack, a file each (``edgepack.pack.measurements``).

    Attributes:
        created: UTC, ISO 8601. artifact: sha256 of what ran; one of another build says nothing of this pack's.
        device: facts about it, in words; no host name, user or address. truth: of the whole measurement.
        parity: outputs on the golden inputs, computed on the device, against the float64 run of the student.
        failures: outputs that missed their floor there; then nothing is timed.
        memory_peak_bytes: of the process that ran the golden inputs: interpreter, runtime and artifact together.
        unit: the compute unit or delegate that the runtime was asked for ("cpu_and_ne"); "" where there is no choice.
    """

    schema: int
    edgepack: str
    created: str
    target: str
    scheme: str
    artifact: str
    device: dict[str, str]
    truth: Truth
    parity: Parity
    failures: tuple[str, ...] = ()
    latency: Latency | None = None
    memory_peak_bytes: int | None = None
    comparison: Comparison | None = None
    unit: str = ""


class ArtifactRecord(msgspec.Struct, frozen=True):
    """One artifact of one target in one scheme, with everything that was found out about it.

    Attributes:
        parameters_bits: stored bits a weight (file size over weights), a rough size figure.
        failures: gate failures, one line each; empty means it passed.
        no_latency: why there is no latency; "" when there is one.
        answer: what it answered on the first golden sample, in the student's names and layouts.
        state, kept, sizes: as ``ArtifactDescription`` has them.
        size_parity: at the ends of these sizes and between.
    """

    target: str
    platform: str
    scheme: str
    runner: str
    runtime: str
    file: FileRecord
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    parity: Parity
    accuracy: Accuracy | None
    metrics: tuple[Metric, ...] = ()
    latency: Latency | None = None
    no_latency: str = ""
    minimum_os: str = ""
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[str, ...] = ()
    answer: FileRecord | None = None
    state: dict[str, str] = {}
    kept: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = {}
    size_parity: tuple[SizeParity, ...] = ()


class CalibrationRecord(msgspec.Struct, frozen=True):
    """The data behind the ranges and the accuracy. ``digest`` is over the samples' bytes."""

    name: str
    licence: str
    calibration_samples: int
    evaluation_samples: int
    calibration_digest: str
    evaluation_digest: str


class HubRecord(msgspec.Struct, frozen=True):
    """The hub or a quantized hub. ``operators`` counts nodes by operator; ``notes`` say what was rewritten or corrected."""

    scheme: str
    file: FileRecord
    operators: dict[str, int]
    notes: tuple[str, ...] = ()


class Recipe(msgspec.Struct, frozen=True):
    """The options of the build, as ``edgepack.build`` names them, that the artifacts depend on.

    Attributes:
        by_student: whether the student's own classes stood in for the labels of the evaluation set.
    """

    ranges: str = "minmax"
    bias_correction: bool = True
    fold_preprocessing: bool = False
    image_inputs: bool = False
    by_student: bool = False


class Pack(msgspec.Struct, frozen=True):
    """The whole manifest.

    Attributes:
        targets: as they were when it was built, with their budgets; example: one example of the inputs, which fixes open sizes.
    """

    schema: int
    edgepack: str
    created: str
    student: StudentDescription
    hubs: tuple[HubRecord, ...]
    calibration: CalibrationRecord | None
    ranges: FileRecord | None
    constraints: FileRecord | None
    golden_inputs: FileRecord
    golden_outputs: FileRecord
    golden_reference: FileRecord
    artifacts: tuple[ArtifactRecord, ...]
    versions: dict[str, str]
    targets: tuple[Target, ...] = ()
    recipe: Recipe = Recipe()
    example: FileRecord | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file the manifest names."""
        shared = (self.ranges, self.constraints, self.golden_inputs, self.golden_outputs, self.golden_reference, self.example)
        own = (record for artifact in self.artifacts for record in (artifact.file, artifact.answer))
        return tuple(record for record in (*(hub.file for hub in self.hubs), *shared, *own) if record is not None)
