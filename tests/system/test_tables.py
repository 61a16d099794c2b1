"""Text students under w8 through the judge on three targets: tables in codes, tied ones once, as large as was told beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgepack.pack.files import load_pack
from tests.system.program import edgepack

pytestmark = pytest.mark.slow
SIZES: dict[str, Any] = {"vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def _bert() -> Any:
    import transformers

    return transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=128), add_pooling_layer=False)


def _llama() -> Any:
    import transformers

    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, max_position_embeddings=128, tie_word_embeddings=True))


@pytest.mark.parametrize("model", [_bert, _llama])
def test_a_text_student_is_a_quarter_of_itself_on_every_target_and_holds_its_gates(model: Any, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    model().eval().save_pretrained(tmp_path / "net")
    targets = [word for name in ("android", "ios", "raspberry-pi-5") for word in ("-t", name)]
    told = edgepack("inspect", "net", *targets, "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    built = edgepack("build", "net", *targets, "-s", "w8", "--latency", "none", "-o", "pack", "--store", "store", cwd=tmp_path, seconds=900)
    assert built.returncode == 0, built.stderr + built.stdout
    artifacts = load_pack(tmp_path / "pack").artifacts
    assert len(artifacts) == 3
    for artifact in artifacts:
        expected = json.loads(told.stdout)["targets"][artifact.target]["weight_bytes"]
        # A row of 64 numbers takes 64 bytes and 5 of scale and zero point in place of 256: 0.27. Angles and masks stay real, 0.03 of it.
        assert artifact.failures == () and expected["w8"] < 0.31 * expected["fp32"]
        # What a graph and its names take beside the constants; TFLite's zero points are 8 bytes each, its layer has scales of its own.
        rest = 60_000 + 12 * SIZES["vocab_size"]
        assert 0.85 * expected["w8"] < artifact.file.bytes < expected["w8"] + rest, artifact.target
