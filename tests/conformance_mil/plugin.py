"""The pytest plugin of a child process: Apple's compare function runs our interpreter, and every case leaves an outcome.

Settings come in the environment (``EDGEPACK_APPLE_OUTCOMES``, ``EDGEPACK_APPLE_SAMPLE``): pytest parses no options of late plugins.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import coremltools.converters.mil.mil.ops.tests.testing_utils as builder_utils
import coremltools.converters.mil.testing_utils as backend_utils
import numpy as np
import pytest
from coremltools.models import MLModel

from edgepack.mil.errors import KernelError, MilError

from .compare import PREDICTED, Comparison, compare, interpret, judge_failure, operators_of
from .outcomes import Kind, Outcome, append

logging.getLogger("coremltools").setLevel(logging.ERROR)

OUTCOMES = "EDGEPACK_APPLE_OUTCOMES"
SAMPLE = "EDGEPACK_APPLE_SAMPLE"
_COMPARISONS: list[Comparison] = []
# The worst comparison of a case decides it.
_ORDER: tuple[Kind, ...] = ("wrong", "refused", "pass", "no_values")


def _compare_backend(
    mlmodel: Any,
    input_key_values: dict[str, Any],
    expected_outputs: dict[str, Any] | None,
    dtype: str = "fp32",
    atol: float = 1e-4,
    rtol: float = 1e-5,
    also_compare_shapes: bool = True,
    state: Any = None,
    allow_mismatch_ratio: float = 0.0,
) -> None:
    """In place of coremltools' ``compare_backend``; like it, gives None where Core ML is absent.

    It records instead of raising, so that a test which compares twice is judged on both.
    """
    _COMPARISONS.append(compare(mlmodel, input_key_values, expected_outputs, atol, rtol, state))


def _predict(self: MLModel, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
    """In place of Core ML's prediction, whose values the test then compares itself."""
    try:
        found = interpret(self, data, state)
    except Exception as error:
        kind: Kind = "refused" if isinstance(error, MilError) and not isinstance(error, KernelError) else "wrong"
        _COMPARISONS.append(Comparison(kind, str(error), operators_of(self)))
        raise RuntimeError(str(error)) from error
    _COMPARISONS.append(Comparison("pass", PREDICTED, operators_of(self)))
    return found


backend_utils.compare_backend = _compare_backend
builder_utils.compare_backend = _compare_backend
MLModel.predict = _predict
MLModel.make_state = lambda self: {}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a sample of what ``-k`` leaves of each file, the same in every run."""
    kept = set(sample([item.nodeid for item in items], int(os.environ.get(SAMPLE, "0"))))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]


def sample(names: Sequence[str], limit: int) -> list[str]:
    """At most ``limit`` of the cases (all when 0): every test function in turn gives one, in the order of their hashes."""
    if not limit or len(names) <= limit:
        return list(names)
    functions: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=_hash):
        functions[name.partition("[")[0]].append(name)
    turns = [(turn, _hash(name), name) for members in functions.values() for turn, name in enumerate(members)]
    return [name for _, _, name in sorted(turns)[:limit]]


def _hash(name: str) -> str:
    """Of a case's name without memory addresses."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", name).encode()).hexdigest()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Random inputs depend on the case alone, not on what ran before it."""
    _COMPARISONS.clear()
    seed = zlib.crc32(re.sub(r"0x[0-9a-f]+", "", item.nodeid).encode())
    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Write the outcome after the call, or after a set-up that did not get there."""
    report = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        append(Path(os.environ[OUTCOMES]), _outcome(item, report, _COMPARISONS))
    return report


def _outcome(item: pytest.Item, report: pytest.TestReport, comparisons: Iterable[Comparison]) -> Outcome:
    file, case = "/".join(item.path.parts[-2:]), item.nodeid.partition("::")[2].replace("\n", " ")
    held = sorted(comparisons, key=lambda comparison: _ORDER.index(comparison.kind))
    operators = tuple(sorted({name for comparison in held for name in comparison.operators}))
    if report.skipped or hasattr(report, "wasxfail"):
        return Outcome(file, case, "skipped", _skip_reason(report), operators)
    if report.failed and (not held or held[0].kind != "wrong"):
        kind, reason = judge_failure(_crash(report), held)
        return Outcome(file, case, kind, reason, operators)
    if not held:
        return Outcome(file, case, "no_values", "the test compares nothing without Core ML")
    return Outcome(file, case, held[0].kind, held[0].reason, operators)


def _skip_reason(report: pytest.TestReport) -> str:
    marked = getattr(report, "wasxfail", None)
    if marked is not None:
        return f"expected failure: {marked}".strip()
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")


def _crash(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).splitlines()[0][:200]
