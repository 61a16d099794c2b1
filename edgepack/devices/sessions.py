"""From an address to an open session, whatever runs there: Python and a supervisor, or on phones the C runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgepack.devices.address import Address
from edgepack.devices.connect import connected
from edgepack.devices.session import Progress, Session, opened
from edgepack.errors import InputError

if TYPE_CHECKING:
    from edgepack.devices.adb_session import AdbSession

# What every phone needs and none has.
_WHICH = "--runtime libLiteRt.so, or an AAR of LiteRT or ONNX Runtime; the README says where they are"


@contextmanager
def session_on(address: Address, *, runtime: Path | None, wait: float, progress: Progress) -> Iterator[Session]:
    """A session on a device; nobody else measures there meanwhile.

    Args:
        runtime: the library, AAR or wheel that a phone's runner opens; None for every other device, which has runtimes.
        wait: seconds to wait for somebody who measures there.

    Raises:
        InputError: a phone without a runtime, or a runtime without a phone. DeviceError: the device cannot be reached or is not ready.
    """
    refuse_runtime(address, runtime)
    if runtime is not None:
        from edgepack.devices.adb_session import Runtime
        from edgepack.devices.adb_session import opened as opened_on_phone

        with opened_on_phone(address, Runtime(runtime), wait=wait, progress=progress) as session:
            yield session
        return
    with connected(address) as transport, opened(transport, exclusive=True, wait=wait, progress=progress) as session:
        yield session


def refuse_tool(session: Session) -> AdbSession:
    """The session as one on a phone; InputError when it is not."""
    from edgepack.devices.adb_session import AdbSession

    if not isinstance(session, AdbSession):
        raise InputError("benchmark_model runs on phones alone", "leave --benchmark-model out, or name a phone: --device adb://serial")
    return session


def refuse_runtime(address: Address, runtime: Path | None, tool: Path | None = None) -> None:
    """InputError unless a runtime is named for phones, and for them alone; the same of benchmark_model, which is a file."""
    if tool is not None and (address.transport != "adb" or not tool.is_file()):
        raise InputError(
            f"{tool} cannot be run on {address}", "--benchmark-model names Google's tool, built for the phone, and is for phones"
        )
    if address.transport == "adb" and runtime is None:
        raise InputError(f"{address} has no runtime of its own", f"name one: {_WHICH}")
    if address.transport != "adb" and runtime is not None:
        raise InputError(f"{address} runs the runtimes that are installed there", "leave --runtime out; it is for phones")
