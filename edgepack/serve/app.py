"""What kind of device an app runs on, by what it says of itself: its facts in words, and what kind of truth its numbers are. Pure."""

from __future__ import annotations

from edgepack.latency import environment
from edgepack.latency.gate import matches
from edgepack.latency.protocol import SUSTAINED
from edgepack.pack.manifest import Truth
from edgepack.serve.messages import App, Times
from edgepack.serve.subjects import APP_RUNTIMES
from edgepack.targets import Target
from edgepack.text import one_plain_line

# Xcode's simulator runs the Mac's own Core ML; an Android emulator runs Android on a processor that is no phone's.
_VIRTUAL: dict[str, tuple[Truth, str]] = {"ios": ("simulated", "(simulator)"), "android": ("emulated", "(emulated)")}
_HIDDEN = "the app was not in view for some of the run, and phones slow such apps down -> keep it in view, and measure again"
_DEBUG = "the app was built for debugging, or a debugger was attached -> install its release build, and start it from the home screen"
# What whoever reads a phone's numbers must know of the program that took them.
_UNTRIED = "the app template was never run on a phone by those who wrote it (docs/apple.md, docs/app_reports.md)"


def words(app: App, threads: int) -> dict[str, str]:
    """Fact -> words of a phone; what the app does not say is left out."""
    found = {
        "board": app.model + (f" {_VIRTUAL[app.platform][1]}" if app.virtual else ""),
        "app": app.app + (", built for debugging" if app.debug else ""),
        "system": app.system,
        "cores": f"{app.cores}" if app.cores else "",
        "memory": f"{app.memory_gib:.1f} GiB" if app.memory_gib else "",
        "architecture": app.machine,
        "runtime": f"{APP_RUNTIMES[app.runtime]} {app.version}".strip(),
        "threads": f"{threads}" if app.runtime != "coreml" else "",
        "timer resolution": f"{app.tick_ns / 1000:g} µs" if app.tick_ns else "",
    }
    return {key: one_plain_line(text)[:300] for key, text in found.items() if text}


def truth(app: App, target: Target | None) -> Truth:
    """ "measured" on a phone that the target stands for: any of its platform, unless it names hardware."""
    if app.virtual:
        return _VIRTUAL[app.platform][0]
    if target is None or target.platform != app.platform:
        return "host"
    stands_for = _is_phone(app) if target.hardware is None else matches(target.hardware, words(app, 1))
    return "measured" if stands_for else "host"


def _is_phone(app: App) -> bool:
    """Macs run apps of iPhones too, as they are."""
    return app.platform != "ios" or app.model.startswith(_OF_IOS)


# How the models of devices begin that iOS and iPadOS run on (uname's machine there).
_OF_IOS = ("iPhone", "iPad", "iPod")


def spoiled(app: App, post: Times, profile: str) -> tuple[str, ...]:
    """What makes the times of a run no measure of the phone, by the app's own word."""
    look = {"thermal_status": post.thermal_status, "battery_saver": post.battery_saver}
    found = environment.spoiled({}, [look], sustained=profile == SUSTAINED)
    return (*found, *([_HIDDEN] if post.hidden else []), *([_DEBUG] if app.debug else []))


def remarks(app: App, post: Times, profile: str) -> tuple[str, ...]:
    """What a reader should know and what spoils nothing."""
    look = {"thermal_status": post.thermal_status, "battery_saver": post.battery_saver}
    return (*environment.remarks({}, [look], sustained=profile == SUSTAINED), _UNTRIED)
