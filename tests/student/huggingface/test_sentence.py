"""Pooling and normalization are what sentence-transformers computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepack.student.huggingface.load import from_huggingface
from edgepack.student.huggingface.tokens import Tokens
from edgepack.student.spec import StudentError
from tests.student.huggingface.folders import rewritten, saved, with_pooling, with_tokenizer

TEXTS = ("the cat sat on the mat.", "a dog ran", "mats")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "modes", [("mean_tokens",), ("cls_token",), ("max_tokens",), ("mean_sqrt_len_tokens",), ("cls_token", "mean_tokens")]
)
def test_a_sentences_vector_is_sentence_transformers(tmp_path: Path, modes: tuple[str, ...], normalize: bool) -> None:
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="pip install sentence-transformers, which this is compared with"
    )
    folder = with_pooling(with_tokenizer(saved("bert", tmp_path / "net")), *modes, normalize=normalize)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(list(TEXTS))
    program = from_huggingface(folder, sequence_length=24).program
    ours = np.concatenate([program.run(sample)["sentence_embedding"] for sample in Tokens(folder, 24).samples(TEXTS)])
    # They pad a batch to its longest text, we pad to the declared length: sums of other lengths round differently.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)


def test_the_newer_way_to_name_a_pooling_is_read(tmp_path: Path) -> None:
    folder = with_pooling(with_tokenizer(saved("bert", tmp_path / "net")), "mean_tokens")
    before = from_huggingface(folder).program
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean", "embedding_dimension": 32}')
    after = from_huggingface(folder).program
    feed = before.example()
    np.testing.assert_array_equal(before.run(feed)["sentence_embedding"], after.run(feed)["sentence_embedding"])


def test_another_pooling_or_module_is_refused_and_features_can_be_asked_for(tmp_path: Path) -> None:
    folder = with_pooling(with_tokenizer(saved("bert", tmp_path / "net")), "mean_tokens")
    rewritten(folder / "1_Pooling", "config.json", pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True)
    with pytest.raises(StudentError, match="pooling 'lasttoken' is not known"):
        from_huggingface(folder)
    (folder / "modules.json").write_text((folder / "modules.json").read_text().replace("Normalize", "Dense"))
    with pytest.raises(StudentError, match="lists Transformer, Pooling, Dense"):
        from_huggingface(folder)
    (folder / "modules.json").write_text(
        (folder / "modules.json").read_text().replace("sentence_transformers.models.Dense", "own.Normalize")
    )
    with pytest.raises(StudentError, match=r"lists Transformer, Pooling, own\.Normalize"):
        from_huggingface(folder)
    (found,) = from_huggingface(folder, task="feature-extraction").program.outputs
    assert found.name == "last_hidden_state"
