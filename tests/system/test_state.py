"""A student with a state goes to every target: built, judged over a sequence that carries it, and run over another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepack.calibration.readers import Samples
from edgepack.pack.files import load_pack
from tests.system import stateful_student
from tests.system.program import edgepack

# As fp32 anywhere is (tests/system/test_other_students.py); the state feeds a step's rounding back, at most once a step.
FP32_DB = 110.0


@pytest.mark.slow
def test_a_state_is_carried_over_the_golden_steps_and_over_a_sequence_of_the_user(tmp_path: Path) -> None:
    student, pack = f"{stateful_student.__file__}:student", tmp_path / "pack"
    built = edgepack("build", student, "-o", pack, "--latency", "none", cwd=tmp_path)
    assert built.returncode == 0, built.stderr + built.stdout
    manifest = load_pack(pack)
    assert manifest.student.state == {"past": "next"}
    assert {artifact.target for artifact in manifest.artifacts} == {"raspberry-pi-5", "android", "ios"}
    for artifact in manifest.artifacts:
        assert artifact.failures == () and len(artifact.state) == 1
        assert all(output.sqnr_db is None or output.sqnr_db > FP32_DB for output in artifact.parity.outputs)
    past_states = Samples.open(pack / manifest.golden_inputs.path).arrays["past"]
    assert not past_states[0].any() and past_states[1].any()

    steps = np.random.default_rng(3).normal(size=(5, 1, 3)).astype(np.float32)
    np.savez(tmp_path / "steps.npz", x=steps)
    ran = edgepack("run", pack, tmp_path / "steps.npz", "--no-time", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    module, past = stateful_student.Counter().eval(), torch.zeros(1, 8)
    with torch.no_grad():
        for step in steps:
            score, past = module(torch.from_numpy(step), past)
    answers = json.loads(ran.stdout)["answers"]
    assert len(answers) == len(manifest.artifacts)
    for answer in answers:
        np.testing.assert_allclose(answer["outputs"]["score"], score.numpy(), atol=1e-6)


@pytest.mark.slow
def test_a_state_that_core_ml_keeps_is_built_judged_and_run_like_one_that_is_passed(tmp_path: Path) -> None:
    student, pack = f"{stateful_student.__file__}:student", tmp_path / "pack"
    built = edgepack("build", student, "-t", "ios", "-t", "ios18", "-s", "fp16", "-o", pack, "--latency", "none", cwd=tmp_path)
    assert built.returncode == 0, built.stderr + built.stdout
    passed, kept = load_pack(pack).artifacts
    assert (passed.kept, kept.kept, kept.state) == ((), ("past",), {"past": "next"})
    assert passed.failures == kept.failures == () and passed.parity.outputs == kept.parity.outputs

    np.savez(tmp_path / "steps.npz", x=np.random.default_rng(3).normal(size=(5, 1, 3)).astype(np.float32))
    ran = edgepack("run", pack, tmp_path / "steps.npz", "--no-time", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    first, second = (answer["outputs"] for answer in json.loads(ran.stdout)["answers"])
    assert first == second and set(first) == {"score", "next"}
