"""Students of other shapes, none of them in the repository's demo, go through the same command to all three targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Pack
from tests.system.other_students import Shape, audio_with_metadata, dense_upscaler, gated_segmenter, mobile_classifier, with_calibration
from tests.system.program import edgepack

TARGETS = {"raspberry-pi-5", "android", "ios"}
# fp32 anywhere is within 6 dB of ONNX Runtime's own fp32, which reaches 126 dB or more on networks this small.
FP32_DB = 115.0
# int8 of a network of this depth whose weights have a scale a channel; what lost a tensor to clipping or to a zeroed epsilon had 0 to 15.
W8A8_DB = 24.0


def _built(write: Callable[[Path], dict[str, Shape]], folder: Path, *options: str) -> Pack:
    """The pack of a student that must pass every gate."""
    student = folder / "student.onnx"
    manifest = with_calibration(student, write(student))
    ended = edgepack("build", student, "-c", manifest, "-o", folder / "pack", "--latency", "none", *options, cwd=folder)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return load_pack(folder / "pack")


def _assert_good(pack: Pack, schemes: set[str], outputs: list[str]) -> None:
    assert {(artifact.target, artifact.scheme) for artifact in pack.artifacts} == {(t, s) for t in TARGETS for s in schemes}
    for artifact in pack.artifacts:
        assert artifact.failures == ()
        assert [output.name for output in artifact.parity.outputs] == outputs
        for output in artifact.parity.outputs:
            bar = FP32_DB if artifact.scheme == "fp32" else W8A8_DB
            assert output.sqnr_db is None or output.sqnr_db > bar, (artifact.target, artifact.scheme, output.name)


def test_a_segmenter_with_a_gate_and_two_outputs_in_fp32_and_w8a8(tmp_path: Path) -> None:
    _assert_good(_built(gated_segmenter, tmp_path), {"fp32", "w8a8"}, ["mask", "kind"])


@pytest.mark.parametrize(
    ("write", "outputs"), [(mobile_classifier, ["out/1"]), (audio_with_metadata, ["score"]), (dense_upscaler, ["picture"])]
)
def test_w8a8_on_all_targets(write: Callable[[Path], dict[str, Shape]], outputs: list[str], tmp_path: Path) -> None:
    _assert_good(_built(write, tmp_path, "--scheme", "w8a8"), {"w8a8"}, outputs)
