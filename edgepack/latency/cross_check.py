"""A phone's latencies beside those of Google's benchmark_model, a tool of another hand: a line of each measurement's remarks."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgepack.devices.session import Session
from edgepack.devices.sessions import refuse_tool
from edgepack.latency.on_device import OpenPack
from edgepack.pack.manifest import ArtifactRecord, Measurement
from edgepack.text import cleaned


def cross_checked(session: Session, pack: OpenPack, artifact: ArtifactRecord, found: Measurement, tool: Path) -> Measurement:
    """The measurement with what the tool says of the same file in the same session; itself where it has no time that compares.

    Raises:
        RunnerError: the tool failed. TransportError: the connection did. InputError: the session is not on a phone.
    """
    latency = found.latency
    if artifact.runner != "litert" or latency is None or latency.p50 is None:
        return found
    from edgepack.devices.benchmark_model import benchmark_model, cross_check

    path, _ = pack.file(artifact)
    other = benchmark_model(refuse_tool(session), tool, path, found.truth, threads=latency.threads)
    line = cross_check(other, latency.p50.value)
    return cleaned(msgspec.structs.replace(found, latency=msgspec.structs.replace(latency, warnings=(*latency.warnings, line))))
