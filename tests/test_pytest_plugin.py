"""Budgets as tests: one item a check, named, with its words; and nothing at all for who asks for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgepack.pack.manifest import Pack
from edgepack.pack.measurements import record
from tests.latency.test_gate import measurement, pack

PLUGIN = ("-p", "edgepack.pytest_plugin", "-p", "no:cacheprovider")


def put(folder: Path, held: Pack) -> Path:
    folder.mkdir()
    (folder / "pack.json").write_bytes(msgspec.json.encode(held))
    return folder


def test_each_check_is_an_item_with_its_outcome(pytester: pytest.Pytester) -> None:
    record(put(pytester.path / "pack", pack(latency_p90_ms=12.0, size_bytes=200_000)), measurement())
    result = pytester.runpytest(*PLUGIN, "--edgepack-pack", "pack", "-v", "-rs")
    result.assert_outcomes(passed=12, failed=3, skipped=15)
    result.stdout.fnmatch_lines(
        [
            "*collected 30 items",
            "edgepack::android fp32::latency p90 SKIPPED*",
            "edgepack::raspberry-pi-5 fp32::latency p90 SKIPPED*",
            "edgepack::raspberry-pi-5 fp32::size FAILED*",
            "edgepack::raspberry-pi-5 w8a8::latency p90 PASSED*",
            "edgepack::raspberry-pi-5 w8a8::parity PASSED*",
            "*no budget: 389,200 bytes*",
        ]
    )
    # A failure is its words, without a traceback.
    result.stdout.fnmatch_lines(["fail: 388,000 bytes, 200,000 allowed"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_required_measurement_that_is_missing_fails(pytester: pytest.Pytester) -> None:
    put(pytester.path / "pack", pack(latency_p90_ms=12.0))
    chosen = ("-k", "latency and raspberry")
    pytester.runpytest(*PLUGIN, "--edgepack-pack", "pack", *chosen).assert_outcomes(skipped=2, deselected=28)
    result = pytester.runpytest(*PLUGIN, "--edgepack-pack", "pack", "--edgepack-require-measured", *chosen)
    result.assert_outcomes(failed=2, deselected=28)
    result.stdout.fnmatch_lines(["not measured: nothing was measured on a Raspberry Pi 5"])


def test_packs_come_from_the_configuration_and_checks_stand_beside_other_tests(pytester: pytest.Pytester) -> None:
    put(pytester.path / "one", pack())
    put(pytester.path / "two", pack())
    pytester.makeini("[pytest]\nedgepack_pack =\n    one\n    two\nedgepack_require_measured = true\n")
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest(*PLUGIN, "-v", "-k", "mine or android")
    result.stdout.fnmatch_lines(["*::test_mine PASSED*", "edgepack[[]*one[]]::android fp32::accuracy PASSED*", "edgepack[[]*two[]]::*"])
    result.assert_outcomes(passed=1 + 2 * 4, skipped=2 * 6, deselected=2 * 20)


def test_what_is_no_pack_ends_the_run_in_a_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest(*PLUGIN, "--edgepack-pack", "absent")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*absent is not a pack*next: give the folder that edgepack build wrote"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("place", ["pack", "absent"])
def test_workers_of_xdist_share_the_checks(place: str, pytester: pytest.Pytester) -> None:
    put(pytester.path / "pack", pack())
    result = pytester.runpytest_subprocess(*PLUGIN, "--edgepack-pack", place, "-n", "2")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    if place == "pack":
        result.assert_outcomes(passed=10, failed=2, skipped=18)
    else:
        result.stdout.fnmatch_lines(["*absent is not a pack*"])


def test_the_fixture_gives_the_checks_of_any_pack_with_budgets_of_the_tests_own(pytester: pytest.Pytester) -> None:
    put(pytester.path / "pack", pack())
    pytester.makepyfile(
        """
        import pytest
        from edgepack.errors import GateError

        def test_size(edgepack_gate):
            checks = edgepack_gate("pack", {"raspberry-pi-5:size_bytes": 200_000})
            found = {check.subject: check.status for check in checks if check.name == "size"}
            assert found["raspberry-pi-5 w8a8"] == "pass" and found["raspberry-pi-5 fp32"] == "fail"
            with pytest.raises(GateError, match="ios w8a8"):
                edgepack_gate("pack").demand()
        """
    )
    pytester.runpytest(*PLUGIN).assert_outcomes(passed=1)


def test_the_plugin_costs_nothing_when_it_is_not_used() -> None:
    code = "import sys, pytest; before = set(sys.modules); import edgepack.pytest_plugin; print(sorted(set(sys.modules) - before))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "['edgepack', 'edgepack.pytest_plugin']"


def test_the_entry_point_is_named_as_the_module_so_that_it_cannot_be_registered_twice() -> None:
    import tomllib

    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert declared["project"]["entry-points"]["pytest11"] == {"edgepack.pytest_plugin": "edgepack.pytest_plugin"}
