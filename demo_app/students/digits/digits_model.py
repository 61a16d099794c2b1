"""The two networks of the digits demo: a teacher that is only needed for training, and the student that is exported.

Both map ``image``, float32 (N, 1, 28, 28) with values 0..1, to ``logits``, float32 (N, 10).
"""

from __future__ import annotations

from torch import Tensor, nn

CLASSES = 10


class ConvBlock(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU; "same" padding at stride 1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 convolution of each channel alone, then a 1x1 convolution across channels (Howard et al. 2017, MobileNet, fig. 2)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            ConvBlock(channels_in, channels_in, stride=stride, groups=channels_in),
            ConvBlock(channels_in, channels_out, kernel=1),
        )


class Residual(nn.Module):
    """``relu(x + bn(conv(x)))`` (He et al. 2016, ResNet, eq. 1, with one layer)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.norm(self.conv(x)))


class DigitsStudent(nn.Module):
    """The exported network: 12,330 weights, 0.67 M multiply-adds.

    Its average is over 7x7, an odd count, so that no sum of int8 codes lies exactly between two: runtimes agree on its rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 16)
        self.pool = nn.MaxPool2d(2)
        self.separable = DepthwiseSeparable(16, 32, stride=2)
        self.residual = Residual(32)
        self.expand = ConvBlock(32, 48, kernel=1)
        self.classify = nn.Linear(48, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.separable(self.pool(self.stem(image)))
        x = self.expand(self.residual(x))
        return self.classify(x.mean((2, 3)))


class DigitsTeacher(nn.Module):
    """The network that teaches: 186,922 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(1, 32, kernel=5, stride=2),
            ConvBlock(32, 64),
            nn.MaxPool2d(2),
            ConvBlock(64, 96),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(96 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.features(image))


def parameter_count(network: nn.Module) -> int:
    """Number of trained weights, without BatchNorm's running statistics."""
    return sum(weight.numel() for weight in network.parameters())
