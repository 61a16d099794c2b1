"""Three networks at the size people ship, with random weights (time does not depend on them): what both sides convert.

The peers' environment imports this file too: it needs torch and transformers alone. ``students`` makes edgepack's students of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

# ruff: noqa: TID253 - this file exists to hold modules
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from edgepack import Student

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]


class _Encoder(nn.Module):
    """all-MiniLM-L6-v2's shape: BERT, 6 layers of 384, 12 heads."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        self.model = BertModel(BertConfig(**sizes, attn_implementation="eager"), add_pooling_layer=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state)


class _Gate(nn.Module):
    """Squeeze and excitation: Hu et al., arXiv:1709.01507, with the hard sigmoid of MobileNetV3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(8, width // 4 // 8 * 8)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, width, 1), nn.Hardsigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(x * self.layers(x))


def _convolved(before: int, after: int, kernel: int, stride: int, groups: int, activation: type[nn.Module] | None) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class _Bottleneck(nn.Module):
    """Inverted residual: Howard et al., arXiv:1905.02244, figure 4."""

    def __init__(self, before: int, kernel: int, wide: int, after: int, gated: bool, activation: type[nn.Module], stride: int) -> None:
        super().__init__()
        self._is_residual = stride == 1 and before == after
        first = [_convolved(before, wide, 1, 1, 1, activation)] if wide != before else []
        middle = [_convolved(wide, wide, kernel, stride, wide, activation), *([_Gate(wide)] if gated else [])]
        self.layers = nn.Sequential(*first, *middle, _convolved(wide, after, 1, 1, 1, None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.layers(x)
        return torch.as_tensor(held + x if self._is_residual else held)


# Kernel, expansion, width, squeeze and excitation, activation, stride: arXiv:1905.02244, table 2 (MobileNetV3-Small).
_R, _H = nn.ReLU, nn.Hardswish
_SMALL: list[tuple[int, int, int, bool, type[nn.Module], int]] = [
    (3, 16, 16, True, _R, 2),
    (3, 72, 24, False, _R, 2),
    (3, 88, 24, False, _R, 1),
    (5, 96, 40, True, _H, 2),
    (5, 240, 40, True, _H, 1),
    (5, 240, 40, True, _H, 1),
    (5, 120, 48, True, _H, 1),
    (5, 144, 48, True, _H, 1),
    (5, 288, 96, True, _H, 2),
    (5, 576, 96, True, _H, 1),
    (5, 576, 96, True, _H, 1),
]


def _mobilenet_v3() -> nn.Module:
    layers: list[nn.Module] = [_convolved(3, 16, 3, 2, 1, _H)]
    before = 16
    for kernel, wide, after, gated, activation, stride in _SMALL:
        layers.append(_Bottleneck(before, kernel, wide, after, gated, activation, stride))
        before = after
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers, _convolved(96, 576, 1, 1, 1, _H), *ends)


class _DiTBlock(nn.Module):
    """A block of DiT-S: Peebles, Xie, arXiv:2212.09748, figure 3 (adaLN-Zero), width 384, 6 heads."""

    def __init__(self, width: int = 384, heads: int = 6) -> None:
        super().__init__()
        self._heads = heads
        self.first, self.second = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.joined, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.condition(condition)[:, None].chunk(6, 2)
        batch, length, width = x.shape
        held = self.joined(self.first(x) * (1 + scale1) + shift1)
        q, k, v = held.reshape(batch, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + gate1 * self.out(attended)
        return torch.as_tensor(x + gate2 * self.wide(self.second(x) * (1 + scale2) + shift2))


def minilm() -> Made:
    """One sentence of 128 tokens."""
    return _Encoder(), (torch.full((1, 128), 1000), torch.ones(1, 128, dtype=torch.long))


def mobilenet_v3() -> Made:
    """One image of 224 pixels."""
    return _mobilenet_v3(), (torch.rand(1, 3, 224, 224),)


def dit_block() -> Made:
    """256 tokens, which is an image of 256 pixels at patches of 2 in a latent space of 32."""
    return _DiTBlock(), (torch.randn(1, 256, 384), torch.randn(1, 384))


MODULES: dict[str, Callable[[], Made]] = {"minilm": minilm, "mobilenet_v3": mobilenet_v3, "dit_block": dit_block}


def made(name: str) -> Made:
    """A module in evaluation mode and its example, the same on both sides."""
    torch.manual_seed(0)
    module, example = MODULES[name]()
    return module.eval().requires_grad_(False), example


def _student(name: str) -> Student:
    from edgepack import Student, TensorSpec

    module, example = made(name)
    inputs = [TensorSpec(f"input_{index}", layout="NCHW" if tensor.ndim == 4 else "") for index, tensor in enumerate(example)]
    return Student(module, example, inputs=inputs, name=name, licence="Apache-2.0")


def minilm_student() -> Student:
    """For ``edgepack build``."""
    return _student("minilm")


def mobilenet_v3_student() -> Student:
    """For ``edgepack build``."""
    return _student("mobilenet_v3")


def dit_block_student() -> Student:
    """For ``edgepack build``."""
    return _student("dit_block")
