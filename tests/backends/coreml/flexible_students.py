"""Three students whose users want sizes open: a text encoder, an image classifier in batches, an audio network of any length."""

from __future__ import annotations

import torch
from torch import nn

from edgepack.student.program import Student
from edgepack.student.spec import TensorSpec


class Encoder(nn.Module):
    """One layer of BERT: token and position tables, attention under a mask, and a classifier of the first token."""

    def __init__(self, words: int = 60, width: int = 24, heads: int = 3, longest: int = 64) -> None:
        super().__init__()
        self.words, self.places, self.heads = nn.Embedding(words, width), nn.Embedding(longest, width), heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.decide = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Linear(width, 4)
        self.first, self.second, self.third = (nn.LayerNorm(width) for _ in range(3))
        self.register_buffer("order", torch.arange(longest).unsqueeze(0))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, length = ids.shape
        x = self.first(self.words(ids) + self.places(self.order[:, :length]))
        hidden = (mask[:, None, None, :] == 0).to(x.dtype) * -10000.0
        query, key, value = (made(x).view(batch, length, self.heads, -1).transpose(1, 2) for made in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5 + hidden, -1)
        x = self.second(x + self.out((weights @ value).transpose(1, 2).reshape(batch, length, -1)))
        x = self.third(x + self.down(nn.functional.gelu(self.up(x))))
        return x, self.decide(x[:, 0])


class Images(nn.Module):
    """Convolutions with a stride and by channel, a pool, and a classifier of all that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(8, 16, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.body(image)
        return self.head(x + self.deep(x))


class Sound(nn.Module):
    """Strided convolutions of a wave, group normalization, a dilated layer, and a classifier beside a wave half as fine."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 8, 9, 4, 4), nn.ReLU(), nn.Conv1d(8, 16, 5, 2, 2), nn.GroupNorm(4, 16), nn.SiLU())
        self.wide, self.finer, self.decide = (
            nn.Conv1d(16, 16, 3, padding=2, dilation=2),
            nn.ConvTranspose1d(16, 4, 4, 2, 1),
            nn.Linear(16, 5),
        )

    def forward(self, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(wave)
        x = x + self.wide(x)
        return self.decide(x.mean(-1)), self.finer(x)


def encoder() -> Student:
    """Sequences of 1 to 64 tokens, one at a time."""
    torch.manual_seed(0)
    inputs = [TensorSpec(name, "int64", (1, "sequence")) for name in ("ids", "mask")]
    example = (torch.randint(0, 8, (1, 16)), torch.ones(1, 16, dtype=torch.int64))
    return Student(Encoder().eval(), example, name="encoder", inputs=inputs, sizes={"sequence": (1, 64)})


def encoder_in_batches() -> Student:
    """The same with 1 to 6 sequences at a time."""
    torch.manual_seed(0)
    inputs = [TensorSpec(name, "int64", ("batch", "sequence")) for name in ("ids", "mask")]
    example = (torch.randint(0, 8, (2, 16)), torch.ones(2, 16, dtype=torch.int64))
    return Student(Encoder().eval(), example, name="encoder", inputs=inputs, sizes={"batch": (1, 6), "sequence": (1, 64)})


def images() -> Student:
    """1 to 8 images at a time."""
    torch.manual_seed(0)
    inputs = [TensorSpec("image", "float32", ("batch", 3, 16, 16))]
    return Student(Images().eval(), (torch.randn(1, 3, 16, 16),), name="images", inputs=inputs, sizes={"batch": (1, 8)})


def sound() -> Student:
    """Waves of 100 to 3000 samples."""
    torch.manual_seed(0)
    inputs = [TensorSpec("wave", "float32", (1, 1, "length"))]
    return Student(Sound().eval(), (torch.randn(1, 1, 400),), name="sound", inputs=inputs, sizes={"length": (100, 3000)})
