"""The Android template: what core computes is what edgepack computes, everything compiles, and its report is taken by edgepack serve."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgepack.pack.files import load_pack
from tests.system.program import ROOT

HERE = ROOT / "demo_app" / "android"
RESOURCES = HERE / "core/src/test/resources"
ANDROID = "{http://schemas.android.com/apk/res/android}"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"android_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def close(found: Any, committed: Any) -> bool:
    """Equal; numbers within what another order of float64 sums or another library's exponential changes."""
    if isinstance(committed, dict):
        return found.keys() == committed.keys() and all(close(found[key], committed[key]) for key in committed)
    if isinstance(committed, list):
        return len(found) == len(committed) and all(map(close, found, committed))
    return bool(found == pytest.approx(committed, rel=1e-12, abs=1e-15)) if isinstance(committed, float) else bool(found == committed)


def test_what_kotlin_is_compared_with_is_what_edgepack_says_today() -> None:
    found = json.loads(json.dumps(loaded("fixtures").expected(RESOURCES)))
    committed = json.loads((RESOURCES / "expected.json").read_text())
    # Pillow may begin with rows or with columns: what it fits is held to a level of rows first by core's own test.
    for image in (*found["images"], *committed["images"]):
        del image["fitted"]
    assert found.keys() == committed.keys()
    for name, held in committed.items():
        assert close(found[name], held), name


def test_every_kotlin_file_parses() -> None:
    grammar = pytest.importorskip("tree_sitter_kotlin", reason="tree-sitter-kotlin is not installed")
    tree_sitter = pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    files = sorted([*HERE.rglob("*.kt"), *HERE.rglob("*.kts")])
    assert len(files) > 20
    assert [path.name for path in files if parser.parse(path.read_bytes()).root_node.has_error] == []


def test_nothing_leaves_the_phone_unencrypted() -> None:
    config = ElementTree.parse(HERE / "app/src/main/res/xml/network.xml").getroot()
    plain = config.findall("domain-config[@cleartextTrafficPermitted='true']/domain")
    assert config.find("base-config[@cleartextTrafficPermitted='false']") is not None
    assert sorted(domain.text or "" for domain in plain) == ["127.0.0.1", "localhost"]
    manifest = ElementTree.parse(HERE / "app/src/main/AndroidManifest.xml").getroot()
    application = manifest.find("application")
    assert application is not None and application.get(f"{ANDROID}networkSecurityConfig") == "@xml/network"
    assert {each.get(f"{ANDROID}name", "").rpartition(".")[2] for each in manifest.findall("uses-permission")} == {"CAMERA", "INTERNET"}


def test_the_activity_of_the_manifest_and_the_packages_of_the_build_exist() -> None:
    build = (HERE / "app/build.gradle.kts").read_text()
    namespace = re.search(r'namespace = "([\w.]+)"', build)
    assert namespace is not None
    activity = ElementTree.parse(HERE / "app/src/main/AndroidManifest.xml").getroot().find("application/activity")
    assert activity is not None
    path = f"{namespace[1].replace('.', '/')}/{activity.get(f'{ANDROID}name', '').removeprefix('.')}.kt"
    assert (HERE / "app/src/main/kotlin" / path).is_file()
    assert "minSdk = 26" in build and "useLegacyPackaging = false" in build


@dataclass(frozen=True)
class Built:
    """core and its tests as classes, and what compiled them."""

    check: ModuleType
    tools: Any
    out: Path

    def visit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What ServedVisit.kt prints."""
        try:
            return subprocess.CompletedProcess(
                (), 0, self.check.run_java(self.tools, self.out, ["dev.edgepack.core.ServedVisitKt", *arguments]), ""
            )
        except subprocess.CalledProcessError as error:
            return subprocess.CompletedProcess((), error.returncode, error.stdout, error.stderr)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    check, out = loaded("check"), tmp_path_factory.mktemp("android")
    try:
        tools = check.toolchain(check.default_cache())
    except check.UnavailableError as error:
        pytest.skip(f"the template cannot be compiled here: {error}")
    check.compile_core(tools, out)
    return Built(check, tools, out)


@pytest.mark.slow
def test_core_passes_its_unit_tests_on_the_jvm(built: Built) -> None:
    assert re.search(r"OK \(\d{2,} tests\)", built.check.run_core_tests(built.tools, built.out))


@pytest.mark.slow
def test_the_app_compiles_and_a_method_that_no_runtime_has_does_not(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/core").symlink_to(built.out / "core")
    built.check.compile_app(built.tools, tmp_path / "out")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    text = (HERE / "app/src/main/kotlin/dev/edgepack/app/OrtRuntime.kt").read_text()
    (wrong / "OrtRuntime.kt").write_text(text.replace("setIntraOpNumThreads", "setThreads"))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        built.tools.compile([wrong], [built.out / "core", built.tools.onnxruntime], tmp_path / "never")
    assert "setThreads" in caught.value.stderr


def schemes(pack: Path) -> list[str]:
    return [f"{each.scheme}={each.file.sha256}" for each in load_pack(pack).artifacts if each.target == "android"]


@pytest.mark.slow
def test_a_visit_over_https_lands_in_the_pack_and_is_judged_there(built: Built, digits_pack: Path, tmp_path: Path) -> None:
    import shutil

    from edgepack.serve.serving import Place, serving

    pack = Path(shutil.copytree(digits_pack, tmp_path / "pack"))
    with serving(pack, Place(tls=True), profile="smoke") as held:
        ended = built.visit(held.address, held.fingerprint, *schemes(pack))
        again = built.visit(held.address, held.fingerprint, *schemes(pack))
    assert ended.returncode == 0, ended.stderr
    kept = re.search(r"kept (\d+)", ended.stdout)
    assert kept is not None and int(kept[1]) == len(schemes(pack))
    assert "answers as the student does" in ended.stdout and "p50" in ended.stdout
    measured = [json.loads(path.read_text()) for path in (pack / "measurements").glob("android-*.json")]
    assert sorted(each["scheme"] for each in measured) == sorted(each.partition("=")[0] for each in schemes(pack))
    # A phone that calls itself an emulator is none.
    assert {each["truth"] for each in measured} == {"emulated"}
    assert {each["device"]["board"] for each in measured} == {"Test Phone (emulated)"}
    assert again.returncode != 0 and "used up" in again.stderr


@pytest.mark.slow
def test_wrong_answers_are_told_and_never_timed(built: Built, digits_pack: Path) -> None:
    from edgepack.serve.serving import Place, serving

    with serving(digits_pack, Place(tls=False), profile="smoke", save=False) as held:
        ended = built.visit(held.address, "", *schemes(digits_pack), "wrong")
    assert ended.returncode == 0, ended.stderr
    assert "below its floor" in ended.stdout and "times" not in ended.stdout


@pytest.mark.slow
def test_a_server_with_another_certificate_is_refused(built: Built, digits_pack: Path) -> None:
    from edgepack.serve.serving import Place, serving

    other = ":".join(["AB"] * 32)
    with serving(digits_pack, Place(tls=True), profile="smoke", save=False) as held:
        ended = built.visit(held.address, other)
        unnamed = built.visit(held.address, "")
    assert ended.returncode != 0 and "another fingerprint" in ended.stderr
    assert unnamed.returncode != 0 and "64 hexadecimal digits" in unnamed.stderr


@pytest.mark.slow
def test_plain_http_is_for_this_phone_alone(built: Built) -> None:
    ended = built.visit("http://192.0.2.7:8000/open/token", "")
    assert ended.returncode != 0 and "only https leaves this phone" in ended.stderr


def test_recorded_answers_are_of_the_committed_pack() -> None:
    with np.load(RESOURCES / "answers.npz") as answers:
        assert set(answers.files) == {each.scheme for each in load_pack(RESOURCES / "pack").artifacts}
