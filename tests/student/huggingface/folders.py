"""Small Hugging Face model folders with drawn weights, saved by transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Whoever imports these folders is skipped with them.
transformers: Any = pytest.importorskip("transformers", reason="pip install 'edgepack[huggingface]'")

# Small enough to capture in a second or two; 64 positions hold fewer tokens than the usual length of 128.
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_TEXT = {"vocab_size": 60, "max_position_embeddings": 64}


def _bert_classifier() -> Any:
    config = transformers.BertConfig(**_TEXT, **_SIZES, id2label={0: "calm", 1: "glad", 2: "sad"})
    return transformers.BertForSequenceClassification(config)


def _gpt2_classifier() -> Any:
    sizes = {"vocab_size": 60, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, num_labels=3, pad_token_id=0))


def _bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**_TEXT, **_SIZES), add_pooling_layer=False)


def _distilbert_answers() -> Any:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
    return transformers.DistilBertForQuestionAnswering(transformers.DistilBertConfig(**_TEXT, **sizes))


def _roberta_tokens() -> Any:
    return transformers.RobertaForTokenClassification(transformers.RobertaConfig(**{**_TEXT, **_SIZES}, num_labels=5))


def _vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, num_labels=4, **_SIZES))


def _resnet() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=4))


def _gpt2() -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60, n_positions=64, n_embd=32, n_layer=2, n_head=2))


def _llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_TEXT, **_SIZES, num_key_value_heads=1))


MODELS: dict[str, Callable[[], Any]] = {
    "bert": _bert,
    "bert-classifier": _bert_classifier,
    "distilbert-answers": _distilbert_answers,
    "roberta-tokens": _roberta_tokens,
    "vit": _vit,
    "resnet": _resnet,
    "gpt2": _gpt2,
    "llama": _llama,
}


# Not among those whose exporters are compared (benchmarks/huggingface_exporters.py).
_OTHERS = {"gpt2-classifier": _gpt2_classifier}


def saved(name: str, folder: Path) -> Path:
    """The folder, with the model of that name in it; the same weights each time."""
    torch.manual_seed(0)
    {**MODELS, **_OTHERS}[name]().eval().save_pretrained(folder)
    return folder


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "on", "the", "mat", "dog", "ran", ".", "##s")


def with_tokenizer(folder: Path) -> Path:
    """The folder, with BERT's tokenizer of a dozen words beside the model."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def with_pooling(folder: Path, *modes: str, normalize: bool = True) -> Path:
    """The folder, with sentence-transformers' list of modules beside the model."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"} for at, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    switches = {f"pooling_mode_{mode}": mode in modes for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **switches}))
    return folder


def rewritten(folder: Path, name: str, **changes: Any) -> Path:
    """The folder, with changes in a JSON file of it (made where there is none)."""
    path = folder / name
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**held, **changes}))
    return folder
