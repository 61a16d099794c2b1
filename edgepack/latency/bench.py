"""``edgepack bench`` as a call: a pack, a device, and what is kept of what was found."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgepack.converter.step import Limits
from edgepack.devices.address import Address, parse
from edgepack.devices.known import with_python
from edgepack.devices.session import Session
from edgepack.devices.sessions import refuse_runtime, session_on
from edgepack.errors import InputError, StepError
from edgepack.inspection.limits import default_bytes
from edgepack.latency import protocol
from edgepack.latency.against import NotComparedError, refuse_incomparable
from edgepack.latency.against import against as compare_with
from edgepack.latency.cross_check import cross_checked
from edgepack.latency.gate import Check, Checks, checks, compared
from edgepack.latency.on_device import CORE_ML, Bench, Failure, OpenPack, measure_on
from edgepack.pack import measurements
from edgepack.pack.files import PackError, inside, load_pack
from edgepack.pack.manifest import ArtifactRecord, Comparison, Measurement, Pack
from edgepack.pack.reported import refresh_report
from edgepack.pack.run import chosen
from edgepack.runner.coreml import UNITS
from edgepack.text import cleaned

# What a device gets when nobody says which target: a phone by adb, a Mac what is made for iPhones, else a Raspberry Pi.
_PLATFORMS = {"adb": "android"}
_BOARD_PLATFORM, _MAC_PLATFORM = "raspberry-pi", "ios"
_BOARD_RUNNERS = ("ort", "litert", "tflite_runtime")


@dataclass(frozen=True)
class BenchResult:
    """What a bench found.

    Attributes:
        device: the address. measurements: one an artifact that ran. checks: of the gate, of the same artifacts with these
            alone, and of the older pack.
        failures: what could not be run, timed or compared; the rest was measured and kept all the same.
        left_out: artifacts that were not run, a line each.
    """

    device: str
    measurements: tuple[Measurement, ...]
    checks: Checks
    failures: tuple[Failure, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything ran, all answers were right, no budget is missed, and nothing is slower than the older pack's."""
        return not self.failures and not any(each.failures for each in self.measurements) and not self.checks.failing()


def bench(
    pack: Path | str,
    device: str = "local",
    *,
    targets: Sequence[str] = (),
    schemes: Sequence[str] = (),
    profile: str = "quick",
    seconds: float | None = None,
    threads: int = 1,
    against: Path | str | None = None,
    margin: float = 0.03,
    save: bool = True,
    wait: float = 0.0,
    timeout: float = 600.0,
    memory: float | None = None,
    runtime: Path | str | None = None,
    benchmark_model: Path | str | None = None,
    units: Sequence[str] = (),
    python: str = "",
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> BenchResult:
    """Run and time the artifacts of a pack on a device.

    Args:
        device: "local", "qemu://pi5", "qemu://pi4", "ssh://user@host[:port]" or "adb://serial".
        targets, schemes: which artifacts; empty for those that the device is for.
        profile: "smoke", "quick", "mlperf" or "sustained"; seconds: the shortest time to measure, in place of the profile's.
        threads: of the runtime, >= 1.
        against: an older pack whose artifacts are timed in turn with these; margin: how much slower or faster counts.
        save: keep the measurements in the pack and write its report again.
        wait: seconds to wait while somebody else measures on the device. timeout: seconds a runner may take beside the profile's own.
        memory: GiB a runner may allocate; None for what the artifact should need.
        runtime: for a phone, the library that its runner opens: a .so file, an AAR or a wheel.
        benchmark_model: Google's tool for the phone, which is to time the .tflite files too; what it says stands in the warnings.
        units: for a Mac, the compute units that Core ML is asked for, of edgepack.runner.coreml.UNITS; empty for all of them.
        python: over ssh, the Python there ("~/venv/bin/python3"); "" for the one that edgepack device setup was told, else python3.
        tell: hears (what, done, total).

    What is measured is kept as it comes: what fails later takes nothing of it away. A runner that fails is in the result.

    Raises:
        EdgepackError: bad input (exit code 2), no artifact that runs (3), a device that cannot be reached or is not ready (4).
    """
    folder, address = Path(pack), with_python(parse(device), python)
    library, tool = (None if path is None else Path(path) for path in (runtime, benchmark_model))
    refuse_runtime(address, library, tool)
    asked = Bench(protocol.profile(profile, seconds), threads, margin, units=_known_units(units))
    subject = OpenPack.at(folder, load_pack(folder))
    old = None if against is None else OpenPack.at(Path(against), load_pack(Path(against)))
    possible = _possible(subject.manifest, address, targets, schemes)
    limits = Limits(timeout, _memory(folder, possible) if memory is None else int(memory * 2**30))
    _refuse_unusable(subject, old, possible, save)
    found = _Found(subject, save)
    with found.reported(), session_on(address, runtime=library, wait=wait, progress=tell) as session:
        artifacts, left_out = benchable(subject.manifest, address, targets, schemes, is_mac=_is_mac(session))
        found.take(measure_on(session, subject, artifacts, asked, limits))
        if tool is not None:
            found.cross_check(session, artifacts, tool)
        if old is not None:
            found.compare(session, old, artifacts, asked, limits)
    if not found.measurements:
        raise found.failures[0].error
    return BenchResult(str(address), tuple(found.measurements), found.checks(), tuple(found.failures), left_out)


def _refuse_unusable(subject: OpenPack, old: OpenPack | None, artifacts: Sequence[ArtifactRecord], save: bool) -> None:
    """Whatever can be known to be wrong before a device is asked for an hour."""
    subject.prepare(artifacts)
    if old is not None:
        refuse_incomparable(old, artifacts)
    if save:
        measurements.refuse_unwritable(subject.folder)
        measurements.held(subject.folder, subject.manifest)


class _Found:
    """What was found so far; in the pack as soon as it is known, where that is wanted."""

    def __init__(self, subject: OpenPack, save: bool) -> None:
        self._subject, self._save = subject, save
        self._places: list[Path | None] = []
        self._not_compared: dict[int, str] = {}
        self.measurements: list[Measurement] = []
        self.failures: list[Failure] = []

    def take(self, found: Iterable[Measurement | Failure]) -> None:
        """All of it, one after the other."""
        for each in found:
            if isinstance(each, Failure):
                self.failures.append(each)
                continue
            self._places.append(measurements.record(self._subject.folder, each) if self._save else None)
            self.measurements.append(each)

    def cross_check(self, session: Session, artifacts: Sequence[ArtifactRecord], tool: Path) -> None:
        """Put what benchmark_model says beside each measurement that it can time."""
        by_name = {(each.target, each.scheme): each for each in artifacts}
        for index, each in enumerate(self.measurements):
            try:
                self._replace(index, cross_checked(session, self._subject, by_name[each.target, each.scheme], each, tool))
            except StepError as error:
                self.failures.append(Failure(each.target, f"{each.scheme} by benchmark_model", error))

    def compare(self, session: Session, old: OpenPack, artifacts: Sequence[ArtifactRecord], asked: Bench, limits: Limits) -> None:
        """Put the comparison with an older pack beside each measurement."""
        by_name = {(each.target, each.scheme): each for each in artifacts}
        for index, each in enumerate(self.measurements):
            try:
                artifact = by_name[each.target, each.scheme]
                self._add(index, compare_with(session, self._subject, old, artifact, each, asked, limits))
            except NotComparedError as why:
                self._not_compared[index] = str(why)
            except StepError as error:
                self._not_compared[index] = error.cause
                self.failures.append(Failure(each.target, f"{each.scheme} against the older pack", error, unit=each.unit))

    def _add(self, index: int, comparison: Comparison) -> None:
        self._replace(index, msgspec.structs.replace(self.measurements[index], comparison=cleaned(comparison)))

    def _replace(self, index: int, measurement: Measurement) -> None:
        self.measurements[index] = measurement
        if self._save:
            measurements.record(self._subject.folder, self.measurements[index], self._places[index])

    def checks(self) -> Checks:
        """The gate's, of what was benched; what did not run; and those against the older pack."""
        benched = {(each.target, each.scheme) for each in self.measurements}
        budgets = (each for each in checks(self._subject.manifest, self.measurements) if (each.target, each.scheme) in benched)
        crashed = (
            Check(each.target, each.scheme, "parity", "fail", f"it does not run there{_on(each.unit)}: {each.error.cause}")
            for each in self.failures
            if each.is_of_artifact
        )
        with_older = (compared(each, self._not_compared.get(index, "")) for index, each in enumerate(self.measurements))
        return Checks((*budgets, *crashed, *filter(None, with_older)))

    @contextmanager
    def reported(self) -> Iterator[None]:
        """The pack's report is written anew in the end, also when it is an early one."""
        try:
            yield
        except BaseException:
            with suppress(PackError):
                self._report()
            raise
        self._report()

    def _report(self) -> None:
        if self._save and self.measurements:
            refresh_report(self._subject.folder)


def _on(unit: str) -> str:
    return f" on {unit}" if unit else ""


def _known_units(asked: Sequence[str]) -> tuple[str, ...]:
    unknown = [unit for unit in asked if unit not in UNITS]
    if unknown:
        raise InputError(f"Core ML has no compute unit '{unknown[0]}'", f"use {', '.join(UNITS)}")
    return tuple(dict.fromkeys(asked)) or tuple(UNITS)


def _is_mac(session: Session) -> bool:
    return session.facts.kernel.startswith("Darwin ")


def _possible(pack: Pack, address: Address, targets: Sequence[str], schemes: Sequence[str]) -> list[ArtifactRecord]:
    """What a device may get, before it said what it is: behind ssh is a board or a Mac.

    Raises:
        PackError: nothing, whatever it is.
    """
    kinds = {"local": (platform.system() == "Darwin",), "ssh": (False, True)}.get(address.transport, (False,))
    found, refusals = list[ArtifactRecord](), list[PackError]()
    for is_mac in kinds:
        try:
            found += benchable(pack, address, targets, schemes, is_mac=is_mac)[0]
        except PackError as error:
            refusals.append(error)
    if len(refusals) == len(kinds):
        raise refusals[0]
    return found


def benchable(
    pack: Pack, address: Address, targets: Sequence[str], schemes: Sequence[str], *, is_mac: bool = False
) -> tuple[list[ArtifactRecord], tuple[str, ...]]:
    """The artifacts that a device gets, those named or all that are made for it, and a line on each of these that cannot be run.

    Args:
        is_mac: it runs Core ML's packages; one behind ssh nothing else, as nothing else is installed there.

    Raises:
        PackError: the pack has none, or none whose runtime can run there.
    """
    named = chosen(pack, targets, schemes)
    runners = _runners(address, is_mac)
    found = [artifact for artifact in named if artifact.runner in runners]
    if not found:
        raise PackError(f"no artifact of these runs on {address}: {_why_none(address, is_mac)}", "choose others with -t and -s")
    passed = [artifact for artifact in found if not artifact.failures]
    if not passed:
        raise PackError(f"every artifact of these failed its gate: {found[0].failures[0]}", "build it again: wrong answers have no latency")
    wanted = _PLATFORMS.get(address.transport, _MAC_PLATFORM if is_mac else _BOARD_PLATFORM)
    meant = named if targets or address.transport == "local" else [each for each in named if each.platform == wanted]
    run = [artifact for artifact in meant if artifact in passed] or passed
    left_out = [each for each in meant if each not in run]
    return run, tuple(f"{each.target} {each.scheme} is not run: {_why_left_out(each, address, is_mac)}" for each in left_out)


def _runners(address: Address, is_mac: bool) -> tuple[str, ...]:
    """Of the artifacts that run there."""
    if not is_mac:
        return _BOARD_RUNNERS
    return (*_BOARD_RUNNERS, CORE_ML) if address.transport == "local" else (CORE_ML,)


def _why_none(address: Address, is_mac: bool) -> str:
    return "a Mac behind ssh runs Core ML's alone" if is_mac else "Core ML's run on Apple systems alone"


def _why_left_out(artifact: ArtifactRecord, address: Address, is_mac: bool) -> str:
    if artifact.failures:
        return f"it failed its gate ({artifact.failures[0]})"
    return "only Core ML is installed on a Mac behind ssh" if is_mac else "Core ML runs on Apple systems alone"


def _memory(folder: Path, artifacts: Sequence[ArtifactRecord]) -> int:
    """What the largest of them should need."""
    return max(default_bytes(inside(folder, artifact.file.path)) for artifact in artifacts)
