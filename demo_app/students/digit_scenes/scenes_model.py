"""The two networks of the scenes demo: a teacher that is only needed for training, and the student that is exported.

Both map ``image``, float32 (N, 3, 96, 96) with values 0..1, to ``logits``, float32 (N, 11, 96, 96).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LABELS = ("background", *"0123456789")
CLASSES = len(LABELS)


class ConvBlock(nn.Sequential):
    """Convolution without bias, BatchNorm, activation; "same" padding at stride 1."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU6
    ) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
            act(),
        )


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 convolution of each channel alone, then a 1x1 convolution across channels (Howard et al. 2017, MobileNet, fig. 2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(ConvBlock(channels_in, channels_in, groups=channels_in), ConvBlock(channels_in, channels_out, kernel=1))


class SqueezeExcite(nn.Module):
    """Channels weighted by a hard-sigmoid of their means (Howard et al. 2019, MobileNetV3, section 5.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.expand(functional.relu(self.reduce(mean))))


class InvertedResidual(nn.Module):
    """Expand, 3x3 of each channel alone, squeeze and excite or not, project; added to its input where the shapes allow.

    Sandler et al. 2018, MobileNetV2, fig. 3, with MobileNetV3's hard-swish.
    """

    def __init__(self, channels_in: int, channels_out: int, expanded: int, stride: int = 1, excite: bool = False) -> None:
        super().__init__()
        self.skips = stride == 1 and channels_in == channels_out
        self.layers = nn.Sequential(
            ConvBlock(channels_in, expanded, kernel=1, act=nn.Hardswish),
            ConvBlock(expanded, expanded, stride=stride, groups=expanded, act=nn.Hardswish),
            SqueezeExcite(expanded) if excite else nn.Identity(),
            ConvBlock(expanded, channels_out, kernel=1, act=nn.Identity),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skips else self.layers(x)


class Merge(nn.Module):
    """The coarse map, bilinearly enlarged to twice, beside the encoder's fine one, mixed by a block (Ronneberger et al. 2015, U-Net)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        larger = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.block(torch.cat([larger, fine], dim=1))


class ScenesNetwork(nn.Module):
    """A MobileNet-like encoder from 96x96 down to 12x12, and a decoder with two skips back to full size.

    Args:
        width: channels of the four stages, from the stem to the coarsest.
        blocks: inverted residuals at 12x12 after the one that gets there.
    """

    def __init__(self, width: tuple[int, int, int, int], blocks: int) -> None:
        super().__init__()
        stem, fine, middle, coarse = width
        self.stem = ConvBlock(3, stem, stride=2)
        self.fine = DepthwiseSeparable(stem, fine)
        self.middle = InvertedResidual(fine, middle, 3 * fine, stride=2)
        self.coarse = nn.Sequential(
            InvertedResidual(middle, coarse, 3 * middle, stride=2, excite=True),
            *(InvertedResidual(coarse, coarse, 3 * coarse) for _ in range(blocks)),
        )
        self.merge_middle = Merge(DepthwiseSeparable(coarse + middle, 2 * fine))
        self.merge_fine = Merge(DepthwiseSeparable(2 * fine + fine, 2 * stem))
        self.classify = nn.ConvTranspose2d(2 * stem, CLASSES, 4, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(self.stem(image))
        middle = self.middle(fine)
        x = self.merge_middle(self.coarse(middle), middle)
        return self.classify(self.merge_fine(x, fine))


class ScenesStudent(ScenesNetwork):
    """The exported network: 97,649 weights.

    Its squeeze-excite averages 12x12 pixels, an even count: sums of int8 codes may lie exactly between two, as in any network of this kind.
    """

    def __init__(self) -> None:
        super().__init__(width=(16, 24, 40, 64), blocks=2)


class ScenesTeacher(ScenesNetwork):
    """The network that teaches: half as wide again, twice as many blocks."""

    def __init__(self) -> None:
        super().__init__(width=(24, 36, 60, 96), blocks=4)


def parameter_count(network: nn.Module) -> int:
    """Number of trained weights, without BatchNorm's running statistics."""
    return sum(weight.numel() for weight in network.parameters())
