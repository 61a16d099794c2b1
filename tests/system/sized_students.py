"""Students with open sizes: an encoder over a sequence, an image network over a batch, a network over sound of any length."""

import torch
from torch import nn

from edgepack import Student, TensorSpec

WORDS, WIDTH, HEADS, LONGEST = 50, 16, 2, 128


class Layer(nn.Module):
    """One layer of BERT over (n, t, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm, self.last_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        heads = (each(x).reshape(batch, length, HEADS, -1).transpose(1, 2) for each in (self.query, self.key, self.value))
        query, key, value = heads
        weights = (query @ key.transpose(-1, -2) * (WIDTH / HEADS) ** -0.5 + mask).softmax(-1)
        x = self.norm(x + self.out((weights @ value).transpose(1, 2).reshape(batch, length, WIDTH)))
        return self.last_norm(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Encoder(nn.Module):
    """Ids and mask (1, t) to scores (1, 3), the vector of the first word, and positions from a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.norm, self.layers, self.head = nn.LayerNorm(WIDTH), nn.ModuleList([Layer(), Layer()]), nn.Linear(WIDTH, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])[None]))
        hidden = (1.0 - mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            x = layer(x, hidden)
        return self.head(x[:, 0])


def encoder() -> Student:
    """int64 (1, 1..128)."""
    ids = torch.arange(12)[None] * 7 % WORDS
    inputs = [TensorSpec(name, shape=(1, "sequence")) for name in ("ids", "mask")]
    return Student(Encoder(), (ids, torch.ones_like(ids)), inputs, ["scores"], name="encoder", sizes={"sequence": (1, LONGEST)})


def images() -> Student:
    """float32 (1..8, 3, 12, 12) to scores (n, 4)."""
    torch.manual_seed(4)
    first, second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
    module = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4))
    inputs = [TensorSpec("image", shape=("batch", 3, 12, 12), layout="NCHW")]
    return Student(module, (torch.randn(1, 3, 12, 12),), inputs, ["scores"], name="images", sizes={"batch": (1, 8)})


class Sound(nn.Module):
    """(1, 1, t) to scores (1, 5) and one row of features for every 20 samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.features = nn.Sequential(
            nn.Conv1d(1, 6, 10, 5), nn.GELU(), nn.Conv1d(6, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, 1, 1), nn.ReLU()
        )
        self.head = nn.Linear(8, 5)

    def forward(self, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(wave)
        return self.head(features.mean(-1)), features


def sound() -> Student:
    """float32 (1, 1, 100..2000)."""
    inputs = [TensorSpec("wave", shape=(1, 1, "length"))]
    return Student(Sound(), (torch.randn(1, 1, 400),), inputs, ["scores", "features"], name="sound", sizes={"length": (100, 2000)})
