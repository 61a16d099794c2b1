"""What a browser is called, and what kind of truth it is."""

from __future__ import annotations

import pytest

from edgepack.latency.gate import matches
from edgepack.serve.browser import truth, words
from edgepack.serve.messages import Browser
from edgepack.targets import load_target

_ANDROID = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
_WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
_IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "


@pytest.mark.parametrize(
    ("user_agent", "name", "system"),
    [
        (_ANDROID + "Chrome/142.0.0.0 Mobile Safari/537.36", "Chrome 142", "Android 14"),
        (_ANDROID + "SamsungBrowser/26.0 Chrome/122.0.0.0 Mobile Safari/537.36", "Samsung Internet 26", "Android 14"),
        (_WINDOWS + "Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0", "Edge 142", "Windows 10.0"),
        (_IPHONE + "Version/18.1 Mobile/15E148 Safari/604.1", "Safari 18", "iOS 18.1"),
        (_IPHONE + "CriOS/142.0.1 Mobile/15E148 Safari/604.1", "Chrome 142", "iOS 18.1"),
        ("Mozilla/5.0 (Android 14; Mobile; rv:133.0) Gecko/133.0 Firefox/133.0", "Firefox 133", "Android 14"),
        ("something else", "of no known name", ""),
    ],
)
def test_browsers_are_called_by_their_own_names(user_agent: str, name: str, system: str) -> None:
    found = words(Browser(user_agent), "LiteRT.js 1", 1)
    assert (found["browser"], found.get("system", "")) == (name, system)


def test_what_a_browser_hints_at_is_taken_before_its_user_agent() -> None:
    said = Browser(_ANDROID + "Chrome/142.0.0.0", brand="Brave", version="1.73.2", model="Pixel 8", platform="Android 14.0.0", cores=9)
    assert words(said, "", 1)["board"] == "Browser Brave 1 on Pixel 8"


def test_any_browser_is_the_target_web_and_no_other() -> None:
    found = words(Browser(_ANDROID + "Chrome/142.0.0.0"), "", 1)
    assert matches(load_target("web").hardware, found)
    assert not any(matches(load_target(name).hardware, found) for name in ("android", "ios", "raspberry-pi-4", "raspberry-pi-5"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Browser(_ANDROID + "Chrome/142.0.0.0"), "measured"),
        (Browser(_ANDROID + "Chrome/142.0.0.0", automated=True), "simulated"),
        (Browser(_WINDOWS + "HeadlessChrome/142.0.0.0"), "simulated"),
        (Browser(_WINDOWS, brand="HeadlessChrome"), "simulated"),
    ],
)
def test_a_browser_without_a_person_stands_in_for_one(said: Browser, kind: str) -> None:
    assert truth(said) == kind


def test_why_there_is_one_thread_is_said() -> None:
    assert words(Browser(""), "", 1)["threads"] == "1: the origin is not secure, which forbids more"
    assert words(Browser("", secure=True), "", 1)["threads"] == "1: the page is not isolated"
    assert words(Browser("", secure=True, isolated=True), "", 4)["threads"] == "4"
