"""Budgets as tests: ``pytest --edgepack-pack pack/`` collects one item a check, and ``edgepack_gate`` is for tests of one's own.

pytest loads this at every start of a project that has edgepack installed: what it needs is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgepack.latency.gate import Check, Checks

_ROOT = "edgepack"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and the same in the project's pytest configuration."""
    group = parser.getgroup("edgepack", "budgets of edgepack packs")
    group.addoption("--edgepack-pack", action="append", default=[], metavar="PATH", help="Collect the checks of a pack; repeat.")
    group.addoption("--edgepack-require-measured", action="store_true", help="A budget without a measurement fails.")
    parser.addini("edgepack_pack", "Packs whose checks are collected, relative to the root folder.", type="linelist", default=[])
    parser.addini("edgepack_require_measured", "A budget without a measurement fails.", type="bool", default=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Checks come before the choice by -k and -m, so that it holds for them too."""
    packs = _packs(config)
    for pack in packs:
        name = _ROOT if len(packs) == 1 else f"{_ROOT}[{pack}]"
        items += _collected(PackCollector.from_parent(session, name=name, nodeid=name, pack=pack), config)


def _collected(collector: PackCollector, config: pytest.Config) -> list[pytest.Item]:
    """Collected and reported as pytest does it with collectors of its own, so that items are counted and errors told."""
    report = config.hook.pytest_make_collect_report(collector=collector)
    # What the call was is no part of a report that pytest-xdist sends.
    vars(report).pop("call", None)
    config.hook.pytest_collectreport(report=report)
    return list(report.result)


@pytest.fixture(scope="session")
def edgepack_gate() -> Callable[..., Checks]:
    """``edgepack_gate("pack/", {"latency_p90_ms": 20})`` gives the checks of a pack; their ``.demand()`` raises at the first that fails."""

    def gate(pack: Path | str, budgets: Mapping[str, float] | None = None) -> Checks:
        from edgepack import api

        return api.gate(pack, budgets)

    return gate


class PackCollector(pytest.Collector):
    """The checks of one pack."""

    def __init__(self, *, pack: Path, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self._pack = pack

    def collect(self) -> Iterable[CheckItem]:
        """One item a check; CollectError when the pack cannot be read."""
        from edgepack import api
        from edgepack.errors import EdgepackError

        try:
            found = api.gate(self._pack)
        except EdgepackError as error:
            raise self.CollectError(str(error)) from error
        names = (f"{check.subject}::{check.name}" for check in found)
        return [CheckItem.from_parent(self, name=name, check=check) for name, check in zip(names, found, strict=True)]


class CheckItem(pytest.Item):
    """One check: it passes, fails with its words, or is skipped with the reason."""

    def __init__(self, *, check: Check, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self._check = check

    def runtest(self) -> None:
        """The outcome of the check."""
        check = self._check
        words = f"{check.status}: {check.words}"
        if check.fails(_requires_measured(self.config)):
            pytest.fail(words, pytrace=False)
        if check.status != "pass":
            pytest.skip(words)

    def reportinfo(self) -> tuple[Path, None, str]:
        """As pytest lists it."""
        return self.path, None, self.nodeid


def _packs(config: pytest.Config) -> list[Path]:
    """From the command line, relative to where pytest was started, and from the configuration, relative to the root folder."""
    given = [config.invocation_params.dir / path for path in config.getoption("--edgepack-pack")]
    return list(dict.fromkeys([*given, *(config.rootpath / path for path in config.getini("edgepack_pack"))]))


def _requires_measured(config: pytest.Config) -> bool:
    return bool(config.getoption("--edgepack-require-measured") or config.getini("edgepack_require_measured"))
