"""EfficientNet-Lite0 as the README builds it: every gate holds on real photographs, for all three targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Pack
from tests.system.program import ROOT, edgepack

pytestmark = pytest.mark.slow
TARGETS = ("raspberry-pi-5", "android", "ios")


def command() -> list[str]:
    """The README's own words, without the pack's folder."""
    (line,) = re.findall(r"^    edgepack (build demo_app/students/efficientnet_lite0.*?) -o \S+$", (ROOT / "README.md").read_text(), re.M)
    return str(line).split()


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("efficientnet") / "pack"
    ended = edgepack(*command(), "-o", folder, "--latency", "none", cwd=ROOT, seconds=1500)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return load_pack(folder)


def test_every_artifact_of_every_target_holds_its_gates(pack: Pack) -> None:
    assert {(artifact.target, artifact.scheme) for artifact in pack.artifacts} == {(t, s) for t in TARGETS for s in ("fp32", "w8a8")}
    assert [artifact.failures for artifact in pack.artifacts] == [()] * 6


def test_int8_names_what_the_student_names_where_it_is_sure(pack: Pack) -> None:
    for artifact in pack.artifacts:
        accuracy = artifact.accuracy
        assert accuracy is not None and accuracy.metric == "agreement"
        assert 130 < accuracy.samples < 150
        assert accuracy.value.value >= (1.0 if artifact.scheme == "fp32" else 0.98), artifact.target
        assert accuracy.agreement >= (1.0 if artifact.scheme == "fp32" else 0.9), artifact.target


def test_int8_files_are_at_most_three_tenths_of_fp32(pack: Pack) -> None:
    sizes = {(artifact.target, artifact.scheme): artifact.file.bytes for artifact in pack.artifacts}
    assert all(sizes[target, "w8a8"] <= 0.30 * sizes[target, "fp32"] for target in TARGETS)


def test_tflite_runs_in_one_delegate_partition(pack: Pack) -> None:
    assert all("partitions: 1" in artifact.notes for artifact in pack.artifacts if artifact.platform == "android")


def test_the_report_says_what_the_figures_are(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = Path(tmp_path_factory.getbasetemp()).glob("efficientnet*/pack/report.html")
    assert "Agreement where the student is sure" in next(page).read_text()
