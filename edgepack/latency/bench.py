"""``edgepack bench`` as a call: a pack, a device, and what is kept of what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepack.converter.step import Limits
from edgepack.devices.address import Address, parse
from edgepack.devices.connect import connected
from edgepack.devices.session import opened
from edgepack.inspection.limits import default_bytes
from edgepack.latency import protocol
from edgepack.latency.gate import Checks, checks, compared
from edgepack.latency.on_device import Bench, OpenPack, measure_on
from edgepack.pack import measurements
from edgepack.pack.files import PackError, inside, load_pack
from edgepack.pack.manifest import ArtifactRecord, Measurement, Pack
from edgepack.pack.reported import refresh_report
from edgepack.pack.run import chosen
from edgepack.runner.bundle import PORTABLE

# What a Raspberry Pi gets when nobody says which target.
_BOARD_PLATFORM = "raspberry-pi"


@dataclass(frozen=True)
class BenchResult:
    """What a bench found.

    Attributes:
        device: the address. measurements: one an artifact. checks: of the gate, of the same artifacts with these
            alone, and of the older pack.
    """

    device: str
    measurements: tuple[Measurement, ...]
    checks: Checks

    @property
    def passed(self) -> bool:
        """Whether all answers were right, no budget is missed, and nothing is slower than the older pack's."""
        return not any(each.failures for each in self.measurements) and not self.checks.failing()


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
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> BenchResult:
    """Run and time the artifacts of a pack on a device.

    Args:
        device: "local", "qemu://pi5", "qemu://pi4" or "ssh://user@host[:port]".
        targets, schemes: which artifacts; empty for those that the device is for.
        profile: "smoke", "quick", "mlperf" or "sustained"; seconds: the shortest time to measure, in place of the profile's.
        threads: of the runtime, >= 1.
        against: an older pack whose artifacts are timed in turn with these; margin: how much slower or faster counts.
        save: keep the measurements in the pack and write its report again.
        wait: seconds to wait while somebody else measures on the device. timeout: seconds a runner may take beside the profile's own.
        memory: GiB a runner may allocate; None for what the artifact should need.
        tell: hears (what, done, total).

    Raises:
        EdgepackError: bad input (exit code 2), a failed runner (3), a device that cannot be reached or is not ready (4).
    """
    folder, address = Path(pack), parse(device)
    wanted = protocol.profile(profile, seconds)
    subject = OpenPack.at(folder, load_pack(folder))
    old = None if against is None else OpenPack.at(Path(against), load_pack(Path(against)))
    artifacts = benchable(subject.manifest, address, targets, schemes)
    limits = Limits(timeout, _memory(folder, artifacts) if memory is None else int(memory * 2**30))
    with connected(address) as transport, opened(transport, exclusive=True, wait=wait, progress=tell) as session:
        found = measure_on(session, subject, artifacts, Bench(wanted, threads, margin), limits, old)
    if save:
        keep(folder, subject.manifest, found)
    return BenchResult(str(address), tuple(found), _checks(subject.manifest, found))


def _checks(pack: Pack, found: Sequence[Measurement]) -> Checks:
    """The gate's, of what was benched, and those against the older pack."""
    benched = {(each.target, each.scheme) for each in found}
    budgets = (check for check in checks(pack, found) if (check.target, check.scheme) in benched)
    return Checks((*budgets, *filter(None, map(compared, found))))


def keep(folder: Path, pack: Pack, found: Sequence[Measurement]) -> None:
    """Put measurements into a pack, and write its report anew.

    Raises:
        PackError: it cannot be written.
    """
    for each in found:
        measurements.record(folder, each)
    refresh_report(folder)


def benchable(pack: Pack, address: Address, targets: Sequence[str], schemes: Sequence[str]) -> list[ArtifactRecord]:
    """The artifacts that a device gets: those named, or all that are made for it.

    Raises:
        PackError: the pack has none, or none whose runtime can run there.
    """
    found = [artifact for artifact in chosen(pack, targets, schemes) if artifact.runner in PORTABLE]
    if not found:
        raise PackError(f"no artifact of these runs on {address}: Core ML's run on Apple systems alone", "choose others with -t and -s")
    failed = [artifact for artifact in found if artifact.failures]
    if len(failed) == len(found):
        raise PackError(
            f"every artifact of these failed its gate: {failed[0].failures[0]}", "build it again: wrong answers have no latency"
        )
    passed = [artifact for artifact in found if not artifact.failures]
    made_for_it = [artifact for artifact in passed if address.transport == "local" or artifact.platform == _BOARD_PLATFORM]
    return passed if targets else made_for_it or passed


def _memory(folder: Path, artifacts: Sequence[ArtifactRecord]) -> int:
    """What the largest of them should need."""
    return max(default_bytes(inside(folder, artifact.file.path)) for artifact in artifacts)
