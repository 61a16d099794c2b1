"""The JavaScript runtimes: pinned, installed once, and nothing else is taken for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgepack.data import data_folder
from edgepack.errors import DeviceError
from edgepack.serve import runtimes
from edgepack.serve.runtimes import Pin, Runtimes, RuntimesError, installed, versions

WEB = data_folder("demo_app") / "web"
_LITERT = "@litertjs/core/dist/index.js"
_IMPORT = b'import { createWasmLib } from "@litertjs/wasm-utils";'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small demo_app/web with one pinned file, an empty cache, and nothing on PATH."""
    folder = tmp_path / "demo_app" / "web"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"dependencies": {"onnxruntime-web": "1.30.0", "@litertjs/core": "2.5.3"}}))
    (folder / "package-lock.json").write_text("{}")
    (folder / "runtimes.json").write_text(json.dumps({_LITERT: {"bytes": len(_IMPORT), "sha256": hashlib.sha256(_IMPORT).hexdigest()}}))
    monkeypatch.setattr(runtimes, "data_folder", lambda name: tmp_path / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return folder


def npm(folder: Path, content: bytes, code: int = 0) -> None:
    """An npm that installs one file, and one that nobody needs; it notes how it was called."""
    place = folder.parents[1] / "bin" / "npm"
    place.parent.mkdir(exist_ok=True)
    (place.parent / "content").write_bytes(content)
    place.write_text(
        '#!/bin/sh\nPATH=/usr/bin:/bin\nhere=$(dirname $0)\necho "$@" >> $here/calls\nmkdir -p node_modules/@litertjs/core/dist\n'
        f"cp $here/content node_modules/{_LITERT}\ntouch node_modules/unneeded\necho npm says no >&2\nexit {code}\n"
    )
    place.chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder.parents[1] / "bin" / "calls").read_text().splitlines()


def test_npm_runs_once_without_scripts_and_only_what_is_needed_is_kept(source: Path) -> None:
    npm(source, _IMPORT)
    for _ in range(2):
        assert installed().read(_LITERT).startswith(b"import")
    assert len(calls(source)) == 1 and {"ci", "--ignore-scripts"} <= set(calls(source)[0].split())
    kept = [path for path in (source.parents[1] / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["index.js"]


def test_once_installed_npm_is_not_needed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(source, _IMPORT)
    installed()
    monkeypatch.setenv("PATH", "")
    assert installed().read(_LITERT)


def test_versions_are_those_of_package_json(source: Path) -> None:
    assert versions() == {"ort": "1.30.0", "litert": "2.5.3"}


def test_the_bare_import_leads_to_the_file_that_is_served(source: Path) -> None:
    npm(source, _IMPORT)
    assert b'from "/runtimes/@litertjs/wasm-utils/dist/index.js"' in installed().read(_LITERT)


def test_what_npm_brings_is_refused_when_it_is_not_what_is_pinned(source: Path) -> None:
    npm(source, _IMPORT.replace(b"create", b"stolen"))
    with pytest.raises(RuntimesError, match="is not the file that is pinned"):
        installed()
    assert not list((source.parents[1] / "cache").rglob("index.js"))


def test_a_file_that_was_changed_in_the_cache_is_not_given_out(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_bytes(b"two")
    held = Runtimes(tmp_path, {"a.js": Pin(3, hashlib.sha256(b"one").hexdigest())})
    with pytest.raises(RuntimesError, match="is not the file that is pinned"):
        held.read("a.js")


def test_without_npm_one_line_says_so(source: Path) -> None:
    with pytest.raises(RuntimesError, match="npm is not installed"):
        installed()


def test_an_npm_that_fails_is_quoted_and_leaves_nothing(source: Path) -> None:
    npm(source, _IMPORT, code=1)
    with pytest.raises(DeviceError, match="npm says no"):
        installed()
    assert not list((source.parents[1] / "cache").rglob("*.js"))


def test_the_lock_holds_a_digest_of_each_package_and_no_address() -> None:
    text = (WEB / "package-lock.json").read_text()
    packages = {name: held for name, held in json.loads(text)["packages"].items() if name}
    assert packages and all(held["integrity"].startswith("sha512-") for held in packages.values())
    assert "resolved" not in text and "://" not in text
    wanted = json.loads((WEB / "package.json").read_text())["dependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted


def test_every_pinned_file_is_of_a_locked_package() -> None:
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    for name in json.loads((WEB / "runtimes.json").read_text()):
        assert any(f"node_modules/{name}".startswith(f"{package}/") for package in packages if package)
