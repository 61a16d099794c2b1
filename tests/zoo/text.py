"""Encoders and decoders of text, from transformers' own classes with small random configurations."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo.architecture import Architecture, Called, Draw, ids, normal, ones, tail_hidden

_LENGTH, _WORDS, _WIDTH, _HEADS = 12, 99, 32, 4
_ENCODER: dict[str, Any] = {
    "vocab_size": _WORDS,
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": _HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
_DECODER: dict[str, Any] = {**_ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _inputs() -> dict[str, Draw]:
    return {"input_ids": ids(1, _LENGTH, below=_WORDS), "attention_mask": tail_hidden(1, _LENGTH)}


def _made(kind: str, model: str, wanted: tuple[str, ...], names: tuple[str, ...], config: dict[str, Any], **fixed: Any) -> nn.Module:
    held = getattr(transformers, kind)(**{"attn_implementation": "eager", **config})
    return Called(getattr(transformers, model)(held), names, wanted, **fixed)


def _encoder(name: str, kind: str, model: str, wanted: str = "last_hidden_state", **config: Any) -> Architecture:
    inputs = _inputs()
    return Architecture(name, lambda: _made(kind, model, (wanted,), tuple(inputs), {**_ENCODER, **config}), inputs)


def _decoder(name: str, kind: str, model: str, **config: Any) -> Architecture:
    inputs = _inputs()
    return Architecture(name, lambda: _made(kind, model, ("logits",), tuple(inputs), {**_DECODER, **config}, use_cache=False), inputs)


ENCODERS = [
    _encoder("BERT", "BertConfig", "BertModel"),
    _encoder("BERT classifier", "BertConfig", "BertForSequenceClassification", "logits"),
    _encoder("DistilBERT", "DistilBertConfig", "DistilBertModel", dim=_WIDTH, hidden_dim=48, n_layers=2, n_heads=_HEADS),
    _encoder("RoBERTa", "RobertaConfig", "RobertaModel"),
    _encoder("ALBERT", "AlbertConfig", "AlbertModel", embedding_size=16),
    _encoder("ELECTRA", "ElectraConfig", "ElectraModel", embedding_size=16),
    _encoder(
        "DeBERTa-v2",
        "DebertaV2Config",
        "DebertaV2Model",
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
    ),
    _encoder("MPNet", "MPNetConfig", "MPNetModel"),
    _encoder("MobileBERT", "MobileBertConfig", "MobileBertModel", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    _encoder("SqueezeBERT", "SqueezeBertConfig", "SqueezeBertModel", embedding_size=_WIDTH),
]

DECODERS = [
    _decoder("GPT-2", "GPT2Config", "GPT2LMHeadModel", n_embd=_WIDTH, n_layer=2, n_head=_HEADS, n_positions=32),
    _decoder("OPT", "OPTConfig", "OPTForCausalLM", ffn_dim=48, word_embed_proj_dim=_WIDTH),
    _decoder("Llama", "LlamaConfig", "LlamaForCausalLM"),
    _decoder("Qwen2", "Qwen2Config", "Qwen2ForCausalLM"),
    _decoder("Qwen3", "Qwen3Config", "Qwen3ForCausalLM", head_dim=8),
    _decoder("Gemma2", "Gemma2Config", "Gemma2ForCausalLM", head_dim=8, query_pre_attn_scalar=8, sliding_window=8),
    _decoder("Phi-3", "Phi3Config", "Phi3ForCausalLM"),
    _decoder("Mistral", "MistralConfig", "MistralForCausalLM", sliding_window=8, head_dim=8),
]

# Tokens that were seen before the step.
_PAST = 6


class _Step(nn.Module):
    """One token through a decoder that keeps keys and values: logits, and the cache with the token in it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache = transformers.DynamicCache.from_legacy_cache(tuple(zip(past[::2], past[1::2], strict=True)))
        answer = self.model(input_ids=token, past_key_values=cache, use_cache=True)
        held = answer.past_key_values.to_legacy_cache()
        return (answer.logits, *(tensor for layer in held for tensor in layer))


def _step(name: str, kind: str, model: str, heads: int, **config: Any) -> Architecture:
    def make() -> nn.Module:
        held = getattr(transformers, kind)(**{**_DECODER, "attn_implementation": "eager", **config})
        return _Step(getattr(transformers, model)(held))

    past = {f"past_{what}_{layer}": normal(1, heads, _PAST, _WIDTH // _HEADS) for layer in range(2) for what in ("key", "value")}
    return Architecture(name, make, {"token": ids(1, 1), **past})


STEPS = [
    _step("Llama step with cache", "LlamaConfig", "LlamaForCausalLM", 2),
    _step("Qwen3 step with cache", "Qwen3Config", "Qwen3ForCausalLM", 2, head_dim=8),
    _step("GPT-2 step with cache", "GPT2Config", "GPT2LMHeadModel", _HEADS, n_embd=_WIDTH, n_layer=2, n_head=_HEADS, n_positions=32),
]

_T5: dict[str, Any] = {
    "vocab_size": _WORDS, "d_model": _WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": _HEADS, "decoder_start_token_id": 0,
}  # fmt: skip
_STATES = {"encoder_hidden_states": normal(1, _LENGTH, _WIDTH), "encoder_attention_mask": tail_hidden(1, _LENGTH)}
_BART: dict[str, Any] = {
    "vocab_size": _WORDS, "d_model": _WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": _HEADS,
    "decoder_attention_heads": _HEADS, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32,
}  # fmt: skip


def _t5_decoder() -> nn.Module:
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5, attn_implementation="eager"))
    names = ("input_ids", "encoder_hidden_states", "encoder_attention_mask")
    return Called(model.decoder, names, ("last_hidden_state",), use_cache=False)


def _bart() -> nn.Module:
    model = transformers.BartModel(transformers.BartConfig(**_BART, attn_implementation="eager"))
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    return Called(model, names, ("last_hidden_state",), use_cache=False)


ENCODER_DECODERS = [
    Architecture("T5 encoder", lambda: _made("T5Config", "T5EncoderModel", ("last_hidden_state",), tuple(_inputs()), _T5), _inputs()),
    Architecture("T5 decoder step", _t5_decoder, {"input_ids": ids(1, 4), **_STATES}),
    Architecture("BART", _bart, {**_inputs(), "decoder_input_ids": ids(1, 6), "decoder_attention_mask": ones(1, 6)}),
]

ARCHITECTURES = [*ENCODERS, *DECODERS, *STEPS, *ENCODER_DECODERS]
