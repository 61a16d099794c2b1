"""What an entry of the zoo is: a small module with random weights, an example that it is captured on, and a second input to judge it by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Feed = dict[str, NDArray[Any]]
Draw = Callable[[np.random.Generator], NDArray[Any]]


@dataclass(frozen=True)
class Made:
    """An architecture that was made.

    Attributes:
        module: takes the feed's arrays as tensors, in order, and gives a tensor or a tuple of tensors.
        feeds: two inputs; the model is captured on the first, so that what capture baked in shows on the second.
    """

    module: nn.Module
    feeds: tuple[Feed, Feed]


@dataclass(frozen=True)
class Architecture:
    """A network by name.

    Attributes:
        make: builds it; weights are drawn after ``torch.manual_seed``.
        inputs: how each input is drawn, by name, in the order of the module's parameters.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Mapping[str, Draw]

    def made(self) -> Made:
        """The network in evaluation mode, with weights that depend on the name alone."""
        seed = sum(map(ord, self.name))
        torch.manual_seed(seed)
        module = self.make().requires_grad_(False)
        feeds = [{name: draw(held) for name, draw in self.inputs.items()} for held in map(np.random.default_rng, (seed, seed + 1))]
        with torch.no_grad():
            _spread(module)
            _settle(module, [torch.from_numpy(array) for array in feeds[0].values()])
        return Made(module.eval(), (feeds[0], feeds[1]))


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def _spread(module: nn.Module) -> None:
    """Draw weights that keep the size of what passes (LeCun: deviation 1 / sqrt(inputs)): with the usual 0.02 signals die out in so narrow
    networks, and nothing can be told from what comes out."""
    for layer in (held for held in module.modules() if isinstance(held, _LAYERS)):
        inputs = layer.weight[0].numel() if not isinstance(layer, nn.ConvTranspose2d) else layer.weight[:, 0].numel()
        layer.weight.normal_(0, inputs**-0.5)


def _settle(module: nn.Module, example: list[torch.Tensor]) -> None:
    """Give batch normalizations what keeps the size of an example: its mean square, one for all channels, and no mean.

    With the statistics of their birth signals die out layer by layer. Statistics of each channel would cancel digits instead: where random
    kernels happen to take a signal away they leave its rounding errors, and both would be blown up again, layer by layer.
    """

    def measured(norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        (x,) = arguments
        norm.running_var = torch.full_like(norm.running_var, x.square().mean().item())
        norm.weight.fill_(1)

    norms = [held for held in module.modules() if isinstance(held, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(measured) for norm in norms]
    module.eval()(*example)
    for hook in hooks:
        hook.remove()


class Called(nn.Module):
    """A model of transformers as a function of positional tensors.

    Args:
        names: keywords that the tensors are given by.
        wanted: attributes of its answer that are the outputs.
        fixed: further keywords.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], wanted: tuple[str, ...], **fixed: Any) -> None:
        super().__init__()
        self.model, self._names, self._wanted, self._fixed = model, names, wanted, fixed

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer = self.model(**dict(zip(self._names, tensors, strict=True)), **self._fixed)
        return tuple(getattr(answer, name) for name in self._wanted)


def ids(*shape: int, below: int = 99) -> Draw:
    """Token numbers; 0 and 1 are kept for padding and the like."""
    return lambda random: random.integers(3, below, shape)


def ones(*shape: int) -> Draw:
    """A mask that hides nothing."""
    return lambda random: np.ones(shape, np.int64)


def tail_hidden(*shape: int, hidden: int = 3) -> Draw:
    """A mask over the last axis that hides its end, as padding is."""
    return lambda random: np.broadcast_to(np.arange(shape[-1]) < shape[-1] - hidden, shape).astype(np.int64)


def normal(*shape: int) -> Draw:
    """Reals of mean 0 and deviation 1."""
    return lambda random: random.standard_normal(shape).astype(np.float32)


def chosen(*values: float) -> Draw:
    """One of ``values``, float32, shape (1,)."""
    return lambda random: random.choice(np.asarray(values, np.float32), 1)
