"""Silero VAD at 16 kHz as a module: is there speech in these 32 ms?

The network of the package ``silero-vad`` (MIT), layer by layer as its TorchScript model computes: the magnitudes of a short-time Fourier
transform whose waves are weights of a convolution, four convolutions, an LSTM cell that carries what was heard before, and a score.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import torch
from torch import nn
from torch.nn import functional

RATE = 16_000
# Samples that are new in a step, and those of the step before that are heard again.
STEP, CONTEXT = 512, 64
# Width of the LSTM cell, and of its state with it.
HIDDEN = 128
# Waves of a Fourier transform over 256 samples: 0 to 128 periods, the cosines first.
_WAVES, _WINDOW, _HOP = 129, 256, 128


class SileroVad(nn.Module):
    """float32 (1, 576) samples in -1..1 and the state (2, 1, 128) -> the probability of speech (1, 1) and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.Conv1d(1, 2 * _WAVES, _WINDOW, _HOP, bias=False)
        widths = [(_WAVES, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)]
        self.encoder = nn.ModuleList([nn.Conv1d(before, after, 3, stride, 1) for before, after, stride in widths])
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.score = nn.Conv1d(HIDDEN, 1, 1)

    def forward(self, audio: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        waves = self.transform(functional.pad(audio, (0, CONTEXT), "reflect")[:, None])
        heard = (waves[:, :_WAVES] ** 2 + waves[:, _WAVES:] ** 2).sqrt()
        for layer in self.encoder:
            heard = functional.relu(layer(heard))
        hidden, cell = self.cell(heard[:, :, 0], (state[0], state[1]))
        speech = torch.sigmoid(self.score(functional.relu(hidden)[:, :, None]))
        return speech[:, :, 0], torch.stack([hidden, cell])


def scripted() -> Any:
    """The package's own TorchScript model, both rates in one; its state is inside it (``reset_states``)."""
    return torch.jit.load(str(files("silero_vad.data") / "silero_vad.jit"), map_location="cpu").eval()


# Names in the TorchScript model, below its part for 16 kHz, and here.
_NAMES = {
    "stft.forward_basis_buffer": "transform.weight",
    **{f"encoder.{index}.reparam_conv.{kind}": f"encoder.{index}.{kind}" for index in range(4) for kind in ("weight", "bias")},
    **{f"decoder.rnn.{kind}_{part}": f"cell.{kind}_{part}" for kind in ("weight", "bias") for part in ("ih", "hh")},
    **{f"decoder.decoder.2.{kind}": f"score.{kind}" for kind in ("weight", "bias")},
}


def network() -> SileroVad:
    """The module with the package's weights, in evaluation mode."""
    held = scripted().state_dict()
    net = SileroVad()
    net.load_state_dict({ours: held[f"_model.{theirs}"].clone() for theirs, ours in _NAMES.items()})
    return net.eval()
