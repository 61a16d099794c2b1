"""What a visitor and the server say to each other; what a visitor says is a stranger's, and is checked against these types.

A visitor is the page in a browser, or an app on a phone (docs/app_reports.md says it for those who write one). The server leads: each of
its answers carries the next step and a nonce that is good for that step and once. The visitor obeys.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgepack.student.spec import ImagePreprocessing

# Words a browser says of itself; no browser's user agent has 1,000 characters.
Words = Annotated[str, msgspec.Meta(max_length=1000)]
# Names and short facts.
Name = Annotated[str, msgspec.Meta(max_length=200)]


class Browser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser says of itself and of the page's origin.

    Attributes:
        brand, version: by its client hints, "" where it gives none (Safari, Firefox); then ``user_agent`` tells.
        model: of the phone, where it says so. platform: "Android 14". mobile: by its own word.
        automated: it is driven by a program (``navigator.webdriver``).
        secure: the origin is https or this machine. isolated: shared memory is allowed, and with it threads.
        tick_ns: the step of its clock as the page saw it.
    """

    user_agent: Words
    brand: Name = ""
    version: Name = ""
    model: Name = ""
    platform: Name = ""
    mobile: bool = False
    automated: bool = False
    cores: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    memory_gib: Annotated[float, msgspec.Meta(ge=0, le=4096)] = 0.0
    secure: bool = False
    isolated: bool = False
    tick_ns: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0


# How an app names a compute unit or a delegate: "cpu_and_ne", "gpu".
Unit = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an app says of itself and of the phone it runs on.

    Attributes:
        platform: whose artifacts it runs. runtime, version: what it runs them with.
        units: compute units or delegates that it can ask the runtime for, in the order in which they are to be measured.
        app: its name and version. model: of the phone, as its system names it ("iPhone16,1"). system: "iOS 18.1". machine: "arm64".
        virtual: a simulator or an emulator runs it, and no phone.
        debug: built without optimization, or a debugger is attached.
        tick_ns: the step of its clock as the app saw it.
    """

    platform: Literal["ios", "android"]
    runtime: Literal["coreml", "litert", "ort"]
    version: Name
    units: Annotated[tuple[Unit, ...], msgspec.Meta(min_length=1, max_length=8)]
    app: Annotated[Name, msgspec.Meta(min_length=1)]
    model: Annotated[Name, msgspec.Meta(min_length=1)]
    system: Annotated[Name, msgspec.Meta(min_length=1)]
    machine: Annotated[Name, msgspec.Meta(min_length=1)]
    virtual: bool
    debug: bool
    cores: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    memory_gib: Annotated[float, msgspec.Meta(ge=0, le=4096)] = 0.0
    tick_ns: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0

    def __post_init__(self) -> None:
        if len(set(self.units)) < len(self.units):
            raise ValueError("a unit is named twice")


class Visit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page or an app that wants to measure; ``threads`` that it will use."""

    browser: Browser | None = None
    app: App | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1

    def __post_init__(self) -> None:
        if (self.browser is None) == (self.app is None):
            raise ValueError("a visit is of a browser or of an app")

    @property
    def visitor(self) -> Browser | App:
        """Who wants to measure."""
        found = self.browser or self.app
        assert found is not None
        return found


class OutputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One output of all golden samples, stacked; ``data`` is little-endian, base64 in JSON."""

    name: Name
    dtype: Name
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=2**31)], ...], msgspec.Meta(max_length=9)]
    data: bytes


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one artifact gave for the golden inputs, or why it gave nothing."""

    nonce: Name
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    outputs: Annotated[tuple[OutputTensor, ...], msgspec.Meta(max_length=64)] = ()
    error: Words = ""


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One artifact's part of an interleaved run; times in nanoseconds, ``taken`` and ``starts`` little-endian float64.

    Attributes:
        subject: its number. warm_up_ns: each query of the warm-up. inner: queries timed as one.
    """

    subject: int
    warm_up_ns: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1e13)], ...], msgspec.Meta(max_length=100_000)]
    inner: Annotated[int, msgspec.Meta(ge=1, le=2**20)]
    taken: bytes
    starts: bytes


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An interleaved run.

    Attributes:
        hidden: the page or the app was not in view for some of it; such are slowed down.
        thermal_status: the worst during the run, as android.os.PowerManager numbers it (0 none to 6 shutdown); None where it is not told.
        battery_saver: it was on at some moment of the run (of an iPhone: Low Power Mode).
    """

    nonce: Name
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    tick_ns: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    series: Annotated[tuple[Series, ...], msgspec.Meta(max_length=64)] = ()
    hidden: bool = False
    thermal_status: Annotated[int, msgspec.Meta(ge=0, le=6)] | None = None
    battery_saver: bool = False
    error: Words = ""


class Port(msgspec.Struct, frozen=True):
    """An input or output of an artifact; of an input also the shape of one sample."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    permutation: tuple[int, ...] = ()


class PlannedFile(msgspec.Struct, frozen=True):
    """A file of an artifact that is a folder: its path in there, and what it must be."""

    path: str
    bytes: int
    sha256: str


class SubjectPlan(msgspec.Struct, frozen=True):
    """An artifact as the visitor gets it.

    Attributes:
        bytes, sha256: of the file, or of the whole folder. files: of a folder, each of its files; empty for a plain file.
        unit: that the runtime is to be asked for; "" in a browser, which has none.
    """

    id: int
    target: str
    scheme: str
    runner: Literal["ort", "litert", "mil"]
    file: str
    bytes: int
    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: tuple[PlannedFile, ...] = ()
    unit: str = ""


class Protocol(msgspec.Struct, frozen=True):
    """How latency is taken: the profile's figures, and those of ``edgepack.runner.contract``."""

    profile: str
    warm_up: int
    pairs: int
    seconds: float
    warm_up_seconds: float
    window: int
    fewest_ticks: int
    most_inner: int


class Demo(msgspec.Struct, frozen=True):
    """What the live part of the page needs; ``kind`` is "draw", "camera" or "none"."""

    kind: Literal["draw", "camera", "none"]
    labels: tuple[str, ...]
    preprocessing: ImagePreprocessing | None
    layout: str


class Plan(msgspec.Struct, frozen=True):
    """Everything the page is told at first."""

    student: str
    edgepack: str
    samples: int
    threads: int
    subjects: tuple[SubjectPlan, ...]
    left_out: tuple[str, ...]
    protocol: Protocol
    demo: Demo


class Next(msgspec.Struct, frozen=True):
    """The step that the page is asked for, and the nonce it is good for; ``subjects`` are those of the step."""

    kind: Literal["answers", "times", "done"]
    nonce: str
    subjects: tuple[int, ...] = ()


class OutputVerdict(msgspec.Struct, frozen=True):
    """How far one output is from the student; decibels None where it is exact."""

    name: str
    sqnr_db: float | None
    floor_db: float | None
    non_finite: int


class Reply(msgspec.Struct, frozen=True):
    """To a post that was accepted.

    Attributes:
        verdicts: of answers. failures: outputs that missed their floor. latencies: of times, by subject.
        kept: how many measurements the pack took.
    """

    next: Next
    truth: str = ""
    verdicts: tuple[OutputVerdict, ...] = ()
    failures: tuple[str, ...] = ()
    latencies: dict[str, TimeVerdict] = {}
    kept: int = 0


class TimeVerdict(msgspec.Struct, frozen=True):
    """A latency as the page shows it; milliseconds, (value, low, high)."""

    p50: tuple[float, float, float] | None
    p90: tuple[float, float, float] | None
    ratio: tuple[float, float, float] | None
    samples: int
    inner: int
    invalid: tuple[str, ...]
    warnings: tuple[str, ...]
