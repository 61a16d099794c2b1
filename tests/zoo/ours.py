"""Networks written by hand from their papers: what transformers does not have."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.architecture import Architecture, chosen, ids, normal


class _Tagger(nn.Module):
    """Embedding, a bidirectional recurrent layer of ``kind``, and a score for each tag."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words = nn.Embedding(99, 16)
        self.cells = kind(16, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(48, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.tags(self.cells(self.words(tokens))[0])
        return scores


class _Causal(nn.Module):
    """Two dilated causal convolutions beside a shortcut: Bai, Kolter, Koltun, arXiv:1803.01271, figure 1."""

    def __init__(self, before: int, after: int, dilation: int) -> None:
        super().__init__()
        self._pad = 2 * dilation
        self.first = nn.Conv1d(before, after, 3, dilation=dilation)
        self.second = nn.Conv1d(after, after, 3, dilation=dilation)
        self.shortcut = nn.Conv1d(before, after, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = functional.relu(self.first(functional.pad(x, (self._pad, 0))))
        held = functional.relu(self.second(functional.pad(held, (self._pad, 0))))
        return functional.relu(held + self.shortcut(x))


class _HardSwishBlock(nn.Module):
    """Inverted residual with squeeze and excitation: Howard et al., arXiv:1905.02244, figure 4."""

    def __init__(self, before: int, middle: int, after: int, stride: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(before, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.Hardswish())
        depthwise = nn.Conv2d(middle, middle, 5, stride, 2, groups=middle, bias=False)
        self.deep = nn.Sequential(depthwise, nn.BatchNorm2d(middle), nn.Hardswish())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(middle, middle // 4, 1), nn.ReLU(), nn.Conv2d(middle // 4, middle, 1), nn.Hardsigmoid()
        )
        self.narrow = nn.Sequential(nn.Conv2d(middle, after, 1, bias=False), nn.BatchNorm2d(after))
        self._has_shortcut = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.deep(self.wide(x))
        held = self.narrow(held * self.gate(held))
        return held + x if self._has_shortcut else held


def _mobilenet_v3() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
    blocks = [_HardSwishBlock(16, 32, 16, 1), _HardSwishBlock(16, 48, 24, 2), _HardSwishBlock(24, 64, 24, 1)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 32), nn.Hardswish(), nn.Linear(32, 10))


def _waves(time: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of a time in [0, 1]: Vaswani et al., arXiv:1706.03762, section 3.5, as diffusion models use them."""
    rates = torch.exp(torch.arange(width // 2) * (-math.log(10000.0) / (width // 2)))
    angles = 1000 * time[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class _Residual(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the time added in between: Ho, Jain, Abbeel, arXiv:2006.11239, appendix B."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(4, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.time = nn.Linear(time, after)
        self.second = nn.Sequential(nn.GroupNorm(4, after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        held = self.first(x) + self.time(functional.silu(time))[:, :, None, None]
        return self.second(held) + self.shortcut(x)


class _UNet(nn.Module):
    """A denoiser: down, across, up, with shortcuts (Ronneberger et al., arXiv:1505.04597) and a time embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.enter, self.leave = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.down1, self.down2 = _Residual(16, 16, 32), _Residual(16, 32, 32)
        self.middle = _Residual(32, 32, 32)
        self.up2, self.up1 = _Residual(64, 16, 32), _Residual(32, 16, 32)
        self.shrink = nn.Conv2d(16, 16, 3, 2, 1)
        self.grow = nn.ConvTranspose2d(32, 32, 2, 2)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        held = self.time(_waves(time, 32))
        first = self.down1(self.enter(x), held)
        second = self.down2(self.shrink(first), held)
        up = self.up2(torch.cat([self.middle(second, held), second], 1), held)
        up = functional.interpolate(up, scale_factor=2, mode="nearest")
        grown = self.up1(torch.cat([up, first], 1), held)
        return torch.as_tensor(self.leave(grown))


class _DiTBlock(nn.Module):
    """A transformer block whose norms are shifted and scaled by the condition (adaLN-Zero): Peebles, Xie, arXiv:2212.09748, figure 3."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.first, self.second = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.joined, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.condition(condition)[:, None].chunk(6, 2)
        x = x + gate1 * self._attended(self.first(x) * (1 + scale1) + shift1)
        return torch.as_tensor(x + gate2 * self.wide(self.second(x) * (1 + scale2) + shift2))

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.joined(x).reshape(batch, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        held = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return torch.as_tensor(self.out(held))


class _DiT(nn.Module):
    """Patches, blocks, patches again."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(4, 32, 2, 2)
        self.places = nn.Parameter(torch.randn(1, 64, 32) / 8)
        self.time = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.labels = nn.Embedding(11, 32)
        self.blocks = nn.ModuleList([_DiTBlock(32, 4) for _ in range(2)])
        self.out = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        condition = self.time(_waves(time, 32)) + self.labels(label)
        for block in self.blocks:
            tokens = block(tokens, condition)
        grid = self.out(tokens).reshape(-1, 8, 8, 4, 2, 2)
        return torch.as_tensor(grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 16, 16))


class _LayerNorm2d(nn.LayerNorm):
    """Over channels of an image, as Segment Anything has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _MaskDecoder(nn.Module):
    """A prompt attends an image's features and back, upscaled features times its token are a mask: Kirillov et al., arXiv:2304.02643,
    figure 14, on the convolutional features of MobileSAM (arXiv:2306.14289)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), _LayerNorm2d(16), nn.GELU(), nn.Conv2d(16, 32, 3, 2, 1), _LayerNorm2d(32), nn.GELU()
        )
        self.register_buffer("rates", torch.randn(2, 16))
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.to_image, self.to_prompt = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.upscale = nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2), _LayerNorm2d(16), nn.GELU(), nn.ConvTranspose2d(16, 8, 2, 2))
        self.weights = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, image: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        features = self.features(image)
        batch, width, height, across = features.shape
        keys = features.flatten(2).transpose(1, 2)
        angles = 2 * math.pi * (point @ self.rates)
        prompt = torch.cat([self.token, torch.cat([angles.sin(), angles.cos()], -1)], 1)
        prompt = self.norm1(prompt + self.to_image(prompt, keys, keys, need_weights=False)[0])
        keys = self.norm2(keys + self.to_prompt(keys, prompt, prompt, need_weights=False)[0])
        upscaled = self.upscale(keys.transpose(1, 2).reshape(batch, width, height, across))
        mask = self.weights(prompt[:, 0])[:, None] @ upscaled.flatten(2)
        return torch.as_tensor(mask.reshape(batch, 1, 4 * height, 4 * across))


class _Generator(nn.Module):
    """A number of noise to an image by transposed convolutions: Radford, Metz, Chintala, arXiv:1511.06434, figure 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.layers(noise[:, :, None, None]))


def _tcn() -> nn.Module:
    return nn.Sequential(_Causal(4, 16, 1), _Causal(16, 16, 2), _Causal(16, 16, 4), nn.Conv1d(16, 3, 1))


ARCHITECTURES = [
    Architecture("LSTM tagger", lambda: _Tagger(nn.LSTM), {"tokens": ids(1, 10)}),
    Architecture("GRU tagger", lambda: _Tagger(nn.GRU), {"tokens": ids(1, 10)}),
    Architecture("TCN", _tcn, {"signal": normal(1, 4, 40)}),
    Architecture("MobileNetV3", _mobilenet_v3, {"image": normal(1, 3, 64, 64)}),
    Architecture("U-Net with time", _UNet, {"image": normal(1, 1, 16, 16), "time": chosen(0.1, 0.35, 0.8)}),
    Architecture("DiT", _DiT, {"latent": normal(1, 4, 16, 16), "time": chosen(0.1, 0.35, 0.8), "label": ids(1, below=10)}),
    Architecture("MobileSAM-like", _MaskDecoder, {"image": normal(1, 3, 32, 32), "point": normal(1, 1, 2)}),
    Architecture("DCGAN", _Generator, {"noise": normal(1, 16)}),
]
