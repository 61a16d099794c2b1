"""The iPhone app: every Swift file parses, and where a Swift can be had, the logic that needs no device is built and tested."""

from __future__ import annotations

import plistlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

IOS = Path(__file__).resolve().parents[2] / "demo_app" / "ios"
SOURCES = sorted(path.relative_to(IOS) for path in IOS.rglob("*.swift") if ".build" not in path.parts)


@pytest.fixture(scope="module")
def parser() -> Any:
    tree_sitter = pytest.importorskip("tree_sitter", reason="tree-sitter parses Swift: pip install tree-sitter tree-sitter-swift")
    swift = pytest.importorskip("tree_sitter_swift", reason="tree-sitter-swift is not installed")
    return tree_sitter.Parser(tree_sitter.Language(swift.language()))


def faults(node: Any) -> list[str]:
    """Lines where the grammar finds no way on, or something missing."""
    found = [f"line {node.start_point[0] + 1}: {node.type}"] if node.is_missing or node.type == "ERROR" else []
    return found + [each for child in node.children if child.has_error or child.is_missing for each in faults(child)]


def test_there_are_an_app_a_package_and_its_tests() -> None:
    assert {path.parts[0] for path in SOURCES} == {"EdgepackApp", "EdgepackKit"} and len(SOURCES) >= 12


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_swift_file_parses(parser: Any, source: Path) -> None:
    assert faults(parser.parse((IOS / source).read_bytes()).root_node) == []


def test_the_parser_notices_what_is_no_swift(parser: Any) -> None:
    assert faults(parser.parse(b"func broken( { let x = }").root_node)


def test_the_property_list_is_one() -> None:
    held = plistlib.loads((IOS / "EdgepackApp" / "Info.plist").read_bytes())
    assert held["NSAppTransportSecurity"] == {"NSAllowsLocalNetworking": True}


@pytest.mark.slow
def test_the_swift_package_builds_and_passes_its_tests() -> None:
    ended = subprocess.run([str(IOS / "check.sh")], capture_output=True, text=True, timeout=1800, check=False)
    if ended.returncode == 77:
        pytest.skip(ended.stderr.strip())
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    passed = re.search(r"Executed (\d+) tests, with 0 failures", ended.stdout)
    assert passed and int(passed[1]) >= 16
