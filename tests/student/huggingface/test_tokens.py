"""Texts become what the tokenizer's own padding and cutting make of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgepack.student.huggingface.tokens import Tokens
from edgepack.student.spec import StudentError
from tests.student.huggingface.folders import WORDS, rewritten, saved, transformers, with_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(saved("bert", tmp_path_factory.mktemp("net")))


def test_a_short_text_is_padded_and_masked(folder: Path) -> None:
    found = Tokens(folder, 8)("The cat sat")
    ids = [WORDS.index(word) for word in ("[CLS]", "the", "cat", "sat", "[SEP]", "[PAD]", "[PAD]", "[PAD]")]
    assert found["input_ids"].tolist() == [ids]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert all(array.dtype == np.int64 and array.shape == (1, 8) for array in found.values())


def test_a_long_text_is_cut_at_its_end_and_keeps_its_last_separator(folder: Path) -> None:
    found = Tokens(folder, 5)("the cat sat on the mat")
    assert [WORDS[index] for index in found["input_ids"][0]] == ["[CLS]", "the", "cat", "sat", "[SEP]"]


def test_the_length_is_the_folders_where_none_is_given(folder: Path, tmp_path: Path) -> None:
    assert Tokens(folder).length == 64
    (folder / "edgepack.toml").write_text("sequence_length = 20\n")
    try:
        assert Tokens(folder).length == 20
    finally:
        (folder / "edgepack.toml").unlink()


def test_text_is_lowered_where_sentence_transformers_lowers_it(folder: Path) -> None:
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    as_written = Tokens(folder, 4)("THE")["input_ids"][0, 1]
    rewritten(folder, "sentence_bert_config.json", do_lower_case=True)
    lowered = Tokens(folder, 4)("THE")["input_ids"][0, 1]
    assert (WORDS[as_written], WORDS[lowered]) == ("[UNK]", "the")


def test_a_tokenizer_without_padding_pads_with_what_the_model_takes_for_it(folder: Path, tmp_path: Path) -> None:
    place = rewritten(shutil.copytree(folder, tmp_path / "net"), "config.json", pad_token_id=WORDS.index("dog"))
    (place / "special_tokens_map.json").unlink()
    rewritten(place, "tokenizer_config.json", pad_token=None, added_tokens_decoder={})
    assert WORDS[Tokens(place, 4)("cat")["input_ids"][0, -1]] == "dog"
    rewritten(place, "config.json", pad_token_id=None)
    with pytest.raises(StudentError, match="has no token to pad with"):
        Tokens(place, 4)


@pytest.mark.parametrize("length", ["many", -7, True])
def test_a_length_that_is_none_is_refused(folder: Path, tmp_path: Path, length: object) -> None:
    place = rewritten(shutil.copytree(folder, tmp_path / "net"), "sentence_bert_config.json", max_seq_length=length)
    with pytest.raises(StudentError, match="not a whole number"):
        Tokens(place)


def test_a_folder_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="holds no tokenizer"):
        Tokens(saved("bert", tmp_path / "net"))
