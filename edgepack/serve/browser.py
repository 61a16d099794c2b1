"""What kind of device a browser is, by what it says of itself: its facts in words, and what kind of truth its numbers are. Pure."""

from __future__ import annotations

import re

from edgepack.pack.manifest import Truth
from edgepack.serve.messages import Browser
from edgepack.text import one_plain_line

# As targets/web.toml names the hardware that the target stands for: any browser, whatever it runs on.
BOARD, MACHINE = "Browser", "wasm32"

# Tokens of user agents, the special before the general: Edge and Samsung's call themselves Chrome too, and Chrome calls itself Safari.
_BRANDS = (
    ("Edg", "Edge"),
    ("EdgA", "Edge"),
    ("SamsungBrowser", "Samsung Internet"),
    ("OPR", "Opera"),
    ("FxiOS", "Firefox"),
    ("Firefox", "Firefox"),
    ("CriOS", "Chrome"),
    ("HeadlessChrome", "Headless Chrome"),
    ("Chrome", "Chrome"),
    ("Version", "Safari"),
)
_SYSTEMS = (
    (r"Android ([\d.]+)", "Android"),
    (r"iPhone OS ([\d_]+)", "iOS"),
    (r"CPU OS ([\d_]+)", "iPadOS"),
    (r"Mac OS X ([\d_.]+)", "macOS"),
    (r"Windows NT ([\d.]+)", "Windows"),
    (r"CrOS", "ChromeOS"),
    (r"Linux", "Linux"),
)


def words(browser: Browser, runtime: str, threads: int) -> dict[str, str]:
    """Fact -> words of a browser that ran a runtime; what it does not say is left out. No address, and no user agent as it is."""
    name, system = _name(browser), browser.platform or _system(browser.user_agent)
    where = browser.model or system
    found = {
        "board": f"{BOARD} {name}" + (f" on {where}" if where else ""),
        "browser": name + (", driven by a program" if browser.automated else ""),
        "system": system,
        "model": browser.model,
        "cores": f"{browser.cores}" if browser.cores else "",
        "memory": f"{browser.memory_gib:g} GiB, as browsers round it" if browser.memory_gib else "",
        "architecture": MACHINE,
        "runtime": runtime,
        "threads": f"{threads}" if browser.isolated else f"{threads}: {_why_single(browser)}",
        "timer resolution": _tick(browser.tick_ns),
        "origin": "secure, isolated" if browser.isolated else "secure, not isolated" if browser.secure else "not secure",
    }
    return {key: one_plain_line(text)[:300] for key, text in found.items() if text}


def truth(browser: Browser) -> Truth:
    """A browser that a person uses is the target ``web`` itself; one without a screen, driven by a program, stands in for one."""
    return "simulated" if is_stand_in(browser) else "measured"


def is_stand_in(browser: Browser) -> bool:
    """Whether it is headless or driven by a program."""
    return browser.automated or "headless" in f"{browser.user_agent} {browser.brand}".lower()


def _why_single(browser: Browser) -> str:
    return "the page is not isolated" if browser.secure else "the origin is not secure, which forbids more"


def _name(browser: Browser) -> str:
    if browser.brand:
        return f"{browser.brand} {_major(browser.version)}".strip()
    for token, name in _BRANDS:
        found = re.search(rf"\b{token}/(\d+(?:\.\d+)?)", browser.user_agent)
        if found:
            return f"{name} {_major(found[1])}"
    return "of no known name"


def _major(version: str) -> str:
    return version.partition(".")[0]


def _system(user_agent: str) -> str:
    for pattern, name in _SYSTEMS:
        found = re.search(pattern, user_agent)
        if found:
            return f"{name} {found[1].replace('_', '.')}" if found.groups() else name
    return ""


def _tick(tick_ns: float) -> str:
    return f"{tick_ns / 1000:g} µs" if tick_ns else "it does not move"
