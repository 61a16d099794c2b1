"""Networks that read sound, from transformers' own classes with small random configurations."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo.architecture import Architecture, Called, ids, normal

_WAV2VEC2: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_WHISPER: dict[str, Any] = {
    "vocab_size": 99, "num_mel_bins": 20, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_source_positions": 30, "max_target_positions": 20,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def _whisper() -> Any:
    return transformers.WhisperModel(transformers.WhisperConfig(**_WHISPER, attn_implementation="eager"))


class _WhisperDecoder(nn.Module):
    """The decoder alone, reading what an encoder gave."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = _whisper().decoder

    def forward(self, input_ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1])[None]
        answer: torch.Tensor = self.decoder(
            input_ids, encoder_hidden_states=states, position_ids=positions, use_cache=False
        ).last_hidden_state
        return answer


def _wave(name: str, kind: str, model: str, wanted: str, **config: Any) -> Architecture:
    def make() -> nn.Module:
        held = getattr(transformers, kind)(**_WAV2VEC2, **config, attn_implementation="eager")
        return Called(getattr(transformers, model)(held), ("input_values",), (wanted,))

    return Architecture(name, make, {"input_values": normal(1, 800)})


ARCHITECTURES = [
    Architecture(
        "Whisper encoder",
        lambda: Called(_whisper().encoder, ("input_features",), ("last_hidden_state",)),
        {"input_features": normal(1, 20, 60)},
    ),
    Architecture("Whisper decoder step", _WhisperDecoder, {"input_ids": ids(1, 5), "states": normal(1, 30, 32)}),
    _wave("wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForCTC", "logits"),
    _wave("HuBERT", "HubertConfig", "HubertForCTC", "logits"),
]
