"""``edgepack serve``: a page that runs a pack's artifacts in a phone's browser."""

from __future__ import annotations

import json as jsons
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepack.cli.build import Json
from edgepack.cli.run import PackSchemeOption, PackTargetOption

if TYPE_CHECKING:
    from edgepack.pack.manifest import Measurement
    from edgepack.serve.judging import Visitor
    from edgepack.serve.serving import Serving

_HOST = "IPv4 address to listen on; 0.0.0.0 for the whole network. Default: this machine alone."
_TLS = "https with a certificate made for this run. Default: on every address but this machine's own."


def command(
    pack: Annotated[Path, typer.Argument(help="Folder of a pack.")],
    host: Annotated[str, typer.Option(help=_HOST)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for one that is free.")] = 0,
    tls: Annotated[bool | None, typer.Option(help=_TLS)] = None,
    usb: Annotated[bool, typer.Option("--usb", help="Also to an Android phone on a cable, by adb reverse.")] = False,
    usb_serial: Annotated[str, typer.Option(help="Which phone, as adb devices lists it; implies --usb.")] = "",
    target: PackTargetOption = None,
    scheme: PackSchemeOption = None,
    profile: Annotated[str, typer.Option(help="How much is measured: smoke, quick, mlperf or sustained.")] = "quick",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtimes, where the browser allows them.")] = 1,
    save: Annotated[bool, typer.Option(help="Keep the measurements in the pack, and show them in its report.")] = True,
    once: Annotated[bool, typer.Option("--once", help="Leave when one browser is through; exit code 1 if something failed there.")] = False,
    json: Json = False,
) -> None:
    """Serve a page that checks and times PACK's artifacts in a browser, and lets you try them live; Ctrl-C ends it.

    Open the address, or scan the code. It works once, for one browser or app; a new one is shown for the next. What a browser measures
    lands in the pack as target "web", what an app measures (docs/app_reports.md) as the target that its artifact was made for. The first
    run brings the JavaScript runtimes with npm; after that no network is needed.
    """
    from edgepack.serve.serving import Listeners, Place, serving

    teller = _Teller(json)
    over, failed = threading.Event(), list[str]()

    def ended(failures: Sequence[str]) -> None:
        failed.extend(failures)
        if once:
            over.set()

    place = Place(host, port, tls, usb or bool(usb_serial), usb_serial)
    listeners = Listeners(teller.renewed, teller.measured, ended)
    chosen = {"targets": target or (), "schemes": scheme or ()}
    with serving(pack, place, **chosen, profile=profile, threads=threads, save=save, listeners=listeners) as held:
        # First, so that whoever hears that it is ready can end it.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: over.set())
        teller.ready(held)
        over.wait()
        # The last reply is still on its way.
        over.clear()
        over.wait(_GRACE_SECONDS if once else 0)
    if once and failed:
        raise typer.Exit(1)


_GRACE_SECONDS = 0.5


class _Teller:
    """Says what happens: to a person, or a line of JSON each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def ready(self, held: Serving) -> None:
        """It can be opened."""
        if self._as_json:
            _emit({"event": "ready", "address": held.address, "fingerprint": held.fingerprint, "secure": held.place.is_secure})
            return
        names = ", ".join(subject.name for subject in held.held.subjects)
        print(f"serving {names or 'no browser, but apps'}")
        for line in held.held.left_out:
            print(f"  without {line}")
        self._address(held.address)
        for line in _remarks(held):
            print(line)
        print("Ctrl-C ends it", flush=True)

    def renewed(self, address: str) -> None:
        """Somebody came in, and the address is used up."""
        if self._as_json:
            _emit({"event": "opened", "address": address})
        else:
            print("a browser came in, and its address is used up; for another one:")
            self._address(address)

    def measured(self, visitor: Visitor, found: Sequence[Measurement]) -> None:
        """The pack holds more."""
        if self._as_json:
            import msgspec

            _emit({"event": "measured", "measurements": [msgspec.to_builtins(each) for each in found]})
            return
        from edgepack.text import plain

        print(plain(found[0].device.get("board", "a browser")) + f" ({found[0].truth})")
        for each in found:
            what = f"{each.scheme} {each.unit}".strip()
            print(f"  {what:6} {plain(each.device.get('runtime', '')):24} {_words(each)}", flush=True)

    def _address(self, address: str) -> None:
        if sys.stdout.isatty():
            import segno

            segno.make(address, error="l").terminal(compact=True, border=2)
        print(f"open in the browser: {address}", flush=True)


def _emit(event: dict[str, Any]) -> None:
    print(jsons.dumps(event), flush=True)


def _remarks(held: Serving) -> list[str]:
    if held.fingerprint:
        return [
            "the certificate was made for this run, so the phone warns: go on when it shows this SHA-256 fingerprint",
            f"  {held.fingerprint}",
        ]
    if not held.place.is_secure:
        return ["http on a network is no secure origin: one thread, a coarse clock, no camera; leave --no-tls out for https"]
    if held.place.is_local and not held.place.usb:
        return ["this machine alone can open it: --host 0.0.0.0 for a phone on the network, --usb for one on a cable"]
    return []


def _words(found: Measurement) -> str:
    if found.failures:
        return f"FAIL {found.failures[0]}"
    latency = found.latency
    if latency is None or latency.p50 is None:
        return "agrees"
    spoiled = f"; invalid: {latency.invalid[0]}" if latency.invalid else ""
    return f"agrees, p50 {latency.p50.value:.3g} ms [{latency.p50.low:.3g}, {latency.p50.high:.3g}]{spoiled}"
